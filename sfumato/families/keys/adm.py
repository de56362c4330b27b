"""Names of the U-Nets on pixels: ours, and those of diffusers' UNet2DModel."""

from __future__ import annotations

from collections.abc import Iterator

from sfumato.nn.adm import PixelConfig
from sfumato.weights.keys import KeyTable

_BLOCK = (
    ("norm1", "norm1"),
    ("conv1", "conv1"),
    ("clock", "time_emb_proj"),
    ("norm2", "norm2"),
    ("conv2", "conv2"),
    ("short", "conv_shortcut"),
)
_LOOK = (
    ("norm", "group_norm"),
    ("attention.q", "to_q"),
    ("attention.k", "to_k"),
    ("attention.v", "to_v"),
    ("attention.out", "to_out.0"),
)


def pixel_table(config: PixelConfig) -> KeyTable:
    """The rows for a PixelUNet of ``config``; there is no other layout here than diffusers'."""
    return KeyTable.of((ours, "-", theirs) for ours, theirs in _rows(config))


def _rows(config: PixelConfig) -> Iterator[tuple[str, str]]:
    yield "clock.first", "time_embedding.linear_1"
    yield "clock.second", "time_embedding.linear_2"
    if config.classes:
        yield "label", "class_embedding"
    yield "enter", "conv_in"
    levels, at = len(config.widths), 0
    for level in range(levels):
        their = f"down_blocks.{level}"
        for block in range(config.blocks):
            yield from _stage(f"down.{at}", their, block, config.attention[level])
            at += 1
        if level < levels - 1:
            yield from _resized(f"down.{at}", f"{their}.downsamplers.0", config.halve[level])
            at += 1
    yield from _stage("middle", "mid_block", 0, config.middle)
    yield from _stage("after", "mid_block", 1, False)
    at = 0
    for level in reversed(range(levels)):
        their = f"up_blocks.{levels - 1 - level}"
        for block in range(config.blocks + 1):
            yield from _stage(f"up.{at}", their, block, config.attention[level])
            at += 1
        if level:
            yield from _resized(f"up.{at}", f"{their}.upsamplers.0", config.double[level - 1])
            at += 1
    yield "norm", "conv_norm_out"
    yield "leave", "conv_out"


def _stage(ours: str, theirs: str, block: int, looks: bool) -> Iterator[tuple[str, str]]:
    for mine, its in _BLOCK:
        yield f"{ours}.block.{mine}", f"{theirs}.resnets.{block}.{its}"
    if looks:
        for mine, its in _LOOK:
            yield f"{ours}.look.{mine}", f"{theirs}.attentions.{block}.{its}"


def _resized(ours: str, theirs: str, inside: bool) -> Iterator[tuple[str, str]]:
    if inside:
        for mine, its in _BLOCK[:-1]:
            yield f"{ours}.{mine}", f"{theirs}.{its}"
    else:
        yield f"{ours}.conv", f"{theirs}.conv"
