"""Names of the text encoders: ours, those of OpenCLIP, and those of transformers."""

from __future__ import annotations

from sfumato.nn.clip import ClipConfig
from sfumato.nn.t5 import T5Config
from sfumato.weights.keys import KeyTable

_CLIP = """
token.weight        token_embedding.weight          text_model.embeddings.token_embedding.weight
place.weight        positional_embedding            text_model.embeddings.position_embedding.weight
norm                ln_final                        text_model.final_layer_norm
projection.weight   text_projection : transpose     text_projection.weight
"""
_CLIP_BLOCK = """
norm1       ln_1                  layer_norm1
qkv.weight  attn.in_proj_weight   self_attn.[q_proj,k_proj,v_proj].weight
qkv.bias    attn.in_proj_bias     self_attn.[q_proj,k_proj,v_proj].bias
out         attn.out_proj         self_attn.out_proj
norm2       ln_2                  layer_norm2
up          mlp.c_fc              mlp.fc1
down        mlp.c_proj            mlp.fc2
"""
_T5 = """
token.weight         -  shared.weight
blocks.{i}.norm1     -  encoder.block.{i}.layer.0.layer_norm
blocks.{i}.q         -  encoder.block.{i}.layer.0.SelfAttention.q
blocks.{i}.k         -  encoder.block.{i}.layer.0.SelfAttention.k
blocks.{i}.v         -  encoder.block.{i}.layer.0.SelfAttention.v
blocks.{i}.out       -  encoder.block.{i}.layer.0.SelfAttention.o
blocks.{i}.places    -  encoder.block.{i}.layer.0.SelfAttention.relative_attention_bias
blocks.{i}.norm2     -  encoder.block.{i}.layer.1.layer_norm
blocks.{i}.gate      -  encoder.block.{i}.layer.1.DenseReluDense.wi_0
blocks.{i}.up        -  encoder.block.{i}.layer.1.DenseReluDense.wi_1
blocks.{i}.down      -  encoder.block.{i}.layer.1.DenseReluDense.wo
norm                 -  encoder.final_layer_norm
"""


def clip_table(config: ClipConfig, extra: int = 0) -> KeyTable:
    """The rows for a ClipText of ``config``: OpenCLIP's names as the original ones, and transformers'.

    A file may hold ``extra`` more blocks than the network reads (Stable Diffusion 2 uses the penultimate layer), and
    a projection that nothing reads; both are passed over.
    """
    blocks = range(config.layers, config.layers + extra)
    ignored = {
        "original": ["logit_scale", "attn_mask", *(f"transformer.resblocks.{i}.*" for i in blocks)],
        "diffusers": ["text_model.embeddings.position_ids", "logit_scale"],
    }
    if not config.projection:
        ignored["original"].append("text_projection")
        ignored["diffusers"].append("text_projection.weight")
    whole, block = KeyTable.parse(_CLIP, ignore=ignored), KeyTable.parse(_CLIP_BLOCK)
    for i in range(config.layers):
        whole += block.prefixed(
            f"blocks.{i}.", f"transformer.resblocks.{i}.", f"text_model.encoder.layers.{i}."
        )
    return whole


def t5_table(config: T5Config) -> KeyTable:
    """The rows for a T5Encoder of ``config``, by transformers' names; a decoder in the file is passed over."""
    return KeyTable.parse(
        _T5,
        {"i": config.layers},
        {
            "diffusers": [
                "encoder.embed_tokens.weight",
                "decoder.*",
                "lm_head.weight",
                "logit_scale",
                "spiece_model",
            ]
        },
    )
