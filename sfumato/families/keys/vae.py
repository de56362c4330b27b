"""Names of the autoencoders: ours, those of CompVis' latent-diffusion, and those of diffusers; and TAESD's."""

from __future__ import annotations

from collections.abc import Iterator

from sfumato.nn.tiny import TinyConfig
from sfumato.nn.vae import VaeConfig
from sfumato.weights.keys import KeyTable

Triple = tuple[str, str, str]

_BLOCK = (
    ("norm1", "norm1", "norm1"),
    ("conv1", "conv1", "conv1"),
    ("norm2", "norm2", "norm2"),
    ("conv2", "conv2", "conv2"),
    ("short", "nin_shortcut", "conv_shortcut"),
)
_MIDDLE = """
middle.look.norm           mid.attn_1.norm                      mid_block.attentions.0.group_norm
middle.look.attention.q    mid.attn_1.q : linear->conv          mid_block.attentions.0.to_q
middle.look.attention.k    mid.attn_1.k : linear->conv          mid_block.attentions.0.to_k
middle.look.attention.v    mid.attn_1.v : linear->conv          mid_block.attentions.0.to_v
middle.look.attention.out  mid.attn_1.proj_out : linear->conv   mid_block.attentions.0.to_out.0
enter                      conv_in                              conv_in
norm                       norm_out                             conv_norm_out
leave                      conv_out                             conv_out
"""


def table(config: VaeConfig) -> KeyTable:
    """The rows for a Vae of ``config``."""
    middle = KeyTable.parse(_MIDDLE)
    whole = KeyTable.of(_rows(config))
    for half in ("encoder.", "decoder."):
        whole += middle.prefixed(half, half, half)
    return whole


def _rows(config: VaeConfig) -> Iterator[Triple]:
    levels = len(config.widths)
    for half in ("encoder", "decoder"):
        for number, ours in enumerate(("before", "after")):
            yield from _block(
                f"{half}.middle.{ours}",
                f"{half}.mid.block_{number + 1}",
                f"{half}.mid_block.resnets.{number}",
            )
    at = 0
    for level in range(levels):
        for block in range(config.blocks):
            yield from _block(
                f"encoder.down.{at}",
                f"encoder.down.{level}.block.{block}",
                f"encoder.down_blocks.{level}.resnets.{block}",
            )
            at += 1
        if level < levels - 1:
            yield (
                f"encoder.down.{at}.conv",
                f"encoder.down.{level}.downsample.conv",
                f"encoder.down_blocks.{level}.downsamplers.0.conv",
            )
            at += 1
    at = 0
    for level in reversed(range(levels)):
        their = f"decoder.up_blocks.{levels - 1 - level}"
        for block in range(config.blocks + 1):
            yield from _block(
                f"decoder.up.{at}", f"decoder.up.{level}.block.{block}", f"{their}.resnets.{block}"
            )
            at += 1
        if level:
            yield f"decoder.up.{at}.conv", f"decoder.up.{level}.upsample.conv", f"{their}.upsamplers.0.conv"
            at += 1
    if config.quant:
        yield "into", "quant_conv", "quant_conv"
        yield "out_of", "post_quant_conv", "post_quant_conv"


def _block(ours: str, original: str, diffusers: str) -> Iterator[Triple]:
    for mine, first, second in _BLOCK:
        yield f"{ours}.{mine}", f"{original}.{first}", f"{diffusers}.{second}"


def tiny_table(config: TinyConfig) -> KeyTable:
    """The rows for a TinyVae of ``config``: TAESD's two files under ``encoder.`` and ``decoder.``, and diffusers'."""
    return KeyTable.of(_tiny(config))


def _tiny(config: TinyConfig) -> Iterator[Triple]:
    blocks = config.blocks
    at = 0

    def rows(ours: str, index: int, half: str, kind: str) -> Iterator[Triple]:
        # The author's decoder begins with a module that limits its input, which diffusers does not count.
        first, second = f"{half}.{index + (half == 'decoder')}", f"{half}.layers.{index}"
        if kind == "block":
            for k in range(3):
                yield f"{ours}.conv{k + 1}", f"{first}.conv.{2 * k}", f"{second}.conv.{2 * k}"
        else:
            yield f"{ours}{kind}", first, second

    kinds = [
        "",
        *(k for level, count in enumerate(blocks) for k in [""] * bool(level) + ["block"] * count),
        "",
    ]
    for at, kind in enumerate(kinds):
        yield from rows(f"down.{at}", at, "encoder", kind)
    yield from rows("enter", 0, "decoder", "")
    at, index = 0, 2
    for level, count in reversed(list(enumerate(blocks))):
        for _ in range(count):
            yield from rows(f"up.{at}", index, "decoder", "block")
            at, index = at + 1, index + 1
        if level:
            yield from rows(f"up.{at}", index + 1, "decoder", ".conv")
            at, index = at + 1, index + 2
    yield from rows("leave", index, "decoder", "")
