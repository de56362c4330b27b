"""What a network is, read from the shapes of its weights: no configuration file is asked.

Each function takes the shapes of one network by key, without the prefix under which a file keeps it, in one of two
layouts: "original" (the authors') or "diffusers". What shapes cannot tell (how many heads a U-Net's attention has)
is the family's to know. KeyError means that the keys are not of that kind of network.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace

from sfumato.nn.adm import PixelConfig
from sfumato.nn.chroma import ChromaConfig
from sfumato.nn.clip import ClipConfig
from sfumato.nn.flux import FluxConfig
from sfumato.nn.mmdit import MMDiTConfig
from sfumato.nn.sincos import SincosConfig
from sfumato.nn.t5 import T5Config
from sfumato.nn.tiny import TinyConfig
from sfumato.nn.unet import Look, UNetConfig, depths
from sfumato.nn.vae import VaeConfig

Shapes = Mapping[str, tuple[int, ...]]


def count(shapes: Iterable[str], pattern: str) -> int:
    """How many different numbers stand in place of ``{}`` in keys that begin with ``pattern``."""
    before, after = pattern.split("{}")
    found = re.compile(re.escape(before) + r"(\d+)" + re.escape(after))
    return len({match.group(1) for name in shapes if (match := found.match(name))})


def unet(shapes: Shapes, layout: str) -> tuple[UNetConfig, bool]:
    """The U-Net of ``shapes``, with 64 channels a head, and whether its transformers' ends are matrices."""
    original = layout == "original"
    first = shapes["input_blocks.0.0.weight" if original else "conv_in.weight"]
    last = shapes["out.2.weight" if original else "conv_out.weight"]
    levels = _original_levels(shapes) if original else _diffusers_levels(shapes)
    middle = "middle_block.1" if original else "mid_block.attentions.0"
    vector = shapes.get("label_emb.0.0.weight" if original else "add_embedding.linear_1.weight")
    classes = shapes.get("label_emb.weight" if original else "class_embedding.weight")
    first_look = next(
        (name for name in shapes if name.endswith(".transformer_blocks.0.attn2.to_k.weight")), middle
    )
    context = shapes[first_look][1]
    looks: list[Look] = []
    depth, only_text = [], []
    for _, look in levels:
        layers = count(shapes, look + ".transformer_blocks.{}.")
        looks.append("text" if layers else "none")
        depth.append(max(1, layers))
        inner = shapes.get(f"{look}.transformer_blocks.0.attn1.to_k.weight", (0, 0))
        only_text.append(bool(layers) and inner[1] != inner[0])
    blocks = _blocks(shapes, original)
    short = f"{middle}.norm.weight" not in shapes
    config = UNetConfig(
        inner=first[1],
        outer=last[0],
        widths=tuple(width for width, _ in levels),
        blocks=blocks,
        attention=tuple(looks),
        middle="text",
        short_middle=short,
        tokens=context,
        vector=vector[1] if vector else 0,
        classes=classes[0] if classes else 0,
        depth=tuple(depth),
        middle_depth=1 if short else count(shapes, middle + ".transformer_blocks.{}."),
        only_text=tuple(only_text),
    )
    downs, ups = _each(shapes, len(levels), blocks, original)
    if downs != depths(config, ()) or ups != depths(config, (), up=True):
        config = replace(config, downs=downs, ups=ups)
    return config, len(shapes[first_look.split(".transformer_blocks.")[0] + ".proj_in.weight"]) == 2


