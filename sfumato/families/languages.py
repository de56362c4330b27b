"""What language models are, from shapes, and the networks that read them, and their settings: Lumina-Image 2, Z-Image.

As in shapes.py, which has the other networks, and settings.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import util
from typing import Any

import torch

from sfumato.errors import MissingExtra
from sfumato.families.shapes import Shapes, count
from sfumato.families.signatures import LANGUAGES
from sfumato.nn.language import Language, LanguageConfig
from sfumato.nn.lumina import LuminaConfig
from sfumato.nn.zimage import ZImageConfig


@dataclass(frozen=True, kw_only=True)
class Known:
    """A language model that transformers has; ``classes`` is how the names of its ``Config`` and ``Model`` begin.

    ``tokenizer`` is its tokenizer's class.

    ``head`` is how many values a head has in its published sizes, ``begin`` the token at the beginning of every text,
    None if there is none. ``usual`` are settings that neither shapes nor the classes' defaults tell.
    """

    classes: str
    tokenizer: str
    head: int
    begin: int | None = None
    usual: Mapping[str, Any] = field(default_factory=dict)


KNOWN = {
    "gemma2": Known(classes="Gemma2", tokenizer="GemmaTokenizerFast", head=256, begin=2),
    "qwen3": Known(classes="Qwen3", tokenizer="Qwen2Tokenizer", head=128, usual={"rope_theta": 1000000.0}),
}
"""The language models by the kind of their networks."""
SMALL = {"num_hidden_layers": 1, "vocab_size": 8, "intermediate_size": 8, "pad_token_id": 0}
"""The settings of a language model that has the tables of a large one and hardly any weights."""


def check_installed(kind: str) -> None:
    """MissingExtra if transformers is not there, which brings the language model of ``kind``."""
    if util.find_spec("transformers") is None:
        reads = f"reading prompts with a language model ({LANGUAGES[kind]})"
        raise MissingExtra("transformers", "transformers", reads)


def make_language(config: LanguageConfig) -> Language:
    """transformers' model of ``config``, to be filled; MissingExtra if transformers is not installed."""
    check_installed(config.kind)
    import transformers

    classes = KNOWN[config.kind].classes
    settings, network = (getattr(transformers, classes + last) for last in ("Config", "Model"))
    told = dict(config.told)
    model = network(settings.from_dict(told))
    told.pop("layer_types", None)
    with torch.device("cpu"):  # tables and scales are no weights, and no file has them
        small = network(settings.from_dict({**told, **SMALL}))
    for name, buffer in small.named_buffers():
        owner, _, last = name.rpartition(".")
        setattr(model.get_submodule(owner), last, buffer)
    return Language(config, model)


def language(shapes: Shapes, kind: str) -> LanguageConfig:
    """The language model of ``kind`` that ``shapes`` are; a folder's settings say the rest (checkpoint.refined)."""
    known = KNOWN[kind]
    prefix = "model." if "model.embed_tokens.weight" in shapes else ""
    vocabulary, width = shapes[prefix + "embed_tokens.weight"]
    block = prefix + "layers.0."
    layers = count(shapes, prefix + "layers.{}.")
    told = {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "intermediate_size": shapes[block + "mlp.gate_proj.weight"][0],
        "num_attention_heads": shapes[block + "self_attn.q_proj.weight"][0] // known.head,
        "num_key_value_heads": shapes[block + "self_attn.k_proj.weight"][0] // known.head,
        "head_dim": known.head,
        **known.usual,
    }
    return LanguageConfig(width=width, layers=layers, kind=kind, told=told, prefix=prefix)


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


def zimage(shapes: Shapes, layout: str) -> ZImageConfig:
    """The Z-Image of ``shapes``; a quarter of a head turns by the place in the text, the rest by row and column."""
    original = layout == "original"
    block = "layers.0."
    head = shapes[block + ("attention.q_norm.weight" if original else "attention.norm_q.weight")][0]
    width, inner = shapes["x_embedder.weight" if original else "all_x_embedder.2-1.weight"]
    return ZImageConfig(
        depth=count(shapes, "layers.{}."),
        refiners=count(shapes, "noise_refiner.{}."),
        width=width,
        heads=width // head,
        channels=inner // 4,
        tokens=shapes["cap_embedder.1.weight"][1],
        hidden=shapes[block + "feed_forward.w1.weight"][0],
        steer=shapes["t_embedder.mlp.2.weight"][0],
        clock=shapes["t_embedder.mlp.0.weight"][0],
        axes=(head // 4, 3 * head // 8, 3 * head // 8),
    )


@dataclass(frozen=True, kw_only=True)
class Whole:
    """A family whose networks circulate in one file too: the class of its ``pipeline`` and its ``shift`` in folders.

    ``reads`` is how the file calls its language model.
    """

    pipeline: str
    shift: float
    reads: str


WHOLE = {
    "lumina2": Whole(pipeline="Lumina2", shift=6.0, reads="gemma2_2b"),
    "z-image": Whole(pipeline="ZImage", shift=6.0, reads="qwen3_4b"),
    "z-image-turbo": Whole(pipeline="ZImage", shift=3.0, reads="qwen3_4b"),
}
"""These families by name; their autoencoder is FLUX.1's."""


def language_settings(config: LanguageConfig) -> dict[str, Any]:
    """The ``config.json`` of a language model of ``config``."""
    classes = KNOWN[config.kind].classes
    return {"architectures": [f"{classes}Model"], "model_type": config.kind, **config.told}


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


def zimage_settings(config: ZImageConfig) -> dict[str, Any]:
    """The same of a Z-Image; diffusers has no setting for the widths of perceptron and clock."""
    return {
        "_class_name": "ZImageTransformer2DModel",
        "all_patch_size": [2],
        "all_f_patch_size": [1],
        "in_channels": config.channels,
        "dim": config.width,
        "n_layers": config.depth,
        "n_refiner_layers": config.refiners,
        "n_heads": config.heads,
        "n_kv_heads": config.heads,
        "cap_feat_dim": config.tokens,
        "rope_theta": config.theta,
        "axes_dims": list(config.axes),
    }
