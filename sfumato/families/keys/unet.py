"""Names of Stable Diffusion's U-Nets: ours, those of CompVis' latent-diffusion, and those of diffusers."""

from __future__ import annotations

from collections.abc import Iterator

from sfumato.nn.unet import UNetConfig, depths
from sfumato.weights.keys import KeyTable

Triple = tuple[str, str, str]

BLOCK = (
    ("norm1", "in_layers.0", "norm1"),
    ("conv1", "in_layers.2", "conv1"),
    ("clock", "emb_layers.1", "time_emb_proj"),
    ("norm2", "out_layers.0", "norm2"),
    ("conv2", "out_layers.3", "conv2"),
    ("short", "skip_connection", "conv_shortcut"),
)
"""A residual block's parts, in all layouts."""
_LAYER = (
    ("norm1", "norm1"),
    ("self_attention.q", "attn1.to_q"),
    ("self_attention.k", "attn1.to_k"),
    ("self_attention.v", "attn1.to_v"),
    ("self_attention.out", "attn1.to_out.0"),
    ("norm2", "norm2"),
    ("text_attention.q", "attn2.to_q"),
    ("text_attention.k", "attn2.to_k"),
    ("text_attention.v", "attn2.to_v"),
    ("text_attention.out", "attn2.to_out.0"),
    ("norm3", "norm3"),
    ("mlp.enter", "ff.net.0.proj"),
    ("mlp.leave", "ff.net.2"),
)


def table(config: UNetConfig, *, linear: bool) -> KeyTable:
    """The rows for a U-Net of ``config``; ``linear`` is whether its transformers' ends are stored as matrices.

    (They are convolutions of kernel 1 in Stable Diffusion 1, matrices in 2 and XL; ours are matrices always.)
    """
    return KeyTable.of(_rows(config, "" if linear else " : linear->conv"))


def _rows(config: UNetConfig, ends: str) -> Iterator[Triple]:
    yield "clock.first", "time_embed.0", "time_embedding.linear_1"
    yield "clock.second", "time_embed.2", "time_embedding.linear_2"
    yield "enter", "input_blocks.0.0", "conv_in"
    if config.vector:
        yield "vector.first", "label_emb.0.0", "add_embedding.linear_1"
        yield "vector.second", "label_emb.0.2", "add_embedding.linear_2"
    if config.classes:
        yield "label", "label_emb", "class_embedding"
    levels = len(config.widths)
    attention = config.attention or ("none",) * levels
    downs, ups = iter(depths(config, config.downs)), iter(depths(config, config.ups, up=True))
    at = 0
    for level in range(levels):
        for block in range(config.blocks):
            their = f"down_blocks.{level}"
            yield from _block(f"down.{at}", f"input_blocks.{at + 1}.0", f"{their}.resnets.{block}")
            layers = next(downs)
            if attention[level] != "none":
                here = (f"down.{at}.look", f"input_blocks.{at + 1}.1", f"{their}.attentions.{block}")
                yield from _look(here, layers, ends)
            at += 1
        if level < levels - 1:
            yield f"down.{at}.conv", f"input_blocks.{at + 1}.0.op", f"down_blocks.{level}.downsamplers.0.conv"
            at += 1
    yield from _block("middle", "middle_block.0", "mid_block.resnets.0")
    if not config.short_middle:
        here = ("middle.look", "middle_block.1", "mid_block.attentions.0")
        yield from _look(here, config.middle_depth, ends)
        yield from _block("after", "middle_block.2", "mid_block.resnets.1")
    at = number = 0
    for level in reversed(range(levels)):
        their = f"up_blocks.{levels - 1 - level}"
        for block in range(config.blocks + 1):
            yield from _block(f"up.{at}", f"output_blocks.{number}.0", f"{their}.resnets.{block}")
            layers = next(ups)
            if attention[level] != "none":
                here = (f"up.{at}.look", f"output_blocks.{number}.1", f"{their}.attentions.{block}")
                yield from _look(here, layers, ends)
            at, number = at + 1, number + 1
        if level:
            place = 1 if attention[level] == "none" else 2
            yield f"up.{at}.conv", f"output_blocks.{number - 1}.{place}.conv", f"{their}.upsamplers.0.conv"
            at += 1
    yield "norm", "out.0", "conv_norm_out"
    yield "leave", "out.2", "conv_out"


def _block(ours: str, original: str, diffusers: str) -> Iterator[Triple]:
    for mine, first, second in BLOCK:
        yield f"{ours}.block.{mine}", f"{original}.{first}", f"{diffusers}.{second}"


def _look(here: Triple, depth: int, ends: str) -> Iterator[Triple]:
    ours, original, diffusers = here
    yield f"{ours}.norm", f"{original}.norm", f"{diffusers}.norm"
    yield f"{ours}.enter", f"{original}.proj_in{ends}", f"{diffusers}.proj_in{ends}"
    for layer in range(depth):
        for mine, theirs in _LAYER:
            inner = f"transformer_blocks.{layer}.{theirs}"
            yield f"{ours}.blocks.{layer}.{mine}", f"{original}.{inner}", f"{diffusers}.{inner}"
    yield f"{ours}.leave", f"{original}.proj_out{ends}", f"{diffusers}.proj_out{ends}"
