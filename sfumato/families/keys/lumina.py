"""Names of Lumina-Image 2 and Z-Image: ours, the authors', and diffusers'; and of language models: transformers'."""

from __future__ import annotations

from sfumato.nn.language import LanguageConfig
from sfumato.nn.lumina import LuminaConfig
from sfumato.nn.zimage import ZImageConfig
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


def lumina_table(config: LuminaConfig) -> KeyTable:
    """The rows for a Lumina of ``config``."""
    whole = KeyTable.parse(_ENDS, ignore={"original": [UNUSED]})
    each = config.heads // config.groups
    block = f"{_BLOCK}qkv attention.qkv attn.[to_q*{each},to_k,to_v]\n"
    return whole + _blocks(config, block + _PLAIN, block + _STEERED)


_ZIMAGE_ENDS = """
enter             x_embedder                            all_x_embedder.2-1
words_norm        cap_embedder.0                        cap_embedder.0
words             cap_embedder.1                        cap_embedder.1
clock.0           t_embedder.mlp.0                      t_embedder.mlp.0
clock.2           t_embedder.mlp.2                      t_embedder.mlp.2
no_word           cap_pad_token                         cap_pad_token
no_patch          x_pad_token                           x_pad_token
modulation        final_layer.adaLN_modulation.1        all_final_layer.2-1.adaLN_modulation.1
leave             final_layer.linear                    all_final_layer.2-1.linear
"""
_ZIMAGE_BLOCK = """
qkv               attention.qkv                         attention.to_[q,k,v]
q_norm            attention.q_norm                      attention.norm_q
k_norm            attention.k_norm                      attention.norm_k
out               attention.out                         attention.to_out.0
gate              feed_forward.w1                       feed_forward.w1
up                feed_forward.w3                       feed_forward.w3
down              feed_forward.w2                       feed_forward.w2
before            attention_norm1                       attention_norm1
after             attention_norm2                       attention_norm2
before_up         ffn_norm1                             ffn_norm1
after_down        ffn_norm2                             ffn_norm2
"""
_ZIMAGE_STEERED = """
modulation        adaLN_modulation.0                    adaLN_modulation.0
"""


def zimage_table(config: ZImageConfig) -> KeyTable:
    """The rows for a Z-Image of ``config``; what is called the authors' layout is that of the files in circulation."""
    whole = KeyTable.parse(_ZIMAGE_ENDS, ignore={"original": [UNUSED]})
    return whole + _blocks(config, _ZIMAGE_BLOCK, _ZIMAGE_BLOCK + _ZIMAGE_STEERED)


def _blocks(config: LuminaConfig | ZImageConfig, plain: str, steered: str) -> KeyTable:
    """The rows of all blocks: of text those of ``plain``, of pictures and of both those of ``steered``."""
    whole = KeyTable.of([])
    for ours, theirs, count, rows in (
        ("text", "context_refiner", config.refiners, plain),
        ("picture", "noise_refiner", config.refiners, steered),
        ("blocks", "layers", config.depth, steered),
    ):
        block = KeyTable.parse(rows)
        for i in range(count):
            whole += block.prefixed(f"{ours}.{i}.", f"{theirs}.{i}.", f"{theirs}.{i}.")
    return whole


HEAD = "lm_head.weight"
"""The matrix that makes words of a language model's states, which some files have beside it."""


def language_table(config: LanguageConfig) -> KeyTable:
    """The rows for a language model of ``config``: the names are transformers' own, in files of those with a head."""
    names = ("embed_tokens", "norm", *(f"layers.{i}" for i in range(config.layers)))
    rows = [(f"model.{name}", f"model.{name}", config.prefix + name) for name in names]
    return KeyTable.of(rows, ignore={layout: [HEAD] for layout in LAYOUTS})
