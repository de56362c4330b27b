"""What SANA and DC-AE are, from shapes and from the settings beside the weights, and these settings written.

As in shapes.py, which has the other networks, and settings.py.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sfumato.families.shapes import Shapes, count
from sfumato.nn.dcae import ACTIVATIONS, DcaeConfig, DcaeHalf
from sfumato.nn.sana import SanaConfig

HEAD, TEXT_HEADS = 32, (112, 72)
"""How many values a head of linear attention has, and one that reads text: the first number that divides the width."""
PLACED = 64
"""From this side of latents on the published networks have positions, on a square of this extent (2048 pixels)."""
SCALE = 0.41407
"""What SANA multiplies DC-AE's latent by."""
LOOK = {"original": "context_module.main.qkv.conv.weight", "diffusers": "attn.to_q.weight"}
PLAIN = {"original": "main.conv1.conv.weight", "diffusers": "conv1.weight"}
BATCH = {"original": "main.conv2.norm.running_mean", "diffusers": "norm.running_mean"}
NEAR = {
    "original": "context_module.main.aggreg.{}.0.weight",
    "diffusers": "attn.to_qkv_multiscale.{}.proj_in.weight",
}
MIX = {
    "original": "context_module.main.aggreg.0.1.weight",
    "diffusers": "attn.to_qkv_multiscale.0.proj_out.weight",
}
"""Of both layouts, what blocks of DC-AE have: attention, convolutions alone, a batch norm, scales of two parts."""


def sana(shapes: Shapes, layout: str) -> SanaConfig:
    """The transformer of ``shapes``, with positions where the authors' table of them is of a large picture."""
    original = layout == "original"
    block = "blocks.0." if original else "transformer_blocks.0."
    width, channels, patch, _ = shapes["x_embedder.proj.weight" if original else "patch_embed.proj.weight"]
    leave = shapes["final_layer.linear.weight" if original else "proj_out.weight"]
    words = shapes["y_embedder.y_proj.fc1.weight" if original else "caption_projection.linear_1.weight"]
    down = shapes[block + ("mlp.point_conv.conv.weight" if original else "ff.conv_point.weight")]
    each = next((head for head in TEXT_HEADS if width % head == 0), HEAD)
    side = math.isqrt(shapes.get("pos_embed", (0, 32 * 32))[1])
    return SanaConfig(
        depth=count(shapes, "blocks.{}." if original else "transformer_blocks.{}."),
        width=width,
        heads=width // HEAD,
        text_heads=width // each,
        channels=channels,
        outer=leave[0] // patch**2,
        patch=patch,
        hidden=down[1],
        tokens=words[1],
        guidance=("cfg_embedder.mlp.0.weight" if original else "time_embed.guidance_embedder.linear_1.weight")
        in shapes,
        norm=block + ("attn.q_norm.weight" if original else "attn1.norm_q.weight") in shapes,
        side=side,
        extent=float(PLACED) if side >= PLACED else 0.0,
    )


def told_sana(config: SanaConfig, told: Mapping[str, Any]) -> SanaConfig:
    """``config`` with what the settings beside the weights say; ValueError for what fits no network of its shapes."""
    heads = told.get("num_attention_heads", config.heads)
    text_heads = told.get("num_cross_attention_heads", config.text_heads)
    side = told.get("sample_size", config.side * config.patch) // config.patch
    if min(heads, text_heads, side) < 1 or config.width % heads or config.width % text_heads:
        raise ValueError(
            f"{heads} and {text_heads} heads of a width of {config.width}, {side} patches a side,"
        )
    step, factor = told.get("interpolation_scale"), told.get("timestep_scale", 1)
    if factor != 1 and not config.guidance:
        raise ValueError(f"timestep_scale = {factor!r}, which is not followed,")
    return replace(
        config,
        heads=heads,
        text_heads=text_heads,
        side=side,
        extent=0.0 if step is None else side / step,
        told=float(told.get("guidance_embeds_scale", config.told)),
    )


