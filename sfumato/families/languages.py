"""What networks that read a language model are, from shapes, and their settings: Lumina-Image 2 and Gemma 2.

As in shapes.py, which has the other networks, and settings.py.
"""

from __future__ import annotations

from importlib import util
from typing import Any

import torch

from sfumato.errors import MissingExtra
from sfumato.families.shapes import Shapes, count
from sfumato.nn.language import Language, LanguageConfig
from sfumato.nn.lumina import LuminaConfig

HEAD = 256
"""How many values a head of Gemma 2 has in its sizes of 2 and 9 billion parameters."""
SMALL = {"num_hidden_layers": 1, "vocab_size": 8, "intermediate_size": 8, "pad_token_id": 0}
"""The settings of a Gemma 2 that has the tables of a large one and hardly any weights."""


def check_installed() -> None:
    """MissingExtra if transformers is not there."""
    if util.find_spec("transformers") is None:
        raise MissingExtra("transformers", "transformers", "reading prompts with a language model (Gemma 2)")


def make_gemma2(config: LanguageConfig) -> Language:
    """transformers' Gemma 2 of ``config``, to be filled; MissingExtra if transformers is not installed."""
    check_installed()
    from transformers import Gemma2Config, Gemma2Model

    told = dict(config.told)
    model = Gemma2Model(Gemma2Config.from_dict(told))
    told.pop("layer_types", None)
    with torch.device("cpu"):  # tables and scales are no weights, and no file has them
        small = Gemma2Model(Gemma2Config.from_dict({**told, **SMALL}))
    for name, buffer in small.named_buffers():
        owner, _, last = name.rpartition(".")
        setattr(model.get_submodule(owner), last, buffer)
    return Language(config, model)


def lumina(shapes: Shapes, layout: str) -> LuminaConfig:
    """The transformer of ``shapes``; the axes of positions are three equal ones."""
    original = layout == "original"
    block = "layers.0."
    head = shapes[block + ("attention.q_norm.weight" if original else "attn.norm_q.weight")][0]
    width, inner = shapes["x_embedder.weight"]
    heads = width // head
    if original:
        groups = (shapes[block + "attention.qkv.weight"][0] // head - heads) // 2
    else:
        groups = shapes[block + "attn.to_k.weight"][0] // head
    words = "cap_embedder.1.weight" if original else "time_caption_embed.caption_embedder.1.weight"
    leave = "final_layer.linear.weight" if original else "norm_out.linear_2.weight"
    up = "feed_forward.w1.weight" if original else "feed_forward.linear_1.weight"
    return LuminaConfig(
        depth=count(shapes, "layers.{}."),
        refiners=count(shapes, "noise_refiner.{}."),
        width=width,
        heads=heads,
        groups=groups,
        channels=inner // 4,
        outer=shapes[leave][0] // 4,
        tokens=shapes[words][1],
        hidden=shapes[block + up][0],
        axes=(head // 3,) * 3,
    )


def gemma2(shapes: Shapes, layout: str) -> LanguageConfig:
    """The Gemma 2 of ``shapes``, with heads of 256 values; a folder's settings say the rest (checkpoint.refined)."""
    prefix = "model." if "model.embed_tokens.weight" in shapes else ""
    vocabulary, width = shapes[prefix + "embed_tokens.weight"]
    block = prefix + "layers.0."
    layers = count(shapes, prefix + "layers.{}.")
    told = {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "intermediate_size": shapes[block + "mlp.gate_proj.weight"][0],
        "num_attention_heads": shapes[block + "self_attn.q_proj.weight"][0] // HEAD,
        "num_key_value_heads": shapes[block + "self_attn.k_proj.weight"][0] // HEAD,
        "head_dim": HEAD,
    }
    return LanguageConfig(width=width, layers=layers, told=told, prefix=prefix)


def lumina_settings(config: LuminaConfig) -> dict[str, Any]:
    """The ``config.json`` of a transformer of ``config`` in diffusers' layout."""
    return {
        "_class_name": "Lumina2Transformer2DModel",
        "in_channels": config.channels,
        "out_channels": config.outer,
        "hidden_size": config.width,
        "num_layers": config.depth,
        "num_refiner_layers": config.refiners,
        "num_attention_heads": config.heads,
        "num_kv_heads": config.groups,
        # diffusers computes the perceptron's width as 4 times this one, rounded up to a multiple
        "multiple_of": config.hidden,
        "ffn_dim_multiplier": 0.25 * config.hidden / config.width,
        "axes_dim_rope": list(config.axes),
        "cap_feat_dim": config.tokens,
    }
