"""Holes in pictures: hidden before anything sees them, at the size of latents, and closed again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from sfumato.process.level import Level
from sfumato.tasks.canvas import sized


def hidden(pixels: NDArray[np.uint8], hole: NDArray[np.float32]) -> NDArray[np.uint8]:
    """``pixels`` (H, W, 3) with every place where ``hole`` (H, W) is above 0 filled by the colours around it.

    Averages of what is known, at half the size again and again until everything is covered, are laid under it
    (Gortler et al. 1996, pull and push). What is known keeps its values; without anything known all is grey.
    """
    known = torch.from_numpy((hole == 0).astype(np.float32))[None, None]
    values = torch.from_numpy(np.array(pixels)).permute(2, 0, 1)[None].float()
    if not bool(known.any()):
        return np.full_like(pixels, 128)
    filled = _pulled(values * known, known).round().clamp(0, 255)
    made = torch.where(known > 0, values, filled)
    return made[0].permute(1, 2, 0).to(torch.uint8).contiguous().numpy()


def _pulled(values: Tensor, weight: Tensor) -> Tensor:
    """The average ``values / weight`` where there is weight, from a size below elsewhere."""
    here = values / weight.clamp_min(1e-6)
    if bool((weight > 0).all()) or max(values.shape[-2:]) == 1:
        return here
    kwargs: dict[str, Any] = {"kernel_size": 2, "ceil_mode": True}
    small = _pulled(functional.avg_pool2d(values, **kwargs), functional.avg_pool2d(weight, **kwargs))
    below = functional.interpolate(small, values.shape[-2:], mode="bilinear", align_corners=False)
    share = weight.clamp(0, 1)
    return share * here + (1 - share) * below


def feathered(hole: NDArray[np.float32], std: float) -> NDArray[np.float32]:
    """``hole`` (H, W) with its edge blurred by a Gaussian of ``std`` pixels; 0 leaves it as it is."""
    if std == 0:
        return hole
    reach = int(np.ceil(3 * std))
    place = torch.arange(-reach, reach + 1, dtype=torch.float32)
    kernel = (-0.5 * (place / std).square()).exp()
    kernel = (kernel / kernel.sum()).view(1, 1, 1, -1)
    wide = functional.pad(torch.from_numpy(np.array(hole))[None, None], (reach,) * 4, mode="replicate")
    soft = functional.conv2d(functional.conv2d(wide, kernel), kernel.mT)[0, 0].clamp(0, 1)
    # What is below half a byte is nothing: there pixels come back as they were.
    return torch.where(soft < 1 / 510, 0.0, soft).numpy()


def box_around(hole: NDArray[np.float32], around: int) -> tuple[int, int, int, int]:
    """The box (left, top, width, height) of all that is above 0 in ``hole`` and of ``around`` pixels about it.

    As nearly a square as the picture has room for, since models see squares best.
    """
    height, width = hole.shape
    sides = []
    for axis, length in ((0, width), (1, height)):
        places = np.flatnonzero((hole > 0).any(axis))
        sides.append((max(0, int(places[0]) - around), min(length, int(places[-1]) + 1 + around), length))
    most = max(end - begin for begin, end, _ in sides)
    box = []
    for begin, end, length in sides:
        wide = min(length, most)
        begin = min(max(0, (begin + end - wide) // 2), length - wide)
        box.append((begin, wide))
    return box[0][0], box[1][0], box[0][1], box[1][1]


def scaled_hole(hole: NDArray[np.float32], size: str) -> NDArray[np.float32]:
    """``hole`` (H, W) in the size that ``canvas.sized`` would give a picture; hard edges stay hard."""
    grey = np.repeat(np.rint(hole * 255).astype(np.uint8)[..., None], 3, axis=2)
    made = sized(grey, size)[..., 0].astype(np.float32) / np.float32(255)
    return (made > 0).astype(np.float32) if bool(np.isin(hole, (0, 1)).all()) else made


def at_latent(hole: NDArray[np.float32], shape: tuple[int, ...]) -> Tensor:
    """The largest value of ``hole`` (H, W) within each place of a latent of ``shape`` (C, h, w): (1, 1, h, w)."""
    rows = torch.from_numpy(np.array(hole))[None, None]
    return functional.adaptive_max_pool2d(rows, (shape[-2], shape[-1]))


def kept(hole: Tensor) -> Tensor:
    """What is known: 1 less the hole."""
    return 1 - hole


def kept_by_level(hole: Tensor, grid: Sequence[Level]) -> Callable[[Level], Tensor]:
    """What is known at a level: a place with a hole of h is free for the last part h of the steps of ``grid``.

    (Levin & Fried 2023, differential diffusion.)
    """
    steps = len(grid) - 1

    def mask(at: Level) -> Tensor:
        taken = sum(level.lam <= at.lam for level in grid[1:])
        return (hole < (steps - taken) / steps).to(hole.dtype)

    return mask


def closed(
    pixels: NDArray[np.uint8], made: NDArray[np.uint8], hole: NDArray[np.float32]
) -> NDArray[np.uint8]:
    """``made`` in the hole of ``pixels`` (H, W, 3), blended where it is soft; where it is 0 nothing changes."""
    part = hole[..., None]
    blend = np.rint(part * made + (1 - part) * pixels).clip(0, 255).astype(np.uint8)
    return np.where(part > 0, blend, pixels)
