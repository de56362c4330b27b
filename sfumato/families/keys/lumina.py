"""Names of Lumina-Image 2: ours, the authors', and diffusers'; and of language models, which have transformers'."""

from __future__ import annotations

from sfumato.nn.language import LanguageConfig
from sfumato.nn.lumina import LuminaConfig
from sfumato.weights.keys import LAYOUTS, KeyTable

_ENDS = """
enter             x_embedder                            x_embedder
words_norm        cap_embedder.0                        time_caption_embed.caption_embedder.0
words             cap_embedder.1                        time_caption_embed.caption_embedder.1
clock.first       t_embedder.mlp.0                      time_caption_embed.timestep_embedder.linear_1
clock.second      t_embedder.mlp.2                      time_caption_embed.timestep_embedder.linear_2
modulation        final_layer.adaLN_modulation.1        norm_out.linear_1
leave             final_layer.linear                    norm_out.linear_2
"""
_BLOCK = """
q_norm            attention.q_norm                      attn.norm_q
k_norm            attention.k_norm                      attn.norm_k
out               attention.out                         attn.to_out.0
gate              feed_forward.w1                       feed_forward.linear_1
up                feed_forward.w3                       feed_forward.linear_3
down              feed_forward.w2                       feed_forward.linear_2
after             attention_norm2                       norm2
before_up         ffn_norm1                             ffn_norm1
after_down        ffn_norm2                             ffn_norm2
"""
_STEERED = """
modulation        adaLN_modulation.1                    norm1.linear
before            attention_norm1                       norm1.norm
"""
_PLAIN = """
before            attention_norm1                       norm1
"""
UNUSED = "norm_final.weight"
"""A norm in the authors' file that nothing reads."""

HEAD = "lm_head.weight"
"""The matrix that makes words of a language model's states, which some files have beside it."""


def lumina_table(config: LuminaConfig) -> KeyTable:
    """The rows for a Lumina of ``config``."""
    whole = KeyTable.parse(_ENDS, ignore={"original": [UNUSED]})
    each = config.heads // config.groups
    look = KeyTable.of([("qkv", "attention.qkv", f"attn.[to_q*{each},to_k,to_v]")])
    block = look + KeyTable.parse(_BLOCK)
    for ours, theirs, count, more in (
        ("text", "context_refiner", config.refiners, _PLAIN),
        ("picture", "noise_refiner", config.refiners, _STEERED),
        ("blocks", "layers", config.depth, _STEERED),
    ):
        for i in range(count):
            whole += (block + KeyTable.parse(more)).prefixed(
                f"{ours}.{i}.", f"{theirs}.{i}.", f"{theirs}.{i}."
            )
    return whole


def language_table(config: LanguageConfig) -> KeyTable:
    """The rows for a language model of ``config``: the names are transformers' own."""
    names = ("embed_tokens", "norm", *(f"layers.{i}" for i in range(config.layers)))
    rows = [(f"model.{name}", config.prefix + name, config.prefix + name) for name in names]
    return KeyTable.of(rows, ignore={layout: [HEAD] for layout in LAYOUTS})
