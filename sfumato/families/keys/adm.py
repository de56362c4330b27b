"""Names of the U-Nets on pixels: ours, OpenAI's (improved- and guided-diffusion's), and diffusers' UNet2DModel's."""

from __future__ import annotations

from collections.abc import Iterator

from sfumato.families.keys.unet import BLOCK, Triple
from sfumato.nn.adm import PixelConfig
from sfumato.nn.noised import ClassifierConfig
from sfumato.weights.keys import KeyTable


def pixel_table(config: PixelConfig) -> KeyTable:
    """The rows for a PixelUNet of ``config``."""
    return KeyTable.of(_rows(config))


def classifier_table(config: ClassifierConfig) -> KeyTable:
    """The rows for a PixelClassifier of ``config``, which diffusers has no class for."""
    pool = (
        ("norm", "out.0", "-"),
        ("pool.places", "out.2.positional_embedding", "-"),
        ("pool.[q,k,v]", "out.2.qkv_proj : linear->line", "-"),
        ("pool.out", "out.2.c_proj : linear->line", "-"),
    )
    return KeyTable.of((*((ours, original, "-") for ours, original, _ in _descent(config)), *pool))


def _rows(config: PixelConfig) -> Iterator[Triple]:
    yield from _descent(config)
    yield from _up(config)
    yield "norm", "out.0", "conv_norm_out"
    yield "leave", "out.2", "conv_out"


def _descent(config: PixelConfig) -> Iterator[Triple]:
    """Clock, class, the way down and the middle."""
    yield "clock.first", "time_embed.0", "time_embedding.linear_1"
    yield "clock.second", "time_embed.2", "time_embedding.linear_2"
    if config.classes:
        yield "label", "label_emb", "class_embedding"
    yield "enter", "input_blocks.0.0", "conv_in"
    levels, at = len(config.widths), 0
    for level, width in enumerate(config.widths):
        their = f"down_blocks.{level}"
        for block in range(config.blocks):
            name = f"input_blocks.{at + 1}"
            yield from _block(f"down.{at}.block", f"{name}.0", f"{their}.resnets.{block}")
            if config.attention[level]:
                yield from _look(config, width, f"down.{at}.look", f"{name}.1", f"{their}.attentions.{block}")
            at += 1
        if level < levels - 1:
            yield from _resized(
                f"down.{at}",
                f"input_blocks.{at + 1}.0",
                "op",
                f"{their}.downsamplers.0",
                config.halve[level],
            )
            at += 1
    yield from _block("middle.block", "middle_block.0", "mid_block.resnets.0")
    if config.middle:
        yield from _look(config, config.widths[-1], "middle.look", "middle_block.1", "mid_block.attentions.0")
    yield from _block("after.block", "middle_block.2", "mid_block.resnets.1")


def _up(config: PixelConfig) -> Iterator[Triple]:
    """The way up: OpenAI's last stage of a level also doubles the sides, ours and diffusers' stands by itself."""
    levels, at, stage = len(config.widths), 0, 0
    for level in reversed(range(levels)):
        their = f"up_blocks.{levels - 1 - level}"
        for block in range(config.blocks + 1):
            name = f"output_blocks.{stage}"
            yield from _block(f"up.{at}.block", f"{name}.0", f"{their}.resnets.{block}")
            if config.attention[level]:
                look = f"{their}.attentions.{block}"
                yield from _look(config, config.widths[level], f"up.{at}.look", f"{name}.1", look)
            at, stage = at + 1, stage + 1
        if level:
            last = f"output_blocks.{stage - 1}.{1 + config.attention[level]}"
            yield from _resized(f"up.{at}", last, "conv", f"{their}.upsamplers.0", config.double[level - 1])
            at += 1


def _block(ours: str, original: str, theirs: str, short: bool = True) -> Iterator[Triple]:
    for mine, its, other in BLOCK if short else BLOCK[:-1]:
        yield f"{ours}.{mine}", f"{original}.{its}", f"{theirs}.{other}"


def _look(config: PixelConfig, width: int, ours: str, original: str, theirs: str) -> Iterator[Triple]:
    """Attention over ``width`` channels, whose queries, keys and values are one tensor of OpenAI's."""
    yield f"{ours}.norm", f"{original}.norm", f"{theirs}.group_norm"
    yield (
        f"{ours}.attention.[q,k,v]",
        f"{original}.qkv{turns(config, width)} : linear->line",
        f"{theirs}.[to_q,to_k,to_v]",
    )
    yield f"{ours}.attention.out", f"{original}.proj_out : linear->line", f"{theirs}.to_out.0"


def turns(config: PixelConfig, width: int) -> str:
    """How queries, keys and values of ``width`` channels take turns in one tensor, as a key table writes it."""
    rounds = {"parts": 1, "heads": config.heads_of(width), "values": width}[config.fused]
    return f"/{rounds}" if rounds > 1 else ""


def _resized(ours: str, original: str, conv: str, theirs: str, inside: bool) -> Iterator[Triple]:
    if inside:
        yield from _block(ours, original, theirs, short=False)
    else:
        yield f"{ours}.conv", f"{original}.{conv}", f"{theirs}.conv"
