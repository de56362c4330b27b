"""What some networks read besides x: a picture, a map, or the mask and the rest of a picture whose hole they fill."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from sfumato.errors import InvalidRequest
from sfumato.model import Beside, Kind, Model


@dataclass(frozen=True)
class Way:
    """What models of a kind do, which tasks ask it of them, and which models are of it."""

    does: str
    tasks: str
    models: str


WAYS: dict[Kind, Way] = {
    "mask": Way(
        "fills the masked part of a picture",
        "inpaint or outpaint",
        "Stable Diffusion Inpainting or FLUX.1 Fill",
    ),
    "picture": Way("changes a picture by an instruction", "instruct", "InstructPix2Pix"),
    "reference": Way("changes a picture by an instruction", "instruct", "FLUX.1 Kontext or FLUX.2"),
    "control": Way("follows a map of edges or of depth", "control", "FLUX.1 Canny or Depth"),
    "depth": Way("follows a map of depth", "control", "Stable Diffusion 2 Depth"),
    "small": Way("makes a small picture four times as large", "upscale", "the x4 upscaler"),
}
"""The kinds of sfumato.model.Beside."""


def channels_beside(model: Model, shape: tuple[int, ...]) -> int:
    """How many channels the model's network reads besides x of ``shape`` (C, h, w); 0 where it does not say."""
    config: Any = getattr(model.denoiser.network, "config", None)
    inner = getattr(config, "inner", getattr(config, "channels", None))
    return inner - shape[0] if isinstance(inner, int) else 0


def beside(model: Model, shape: tuple[int, ...]) -> Beside | None:
    """What the model reads besides x of ``shape`` (C, h, w): as it says, or by its channels; None for nothing.

    InvalidRequest where neither tells.
    """
    more = channels_beside(model, shape)
    if model.beside is not None or more == 0:
        return model.beside
    if more in (1 + shape[0], 64 + shape[0]):
        return Beside(kind="mask")
    if more == shape[0]:
        return Beside(kind="picture")
    raise InvalidRequest(
        f"the model {model.name!r} reads {more} channels beside the {shape[0]} of the picture: what they are is not "
        "known here; choose a model without them"
    )


def check_reads(model: Model, shape: tuple[int, ...], laid: Sequence[Kind] = ()) -> Beside | None:
    """What the model reads; InvalidRequest unless a task that lays the kinds ``laid`` beside x gives it that."""
    found = beside(model, shape)
    if found is None or found.kind == "reference" or found.kind in laid:
        return found
    way = WAYS[found.kind]
    raise InvalidRequest(
        f"the model {model.name!r} reads {channels_beside(model, shape)} channels beside the {shape[0]} of the "
        f"picture: it {way.does}; use the task {way.tasks}"
    )


def required(model: Model, shape: tuple[int, ...], kinds: Sequence[Kind], instead: str) -> Beside:
    """What the model reads, one of ``kinds``; InvalidRequest with the models that do, and what to do ``instead``."""
    found = check_reads(model, shape, kinds)
    if found is None or found.kind not in kinds:
        ways = [WAYS[kind] for kind in kinds]
        named = " or ".join(dict.fromkeys(way.models for way in ways))
        raise InvalidRequest(
            f"the model {model.name!r} is none that {ways[0].does}: use a model that is, such as {named}, or {instead}"
        )
    return found


def fill_channels(model: Model, hidden: Tensor, hole: Tensor, shape: tuple[int, ...]) -> Tensor:
    """What a model that fills holes reads beside x, (1, C', h, w).

    ``hidden`` (1, C, h, w) are the latents of the picture with its hole grey, ``hole`` (1, 1, H, W) is 1 where the
    picture is to be made. Stable Diffusion's inpainting U-Nets read the mask at the latent's size, then the latents
    (diffusers' ``prepare_mask_latents``: nearest pixel); FLUX.1 Fill the latents, then the mask's pixels, 8 x 8 a
    place.
    """
    height, width = shape[-2:]
    hole = hole.to(hidden)
    if channels_beside(model, shape) == 1 + shape[0]:
        return torch.cat((functional.interpolate(hole, (height, width), mode="nearest"), hidden), dim=1)
    across = functional.interpolate(hole, (8 * height, 8 * width), mode="nearest")
    return torch.cat((hidden, functional.pixel_unshuffle(across, 8)), dim=1)


def depth_channel(pixels: Tensor, shape: tuple[int, ...]) -> Tensor:
    """What a model that follows depth reads beside x: the map (1, 3, H, W) at the latent's size, -1 to 1.

    Its mean over the colours, by bicubic interpolation, with its least and largest value at both ends, as
    diffusers' ``prepare_depth_map`` has it; a map of one value alone is 0.
    """
    small = functional.interpolate(pixels.mean(1, keepdim=True), shape[-2:], mode="bicubic")
    least, most = small.min(), small.max()
    return torch.zeros_like(small) if least == most else 2 * (small - least) / (most - least) - 1
