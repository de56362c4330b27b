"""What ``inspect`` knows of the further families: titles, parts, facts and variants by kind; no torch is needed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sfumato.weights.source import Source

Shapes = Mapping[str, tuple[int, ...]]
Facts = dict[str, int | bool]


@dataclass(frozen=True, kw_only=True)
class Further:
    """A family whose denoiser is of a kind of its own: its name and title, the parts of a picture, what it predicts.

    ``facts`` are sizes from shapes and whether the layout is the authors'; ``variant`` names one by these, its
    source and the whole checkpoint's.
    """

    family: str
    title: str
    needs: tuple[str, ...]
    facts: Callable[[Shapes, bool], Facts]
    variant: Callable[[Facts, Source, Source], str | None] = lambda facts, source, whole: None
    predicts: str = "eps"


def count(shapes: Shapes, before: str) -> int:
    """How many different words follow ``before`` in the keys."""
    return len({key[len(before) :].split(".")[0] for key in shapes if key.startswith(before)})


def chroma(shapes: Shapes, original: bool) -> Facts:
    """Chroma's."""
    return {
        "double": count(shapes, "double_blocks." if original else "transformer_blocks."),
        "single": count(shapes, "single_blocks." if original else "single_transformer_blocks."),
        "width": shapes["img_in.weight" if original else "x_embedder.weight"][0],
    }


def lumina(shapes: Shapes, original: bool) -> Facts:
    """Lumina-Image 2's."""
    words = "cap_embedder.1.weight" if original else "time_caption_embed.caption_embedder.1.weight"
    return {
        "depth": count(shapes, "layers."),
        "width": shapes["x_embedder.weight"][0],
        "tokens": shapes[words][1],
    }


def zimage(shapes: Shapes, original: bool) -> Facts:
    """Z-Image's."""
    return {
        "depth": count(shapes, "layers."),
        "width": shapes["x_embedder.weight" if original else "all_x_embedder.2-1.weight"][0],
        "tokens": shapes["cap_embedder.1.weight"][1],
    }


def sana(shapes: Shapes, original: bool) -> Facts:
    """SANA's."""
    block = "blocks.0.attn.q_norm" if original else "transformer_blocks.0.attn1.norm_q"
    enter = shapes["x_embedder.proj.weight" if original else "patch_embed.proj.weight"]
    words = "y_embedder.y_proj.fc1.weight" if original else "caption_projection.linear_1.weight"
    facts: Facts = {
        "depth": count(shapes, "blocks." if original else "transformer_blocks."),
        "width": enter[0],
        "inputs": enter[1],
        "tokens": shapes[words][1],
        "norm": f"{block}.weight" in shapes,
        "guidance": ("cfg_embedder.mlp.0" if original else "time_embed.guidance_embedder.linear_1")
        + ".weight"
        in shapes,
    }
    if "pos_embed" in shapes:
        facts["side"] = math.isqrt(shapes["pos_embed"][1])
    return facts


def pixart(shapes: Shapes, original: bool) -> Facts:
    """PixArt's."""
    size = (
        "csize_embedder.mlp.0.weight" if original else "adaln_single.emb.resolution_embedder.linear_1.weight"
    )
    return {
        **_patches(shapes, original),
        "tokens": shapes[
            "y_embedder.y_proj.fc1.weight" if original else "caption_projection.linear_1.weight"
        ][1],
        "sizes": size in shapes,
    }


def dit(shapes: Shapes, original: bool) -> Facts:
    """DiT's."""
    table = (
        "y_embedder.embedding_table.weight"
        if original
        else "transformer_blocks.0.norm1.emb.class_embedder.embedding_table.weight"
    )
    return {**_patches(shapes, original), "classes": shapes[table][0] - 1}


def _patches(shapes: Shapes, original: bool) -> Facts:
    enter = shapes["x_embedder.proj.weight" if original else "pos_embed.proj.weight"]
    facts: Facts = {
        "depth": count(shapes, "blocks." if original else "transformer_blocks."),
        "width": enter[0],
        "inputs": enter[1],
        "patch": enter[2],
    }
    if "pos_embed" in shapes:
        facts["side"] = math.isqrt(shapes["pos_embed"][1])
    return facts


