"""Networks that make tokens of pictures: what they are by their shapes, their settings, and how pictures come in."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from sfumato.condition import Cond, Prompt
from sfumato.errors import InvalidRequest
from sfumato.families.reads import READS
from sfumato.families.shapes import Shapes, count
from sfumato.nn.flux import FluxConfig
from sfumato.nn.look import Redux, ReduxConfig, Siglip, SiglipConfig

if TYPE_CHECKING:
    from sfumato.families.checkpoint import Part


POOLING = "vision_model.head."
"""How the names of SigLIP's pooling begin, which makes one vector of a picture."""


def siglip(shapes: Shapes, layout: str) -> SiglipConfig:
    """The vision tower of ``shapes``; heads of 64 values, or 16 heads where the width is 1152 (so400m).

    Pictures are of the next multiple of 32 pixels a side, 384 for the 27 patches of 14 that Redux reads.
    """
    begin = "vision_model."
    width, _, patch, _ = shapes[begin + "embeddings.patch_embedding.weight"]
    side = math.isqrt(shapes[begin + "embeddings.position_embedding.weight"][0])
    return SiglipConfig(
        width=width,
        layers=count(shapes, begin + "encoder.layers.{}."),
        heads=16 if width == 1152 else max(1, width // 64),
        mlp=shapes[begin + "encoder.layers.0.mlp.fc1.weight"][0],
        patch=patch,
        side=side,
        pixels=-(-side * patch // 32) * 32,
        pools=f"{POOLING}probe" in shapes,
    )


def told_siglip(config: SiglipConfig, told: Mapping[str, Any]) -> SiglipConfig:
    """``config`` with what the settings beside the weights say; ValueError for what is not followed."""
    told = {**told, **told.get("vision_config", {})}
    if (act := told.get("hidden_act", "gelu_pytorch_tanh")) != "gelu_pytorch_tanh":
        raise ValueError(f"hidden_act = {act!r}, which no SigLIP has,")
    heads, pixels = told.get("num_attention_heads", config.heads), told.get("image_size", config.pixels)
    if config.width % heads or pixels // config.patch != config.side:
        raise ValueError(f"{heads} heads of a width of {config.width}, pictures of {pixels} pixels,")
    return replace(config, heads=heads, pixels=pixels, eps=told.get("layer_norm_eps", config.eps))


def redux(shapes: Shapes, layout: str) -> ReduxConfig:
    """The embedder of ``shapes``."""
    hidden, width = shapes["redux_up.weight"]
    return ReduxConfig(width=width, hidden=hidden, tokens=shapes["redux_down.weight"][0])


def siglip_settings(config: SiglipConfig) -> dict[str, Any]:
    """The ``config.json`` of a SiglipVisionModel."""
    return {
        "architectures": ["SiglipVisionModel"],
        "model_type": "siglip_vision_model",
        "hidden_size": config.width,
        "intermediate_size": config.mlp,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "patch_size": config.patch,
        "image_size": config.pixels,
        "layer_norm_eps": config.eps,
        "hidden_act": "gelu_pytorch_tanh",
        "vision_use_head": config.pools,
    }


def redux_settings(config: ReduxConfig) -> dict[str, Any]:
    """The ``config.json`` of a ReduxImageEncoder."""
    return {"_class_name": "ReduxImageEncoder", "redux_dim": config.width, "txt_in_features": config.tokens}


SETTINGS: dict[type, Callable[[Any], dict[str, Any]]] = {
    SiglipConfig: siglip_settings,
    ReduxConfig: redux_settings,
}
"""How the settings of these networks are written."""


def prepared(pixels: NDArray[np.uint8], side: int) -> Tensor:
    """A picture (H, W, 3) as SigLIP reads it: (1, 3, side, side) float32 in [-1, 1], whatever its proportions.

    Scaled by Pillow's bicubic filter, as transformers' SiglipImageProcessorPil does, bit for bit.
    """
    small = Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC)
    values = (np.asarray(small).astype(np.float64) * (1 / 255)).astype(np.float32)
    return torch.from_numpy((values.transpose(2, 0, 1) - np.float32(0.5)) / np.float32(0.5))[None]


LOOKERS = ("looker", "redux")
"""The places of networks that make tokens of pictures."""

READ_BY = {"flux": LOOKERS}
"""By the kind of denoisers that were trained to see pictures in a prompt, the parts that they need."""


def looks_of(parts: Mapping[str, Part]) -> tuple[str, ...]:
    """The parts that make pictures tokens of the prompts of the denoiser among ``parts``; none where it reads none."""
    return READ_BY.get(parts["denoiser"].kind, ())


def pictured(parts: Mapping[str, Part]) -> bool:
    """Whether pictures can be part of a prompt."""
    wanted = looks_of(parts)
    return bool(wanted) and all(place in parts for place in wanted)


def wordless(config: FluxConfig, nets: Mapping[str, Any], rows: int) -> Cond:
    """The condition of prompts without words where no text encoder is: zeros, as many tokens as T5 would have made."""
    like = nets["redux"].up.bias
    length = READS["flux" if config.guidance else "flux-schnell"].t5
    return Cond(
        tokens=like.new_zeros(rows, length, config.tokens), vector=like.new_zeros(rows, config.vector)
    )


def seen(cond: Cond, prompts: Sequence[Prompt], nets: Mapping[str, Any]) -> Cond:
    """``cond`` of ``prompts`` with the tokens of their pictures behind those of their texts.

    Strengths act as docs/conventions.md says (Pictures in prompts). InvalidRequest for prompts of which some have more
    pictures than others, since rows of a condition are equally long.
    """
    given = {len(prompt.looks) for prompt in prompts}
    if given <= {0} or cond.tokens is None:
        return cond
    if len(given) > 1:
        raise InvalidRequest("prompts of one call must have equally many pictures: embed each by itself")
    rows, counts = [], []
    for prompt in prompts:
        made = [tokens_of(look.pixels, nets["looker"], nets["redux"]) for look in prompt.looks]
        pairs = list(zip(prompt.looks, made, strict=True))
        rows.append(torch.cat([one if look.attention else look.strength * one for look, one in pairs], dim=1))
        often = [one.new_full(one.shape[:2], look.strength if look.attention else 1.0) for look, one in pairs]
        counts.append(torch.cat(often, dim=1))
    more, weights = torch.cat(rows).to(cond.tokens), torch.cat(counts).to(cond.tokens)
    tokens = torch.cat((cond.tokens, more), dim=1)
    mask = None if cond.mask is None else F.pad(cond.mask, (0, more.shape[1]), value=True)
    if bool((weights == 1).all()):
        return replace(cond, tokens=tokens, mask=mask)
    once = weights.new_ones(cond.tokens.shape[:2])
    return replace(cond, tokens=tokens, mask=mask, counts=torch.cat((once, weights), dim=1))


def tokens_of(pixels: NDArray[np.uint8], looker: Siglip, embedder: Redux) -> Tensor:
    """The tokens (1, L, D) that FLUX.1 Redux makes of a picture (H, W, 3)."""
    states = looker(prepared(pixels, looker.config.pixels).to(looker.norm.weight))
    found: Tensor = embedder(states.to(embedder.up.bias))
    return found