def sana_settings(config: SanaConfig) -> dict[str, Any]:
    """The ``config.json`` of a transformer of ``config`` in diffusers' layout."""
    return {
        "_class_name": "SanaTransformer2DModel",
        "sample_size": config.side * config.patch,
        "patch_size": config.patch,
        "in_channels": config.channels,
        "out_channels": config.outer,
        "num_layers": config.depth,
        "num_attention_heads": config.heads,
        "attention_head_dim": config.width // config.heads,
        "num_cross_attention_heads": config.text_heads,
        "cross_attention_head_dim": config.width // config.text_heads,
        "cross_attention_dim": config.width,
        "caption_channels": config.tokens,
        "mlp_ratio": config.hidden / config.width,
        "interpolation_scale": config.side / config.extent if config.extent else None,
        "qk_norm": "rms_norm_across_heads" if config.norm else None,
        "guidance_embeds": config.guidance,
        "guidance_embeds_scale": config.told,
    }


def dcae(shapes: Shapes, layout: str) -> DcaeConfig:
    """The autoencoder of ``shapes``; blocks with a batch norm have ReLU, as in the published ones, others SiLU."""
    down = _half(shapes, layout, "encoder")
    up = _half(shapes, layout, "decoder")
    original = layout == "original"
    leave = shapes[
        "encoder.project_out.main.op_list.0.conv.weight" if original else "encoder.conv_out.weight"
    ]
    enter = "encoder.project_in.conv" if original else "encoder.conv_in"
    first = next(shapes[name] for name in (f"{enter}.weight", f"{enter}.conv.weight") if name in shapes)
    heads = [shape[1] for name, shape in shapes.items() if name.endswith(MIX[layout])]
    return DcaeConfig(
        pixels=first[1], latent=leave[0], head=heads[0] if heads else HEAD, encoder=down, decoder=up
    )


def _half(shapes: Shapes, layout: str, name: str) -> DcaeHalf:
    """The encoder or the decoder."""
    encodes = name == "encoder"
    begin = f"{name}.stages." if layout == "original" else f"{name}.{'down' if encodes else 'up'}_blocks."
    found = re.compile(re.escape(begin) + r"(\d+)\.(?:op_list\.)?(\d+)\.(.+)")
    levels: dict[int, dict[str, tuple[int, ...]]] = {}
    for key, shape in shapes.items():
        if match := found.match(key):
            levels.setdefault(int(match[1]), {})[f"{int(match[2]):04}.{match[3]}"] = shape
    depth = max(levels) + 1
    if depth < 2:
        raise ValueError("a single level")
    tables = [levels.get(level, {}) for level in range(depth)]
    if not all(tables[1:]):
        raise ValueError("a level without blocks")
    looks, plain = ([_ending(table, kind[layout]) for table in tables] for kind in (LOOK, PLAIN))
    widths = [(a or b or [(0, 0)])[0][1] for a, b in zip(looks, plain, strict=True)]
    widths[0] = widths[0] or widths[1] // 2
    # A level's own change of size goes to the next one in an encoder, comes from it in a decoder.
    moved = [_moved(table) for table in tables[:-1]]
    wanted = widths[1:] if encodes else [4 * width for width in widths]
    batch = tuple(bool(_ending(table, BATCH[layout])) for table in tables)
    return DcaeHalf(
        widths=tuple(widths),
        blocks=tuple(len(a) + len(b) for a, b in zip(looks, plain, strict=True)),
        looks=tuple(bool(one) for one in looks),
        scales=tuple(_scales(table, layout) for table in tables),
        batch=batch,
        act=tuple("relu" if one else "silu" for one in batch),
        shuffle=any(
            shape[0] * 4 == width if encodes else shape[0] == width
            for shape, width in zip(moved, wanted, strict=False)
            if shape
        ),
    )


