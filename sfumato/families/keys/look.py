"""Names of networks that make tokens of pictures: SigLIP's are transformers', Redux's are its authors' everywhere."""

from __future__ import annotations

from sfumato.nn.look import ReduxConfig, SiglipConfig
from sfumato.weights.keys import KeyTable

_SIGLIP = """
patch               -  vision_model.embeddings.patch_embedding
place.weight        -  vision_model.embeddings.position_embedding.weight
blocks.{i}.norm1    -  vision_model.encoder.layers.{i}.layer_norm1
blocks.{i}.qkv      -  vision_model.encoder.layers.{i}.self_attn.[q_proj,k_proj,v_proj]
blocks.{i}.out      -  vision_model.encoder.layers.{i}.self_attn.out_proj
blocks.{i}.norm2    -  vision_model.encoder.layers.{i}.layer_norm2
blocks.{i}.up       -  vision_model.encoder.layers.{i}.mlp.fc1
blocks.{i}.down     -  vision_model.encoder.layers.{i}.mlp.fc2
norm                -  vision_model.post_layernorm
"""
_REDUX = """
up      redux_up      redux_up
down    redux_down    redux_down
"""


def siglip_table(config: SiglipConfig) -> KeyTable:
    """The rows for a Siglip of ``config``; the pooling head, and the text tower of a whole SigLIP, are passed over."""
    unused = ["vision_model.head.*", "*.position_ids", "text_model.*", "logit_scale", "logit_bias"]
    return KeyTable.parse(_SIGLIP, {"i": config.layers}, {"diffusers": unused})


def redux_table(config: ReduxConfig) -> KeyTable:
    """The rows for a Redux."""
    return KeyTable.parse(_REDUX)