def pixels(shapes: Shapes, original: bool) -> Facts:
    """diffusers' UNet2DModel's, and those of OpenAI's networks."""
    label = shapes.get("label_emb.weight" if original else "class_embedding.weight")
    enter = shapes["input_blocks.0.0.weight" if original else "conv_in.weight"]
    ends = (".conv.weight", ".1.in_layers.2.weight", ".2.in_layers.2.weight")
    doubled = sum(key.startswith("output_blocks.") and key.endswith(ends) for key in shapes)
    return {
        "inputs": enter[1],
        "width": enter[0],
        "levels": 1 + doubled if original else count(shapes, "down_blocks."),
        "classes": label[0] if label else 0,
        "learned": shapes["out.2.weight" if original else "conv_out.weight"][0] == 2 * enter[1],
    }


def sana_variant(facts: Facts, source: Source, whole: Source) -> str:
    """SANA 1.5 by its norms, and the pictures that it was trained on."""
    side = source.config.get("sample_size", facts.get("side", 32))
    version = "Sprint" if facts["guidance"] else "1.5" if facts["norm"] else "1.0"
    return f"{version}, {32 * side} pixels" if isinstance(side, int) else version


def edm(shapes: Shapes, original: bool) -> Facts:
    """EDM's."""
    conv = next(key for key in shapes if key.startswith("enc.") and key.endswith("_conv.weight"))
    label = shapes.get("map_label.weight")
    return {
        "inputs": shapes[conv][1],
        "width": shapes[conv][0],
        "levels": sum(key.endswith("_down.conv0.weight") for key in shapes) + 1,
        "classes": label[1] if label else 0,
        "side": int(conv.removeprefix("enc.").split("x")[0]),
        "ncsnpp": any(key.endswith("_aux_residual.weight") for key in shapes),
    }


def edm_variant(name: str) -> Callable[[Facts, Source, Source], str]:
    """Which network it is, ``name`` or NCSN++, and whether by class."""
    return lambda facts, source, whole: (
        f"{'NCSN++' if facts['ncsnpp'] else name}, {facts['side']} pixels, "
        f"{'by class' if facts['classes'] else 'unconditional'}"
    )


def pixart_variant(facts: Facts, source: Source, whole: Source) -> str:
    """Alpha or Sigma: by the pipeline, the embedding of no text (300 tokens in Sigma's), or the sizes that are read."""
    nothing = source.shapes.get("y_embedder.y_embedding", (0,))[0]
    if "Sigma" in str(whole.config.get("_class_name", "")) or nothing == 300:
        return "Sigma"
    return "alpha, 1024 pixels" if facts["sizes"] else "alpha"


FURTHER: dict[str, Further] = {
    "chroma": Further(
        family="chroma",
        title="Chroma",
        needs=("denoiser", "vae", "text_3"),
        facts=chroma,
        predicts="flow",
    ),
    "lumina": Further(
        family="lumina2",
        title="Lumina-Image 2",
        needs=("denoiser", "vae", "language"),
        facts=lumina,
        predicts="flow",
    ),
    "zimage": Further(
        family="z-image",
        title="Z-Image",
        needs=("denoiser", "vae", "language"),
        facts=zimage,
        predicts="flow",
    ),
    "sana": Further(
        family="sana",
        title="SANA",
        needs=("denoiser", "vae", "language"),
        facts=sana,
        variant=sana_variant,
        predicts="flow",
    ),
    "pixart": Further(
        family="pixart",
        title="PixArt",
        needs=("denoiser", "vae", "text_3"),
        facts=pixart,
        variant=pixart_variant,
    ),
    "dit": Further(family="dit", title="DiT", needs=("denoiser", "vae"), facts=dit),
    "pixels": Further(
        family="pixels",
        title="U-Net on pixels",
        needs=("denoiser",),
        facts=pixels,
        variant=lambda facts, source, whole: "by class" if facts["classes"] else "unconditional",
    ),
    "dhariwal": Further(
        family="edm",
        title="EDM",
        needs=("denoiser",),
        facts=edm,
        variant=edm_variant("ADM"),
        predicts="edm",
    ),
    "song": Further(
        family="edm",
        title="EDM",
        needs=("denoiser",),
        facts=edm,
        variant=edm_variant("DDPM++"),
        predicts="edm",
    ),
}
"""The further families by the kind of their denoiser."""
