"""Latents larger than a network was made for: overlapping windows, blended in their estimates."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sfumato.ask import gather
from sfumato.condition import Cond
from sfumato.errors import InvalidRequest
from sfumato.guidance.classifier_free import Branches
from sfumato.process.estimate import Estimate
from sfumato.process.level import Level


def tiled(denoise: Branches, window: tuple[int, ...], overlap: float = 0.5) -> Branches:
    """``denoise`` for larger x: of windows (C, h, w) that overlap by at least the part ``overlap``, in one gather.

    Both ends of the estimates are averaged, with weights that fall towards a window's edges (Bar-Tal et al. 2023,
    equation 5; their weights are 1), so they stay on the line of x. What lies beside x is cut as x is.
    InvalidRequest for an overlap outside 0 to 0.9.
    """
    if not 0 <= overlap <= 0.9:
        raise InvalidRequest(f"overlap = {overlap:g} is outside what is allowed: 0 to 0.9")

    async def whole(x: Any, at: Level, *conds: Any) -> tuple[Estimate, ...]:
        height, width = x.shape[-2:]
        high, wide = min(window[-2], height), min(window[-1], width)
        places = [
            (slice(top, top + high), slice(left, left + wide))
            for top in starts(height, high, overlap)
            for left in starts(width, wide, overlap)
        ]

        async def one(place: tuple[slice, slice]) -> tuple[Estimate, ...]:
            return await denoise(x[(..., *place)], at, *(_cut(c, x, place) for c in conds))

        found = await gather([one(place) for place in places])
        weight = _tent(high)[:, None] * _tent(wide)
        return tuple(_blended(at, x, [f[k] for f in found], places, weight) for k in range(len(conds)))

    return whole


def windows(shape: tuple[int, ...], window: tuple[int, ...], overlap: float = 0.5) -> int:
    """How many windows (C, h, w) ``tiled`` walks of latents of a ``shape``."""
    sides = zip(shape[-2:], window[-2:], strict=True)
    return math.prod(len(starts(side, min(one, side), overlap)) for side, one in sides)


def _cut(cond: Cond, x: Tensor, place: tuple[slice, slice]) -> Cond:
    """``cond`` with what lies beside x, or is a picture of its size to look at, cut as x is."""
    parts: dict[str, Any] = {
        name: part[(..., *place)]
        for name, part in (("channels", cond.channels), ("reference", cond.reference))
        if part is not None and part.shape[-2:] == x.shape[-2:]
    }
    return replace(cond, **parts) if parts else cond


def starts(length: int, window: int, overlap: float) -> list[int]:
    """Where windows begin that cover ``length``: evenly, the first at 0, the last at the end."""
    if length <= window:
        return [0]
    stride = max(1.0, window * (1 - overlap))
    count = 1 + -(-(length - window) // int(stride))
    return [round(k * (length - window) / (count - 1)) for k in range(count)]


def _tent(length: int) -> Tensor:
    """Weights of a window's values: one in the middle, less towards both edges, never 0."""
    place = torch.arange(length, dtype=torch.float64) + 0.5
    return torch.minimum(place, length - place) / (length / 2)


def _blended(
    at: Level, x: Tensor, found: list[Estimate], places: list[tuple[slice, slice]], weight: Tensor
) -> Estimate:
    total = torch.zeros(x.shape[-2:], dtype=torch.float64)
    for place in places:
        total[place] += weight
    ends = []
    for name in ("x0", "eps"):
        end = torch.zeros_like(x)
        for estimate, place in zip(found, places, strict=True):
            share = (weight / total[place]).to(x.device, x.dtype)
            end[(..., *place)] += share * getattr(estimate, name)
        ends.append(end)
    return Estimate(at, *ends)