def _ending(table: Shapes, name: str) -> list[tuple[int, ...]]:
    """The shapes of the tensors of a level called ``name`` in their block."""
    return [shape for key, shape in sorted(table.items()) if key.partition(".")[2] == name]


def _moved(table: Shapes) -> tuple[int, ...]:
    """The shape of the convolution that goes to another level or comes from it; empty if there is none."""
    names = ("conv.weight", "main.conv.weight", "main.conv.conv.weight")
    return next((shape for name in names for shape in _ending(table, name)), ())


def _scales(table: Shapes, layout: str) -> tuple[int, ...]:
    """The sides of the kernels of a level's attention."""
    sides: list[int] = []
    while found := _ending(table, NEAR[layout].format(len(sides))):
        sides.append(found[0][2])
    return tuple(sides)


def told_dcae(config: DcaeConfig, told: Mapping[str, Any]) -> DcaeConfig:
    """``config`` with what the settings beside the weights say; ValueError for what is not followed."""
    levels = len(config.decoder.widths)
    acts, norms = (
        (found,) * levels if isinstance(found, str) else tuple(found)
        for found in (
            told.get("decoder_act_fns", config.decoder.act),
            told.get(
                "decoder_norm_types", tuple("batch_norm" if b else "rms_norm" for b in config.decoder.batch)
            ),
        )
    )
    last = told.get("decoder_conv_act_fn", config.last)
    if odd := [act for act in (*acts, last) if act not in ACTIVATIONS]:
        raise ValueError(f"the activation {odd[0]!r}, which is not native,")
    if odd := [norm for norm in norms if norm not in ("rms_norm", "batch_norm")]:
        raise ValueError(f"the norm {odd[0]!r}, which is not native,")
    if len(acts) != levels or len(norms) != levels:
        raise ValueError(f"decoder_act_fns and decoder_norm_types of other than {levels} levels")
    up = config.decoder  # where no block reads the activation, one is as good as another
    acts = tuple(
        act if n and not look else "silu" for act, n, look in zip(acts, up.blocks, up.looks, strict=True)
    )
    head = told.get("attention_head_dim", config.head)
    looking = [
        width
        for half in (config.encoder, config.decoder)
        for width, looks in zip(half.widths, half.looks, strict=True)
        if looks
    ]
    if not isinstance(head, int) or head < 1 or any(width % head for width in looking):
        raise ValueError(f"attention_head_dim = {head!r}")
    return replace(
        config,
        head=head,
        last=last,
        encoder=replace(config.encoder, short=bool(told.get("encoder_out_shortcut", True))),
        decoder=replace(up, act=acts, short=bool(told.get("decoder_in_shortcut", True))),
    )


def dcae_settings(config: DcaeConfig, family: str | None = None) -> dict[str, Any]:
    """The ``config.json`` of an autoencoder of ``config`` in diffusers' layout, with the scale of SANA's latents."""
    down, up = config.encoder, config.decoder
    told: dict[str, Any] = {
        "_class_name": "AutoencoderDC",
        "in_channels": config.pixels,
        "latent_channels": config.latent,
        "attention_head_dim": config.head,
        "downsample_block_type": "pixel_unshuffle" if down.shuffle else "conv",
        "upsample_block_type": "pixel_shuffle" if up.shuffle else "interpolate",
        "decoder_norm_types": ["batch_norm" if one else "rms_norm" for one in up.batch],
        "decoder_act_fns": list(up.act),
        "encoder_out_shortcut": down.short,
        "decoder_in_shortcut": up.short,
        "decoder_conv_act_fn": config.last,
    }
    for name, half in (("encoder", down), ("decoder", up)):
        told[f"{name}_block_types"] = ["EfficientViTBlock" if look else "ResBlock" for look in half.looks]
        told[f"{name}_block_out_channels"] = list(half.widths)
        told[f"{name}_layers_per_block"] = list(half.blocks)
        told[f"{name}_qkv_multiscales"] = [list(sides) for sides in half.scales]
    if family:
        told["scaling_factor"] = SCALE
    return told
