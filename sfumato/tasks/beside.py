"""What some networks read beside x: the mask and the rest of a picture whose hole they fill."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from sfumato.errors import InvalidRequest
from sfumato.model import Model

REASONS = {
    "mask": "it fills the masked part of a picture: use the task inpaint or outpaint",
    "picture": "it changes a picture by an instruction, which no task here does",
}


def channels_beside(model: Model, shape: tuple[int, ...]) -> int:
    """How many channels the model's network reads beside x of ``shape`` (C, h, w); 0 where it does not say."""
    config: Any = getattr(model.denoiser.network, "config", None)
    inner = getattr(config, "inner", getattr(config, "channels", None))
    return inner - shape[0] if isinstance(inner, int) else 0


def check_channels(model: Model, shape: tuple[int, ...]) -> None:
    """Refuse a model that reads more than x for a task that lays nothing beside it."""
    more = channels_beside(model, shape)
    if more == 0:
        return
    kind = "mask" if more in _fills(shape) else "picture" if more == shape[0] else None
    reason = REASONS[kind] if kind else "what they are is not known here"
    raise InvalidRequest(
        f"the model {model.name!r} reads {more} channels beside the {shape[0]} of the picture: {reason}"
    )


def fills(model: Model, shape: tuple[int, ...]) -> bool:
    """Whether the model was trained to fill holes, with a mask beside x; InvalidRequest if it reads anything else."""
    more = channels_beside(model, shape)
    if more and more not in _fills(shape):
        check_channels(model, shape)
    return more > 0


def _fills(shape: tuple[int, ...]) -> tuple[int, int]:
    """The numbers of channels of the two known ways: one of mask, or the mask's 8 x 8 pixels, and the picture's."""
    return 1 + shape[0], 64 + shape[0]


def fill_channels(model: Model, hidden: Tensor, hole: Tensor, shape: tuple[int, ...]) -> Tensor:
    """What a model that fills holes reads beside x, (1, C', h, w).

    ``hidden`` (1, C, h, w) are the latents of the picture with its hole grey, ``hole`` (1, 1, H, W) is 1 where the
    picture is to be made. Stable Diffusion's inpainting U-Nets read the mask at the latent's size, then the latents
    (diffusers' ``prepare_mask_latents``: nearest pixel); FLUX.1 Fill the latents, then the mask's pixels, 8 x 8 a
    place.
    """
    height, width = shape[-2:]
    if channels_beside(model, shape) == 1 + shape[0]:
        small = functional.interpolate(hole, (height, width), mode="nearest")
        return torch.cat((small.to(hidden.dtype), hidden), dim=1)
    across = functional.interpolate(hole, (8 * height, 8 * width), mode="nearest")
    return torch.cat((hidden, functional.pixel_unshuffle(across, 8).to(hidden.dtype)), dim=1)