def _each(
    shapes: Shapes, levels: int, blocks: int, original: bool
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """How many layers the transformer of each stage has, 1 where there is none, on the way down and up."""
    down = [
        f"input_blocks.{1 + level * (blocks + 1) + block}.1"
        if original
        else f"down_blocks.{level}.attentions.{block}"
        for level in range(levels)
        for block in range(blocks)
    ]
    up = [
        f"output_blocks.{level * (blocks + 1) + block}.1"
        if original
        else f"up_blocks.{level}.attentions.{block}"
        for level in range(levels)
        for block in range(blocks + 1)
    ]
    each = [
        tuple(max(1, count(shapes, look + ".transformer_blocks.{}.")) for look in one) for one in (down, up)
    ]
    return each[0], each[1]


def _blocks(shapes: Shapes, original: bool) -> int:
    if not original:
        return count(shapes, "down_blocks.0.resnets.{}.")
    at = 1
    while f"input_blocks.{at}.0.in_layers.2.weight" in shapes:
        at += 1
    return at - 1


def _original_levels(shapes: Shapes) -> list[tuple[int, str]]:
    """Of each level its width and the name of its first attention, there or not."""
    levels: list[tuple[int, str]] = []
    begin = True
    for at in range(1, count(shapes, "input_blocks.{}.")):
        if f"input_blocks.{at}.0.op.weight" in shapes:
            begin = True
        elif begin:
            width = shapes[f"input_blocks.{at}.0.in_layers.2.weight"][0]
            levels.append((width, f"input_blocks.{at}.1"))
            begin = False
    return levels


def _diffusers_levels(shapes: Shapes) -> list[tuple[int, str]]:
    return [
        (shapes[f"down_blocks.{level}.resnets.0.conv1.weight"][0], f"down_blocks.{level}.attentions.0")
        for level in range(count(shapes, "down_blocks.{}."))
    ]


def vae(shapes: Shapes, layout: str) -> VaeConfig:
    """The autoencoder of ``shapes``."""
    if layout == "original":
        levels = count(shapes, "encoder.down.{}.")
        widths = tuple(shapes[f"encoder.down.{i}.block.0.conv1.weight"][0] for i in range(levels))
        blocks = count(shapes, "encoder.down.0.block.{}.")
    else:
        levels = count(shapes, "encoder.down_blocks.{}.")
        widths = tuple(shapes[f"encoder.down_blocks.{i}.resnets.0.conv1.weight"][0] for i in range(levels))
        blocks = count(shapes, "encoder.down_blocks.0.resnets.{}.")
    return VaeConfig(
        pixels=shapes["encoder.conv_in.weight"][1],
        latent=shapes["decoder.conv_in.weight"][1],
        widths=widths,
        blocks=blocks,
        groups=math.gcd(32, *widths),
        quant="quant_conv.weight" in shapes,
    )


def tiny(shapes: Shapes, layout: str) -> TinyConfig:
    """The tiny autoencoder of ``shapes``, of the usual number of blocks."""
    original = layout == "original"
    first = shapes["encoder.0.weight" if original else "encoder.layers.0.weight"]
    enter = shapes["decoder.1.weight" if original else "decoder.layers.0.weight"]
    return TinyConfig(pixels=first[1], latent=enter[1], width=first[0])


def clip(shapes: Shapes, layout: str) -> ClipConfig:
    """The text encoder of ``shapes``, with 64 values a head; "original" is OpenCLIP's layout.

    The GELU is OpenAI's quick one for the width of their encoder (768), the plain one for OpenCLIP's.
    """
    if layout == "original":
        vocabulary, width = shapes["token_embedding.weight"]
        length = shapes["positional_embedding"][0]
        layers = count(shapes, "transformer.resblocks.{}.")
        mlp = shapes["transformer.resblocks.0.mlp.c_fc.weight"][0]
        projection = shapes.get("text_projection", (0, 0))[1]
    else:
        vocabulary, width = shapes["text_model.embeddings.token_embedding.weight"]
        length = shapes["text_model.embeddings.position_embedding.weight"][0]
        layers = count(shapes, "text_model.encoder.layers.{}.")
        mlp = shapes["text_model.encoder.layers.0.mlp.fc1.weight"][0]
        projection = shapes.get("text_projection.weight", (0, 0))[0]
    return ClipConfig(
        width=width,
        layers=layers,
        heads=max(1, width // 64),
        mlp=mlp,
        vocabulary=vocabulary,
        length=length,
        projection=projection,
        quick=width == 768,
        end=vocabulary - 1,
    )


def t5(shapes: Shapes) -> T5Config:
    """The encoder of ``shapes``, in transformers' layout."""
    vocabulary, width = shapes["shared.weight"]
    attention = "encoder.block.{}.layer.0.SelfAttention."
    heads = shapes[attention.format(0) + "relative_attention_bias.weight"][1]
    buckets = shapes[attention.format(0) + "relative_attention_bias.weight"][0]
    return T5Config(
        vocabulary=vocabulary,
        width=width,
        layers=count(shapes, "encoder.block.{}."),
        heads=heads,
        head=shapes[attention.format(0) + "q.weight"][0] // heads,
        mlp=shapes["encoder.block.0.layer.1.DenseReluDense.wi_0.weight"][0],
        buckets=buckets,
        each=attention.format(1) + "relative_attention_bias.weight" in shapes,
    )


def mmdit(shapes: Shapes, layout: str) -> MMDiTConfig:
    """The transformer of Stable Diffusion 3 of ``shapes``; 64 values a head where no norm of queries tells."""
    original = layout == "original"
    blocks = "joint_blocks.{}." if original else "transformer_blocks.{}."
    enter = shapes["x_embedder.proj.weight" if original else "pos_embed.proj.weight"]
    places = shapes["pos_embed" if original else "pos_embed.pos_embed"]
    words = shapes["context_embedder.weight"]
    vector = shapes[
        "y_embedder.mlp.0.weight" if original else "time_text_embed.text_embedder.linear_1.weight"
    ]
    norm = shapes.get(blocks.format(0) + ("x_block.attn.ln_q.weight" if original else "attn.norm_q.weight"))
    second = "x_block.attn2.qkv.weight" if original else "attn2.to_q.weight"
    depth = count(shapes, blocks)
    leave = shapes["final_layer.linear.weight" if original else "proj_out.weight"]
    return MMDiTConfig(
        depth=depth,
        width=enter[0],
        heads=enter[0] // (norm[0] if norm else 64),
        channels=enter[1],
        outer=leave[0] // (enter[2] * enter[3]),
        tokens=words[1],
        vector=vector[1],
        patch=enter[2],
        side=math.isqrt(places[1]),
        norm=norm is not None,
        dual=sum(blocks.format(i) + second in shapes for i in range(depth)),
    )


def flux(shapes: Shapes, layout: str) -> FluxConfig:
    """The transformer of FLUX.1 of ``shapes``; the axes of positions are an eighth and twice seven sixteenths."""
    original = layout == "original"
    enter = shapes["img_in.weight" if original else "x_embedder.weight"]
    norm = (
        "double_blocks.0.img_attn.norm.query_norm.scale"
        if original
        else "transformer_blocks.0.attn.norm_q.weight"
    )
    head = shapes[norm][0]
    leave = shapes["final_layer.linear.weight" if original else "proj_out.weight"]
    vector = shapes[
        "vector_in.in_layer.weight" if original else "time_text_embed.text_embedder.linear_1.weight"
    ]
    guidance = (
        "guidance_in.in_layer.weight" if original else "time_text_embed.guidance_embedder.linear_1.weight"
    )
    return FluxConfig(
        double=count(shapes, "double_blocks.{}." if original else "transformer_blocks.{}."),
        single=count(shapes, "single_blocks.{}." if original else "single_transformer_blocks.{}."),
        width=enter[0],
        heads=enter[0] // head,
        channels=enter[1] // 4,
        outer=leave[0] // 4,
        tokens=shapes["txt_in.weight" if original else "context_embedder.weight"][1],
        vector=vector[1],
        guidance=guidance in shapes,
        axes=(head // 8, (head - head // 8) // 2, (head - head // 8) // 2),
    )


def pixart(shapes: Shapes, layout: str) -> SincosConfig:
    """The transformer of PixArt of ``shapes``; see ``sincos``.

    The side in training is told by the authors' table of positions where there is one. Its extent is 32 for all but
    the PixArt-alpha of 256 pixels, which the authors' embedding of no text, of 120 tokens, tells from Sigma's.
    """
    original = layout == "original"
    words = shapes["y_embedder.y_proj.fc1.weight" if original else "caption_projection.linear_1.weight"]
    size = (
        "csize_embedder.mlp.0.weight" if original else "adaln_single.emb.resolution_embedder.linear_1.weight"
    )
    side = math.isqrt(shapes.get("pos_embed", (0, 64 * 64))[1])
    nothing = shapes.get("y_embedder.y_embedding", (0, 0))[0]
    extent = 16.0 if side == 16 and nothing == 120 else 32.0
    leave = shapes["final_layer.linear.weight" if original else "proj_out.weight"]
    return replace(
        _sincos(shapes, original, leave[0]),
        tokens=words[1],
        single=True,
        sizes=size in shapes,
        side=side,
        extent=extent,
    )


def dit(shapes: Shapes, layout: str) -> SincosConfig:
    """The DiT of ``shapes``; see ``sincos``. Without a table of positions it is that of 256 pixels."""
    original = layout == "original"
    table = (
        "y_embedder.embedding_table.weight"
        if original
        else "transformer_blocks.0.norm1.emb.class_embedder.embedding_table.weight"
    )
    side = math.isqrt(shapes.get("pos_embed", (0, 16 * 16))[1])
    leave = shapes["final_layer.linear.weight" if original else "proj_out_2.weight"]
    return replace(
        _sincos(shapes, original, leave[0]), classes=shapes[table][0], side=side, extent=float(side)
    )


def _sincos(shapes: Shapes, original: bool, leave: int) -> SincosConfig:
    """What DiT and PixArt have in common: heads are of 72 values in their XL sizes, of 64 in the others."""
    enter = shapes["x_embedder.proj.weight" if original else "pos_embed.proj.weight"]
    up = shapes["blocks.0.mlp.fc1.weight" if original else "transformer_blocks.0.ff.net.0.proj.weight"]
    width, patch = enter[0], enter[2]
    return SincosConfig(
        depth=count(shapes, "blocks.{}." if original else "transformer_blocks.{}."),
        width=width,
        heads=width // 72 if width % 72 == 0 else max(1, width // 64),
        channels=enter[1],
        outer=leave // patch**2,
        patch=patch,
        mlp=up[0] // width,
    )


def pixels(shapes: Shapes) -> PixelConfig:
    """diffusers' UNet2DModel of ``shapes``, with what shapes do not tell at its class's defaults."""
    levels = count(shapes, "down_blocks.{}.")
    label = shapes.get("class_embedding.weight")
    inside = ".{}rs.0.conv1.weight"
    return PixelConfig(
        inner=shapes["conv_in.weight"][1],
        outer=shapes["conv_out.weight"][0],
        widths=tuple(shapes[f"down_blocks.{i}.resnets.0.conv1.weight"][0] for i in range(levels)),
        blocks=count(shapes, "down_blocks.0.resnets.{}."),
        attention=tuple(f"down_blocks.{i}.attentions.0.to_q.weight" in shapes for i in range(levels)),
        middle="mid_block.attentions.0.to_q.weight" in shapes,
        halve=tuple(f"down_blocks.{i}" + inside.format("downsample") in shapes for i in range(levels - 1)),
        double=tuple(
            f"up_blocks.{levels - 2 - i}" + inside.format("upsample") in shapes for i in range(levels - 1)
        ),
        classes=label[0] if label else 0,
        scale_shift=shapes["mid_block.resnets.0.time_emb_proj.weight"][0]
        == 2 * shapes["mid_block.resnets.0.conv1.weight"][0],
    )


def chroma(shapes: Shapes, layout: str) -> ChromaConfig:
    """The transformer of Chroma of ``shapes``; axes as FLUX.1's."""
    original = layout == "original"
    norm = (
        "double_blocks.0.img_attn.norm.query_norm.scale"
        if original
        else "transformer_blocks.0.attn.norm_q.weight"
    )
    enter, head = shapes["img_in.weight" if original else "x_embedder.weight"], shapes[norm][0]
    hidden, features = shapes["distilled_guidance_layer.in_proj.weight"]
    return ChromaConfig(
        double=count(shapes, "double_blocks.{}." if original else "transformer_blocks.{}."),
        single=count(shapes, "single_blocks.{}." if original else "single_transformer_blocks.{}."),
        width=enter[0],
        heads=enter[0] // head,
        channels=enter[1] // 4,
        outer=shapes["final_layer.linear.weight" if original else "proj_out.weight"][0] // 4,
        tokens=shapes["txt_in.weight" if original else "context_embedder.weight"][1],
        axes=(head // 8, (head - head // 8) // 2, (head - head // 8) // 2),
        features=features,
        hidden=hidden,
        layers=count(shapes, "distilled_guidance_layer.norms.{}."),
    )
