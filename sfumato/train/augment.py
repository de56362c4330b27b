"""Batches of cut-out pictures laid on coloured backgrounds, moved and scaled a little."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def compose(rgba: Tensor, colour: Tensor, theta: Tensor | None = None) -> Tensor:
    """Lay ``rgba`` (B, 4, H, W) uint8 on ``colour`` (B, 3) uint8: RGB (B, 3, H, W) float32 in [-1, 1].

    ``theta`` (B, 2, 3), if given, moves the picture first (see ``jitter``). Colours are weighted by alpha
    before they are moved, so that edges take nothing from what transparent pixels hide.
    """
    x = rgba.to(torch.float32) / 255
    alpha = x[:, 3:]
    layers = torch.cat((x[:, :3] * alpha, alpha), dim=1)
    if theta is not None:
        place = F.affine_grid(theta, list(layers.shape), align_corners=False)
        layers = F.grid_sample(layers, place, mode="bilinear", padding_mode="zeros", align_corners=False)
    ground = colour.to(torch.float32)[:, :, None, None] / 255
    return (layers[:, :3] + (1 - layers[:, 3:]) * ground) * 2 - 1


def jitter(
    count: int, generator: torch.Generator, *, most: float = 0.06, flip: Tensor | None = None
) -> Tensor:
    """Random affine maps (count, 2, 3): shifts and scales up to ``most``; where ``flip`` is True, half mirror.

    The maps are those of ``affine_grid``: from places of the result to places of the source.
    """
    scale = 1 + most * (2 * torch.rand(count, generator=generator) - 1)
    shift = most * (2 * torch.rand(count, 2, generator=generator) - 1)
    mirror = torch.rand(count, generator=generator) < 0.5
    sign = torch.where(mirror & flip, -1.0, 1.0) if flip is not None else torch.ones(count)
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = sign * scale, scale
    theta[:, :, 2] = shift
    return theta
