"""Constraints: wrappers of a denoiser that hold its x0 to what is known or allowed."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from sfumato.errors import InvalidRequest
from sfumato.guidance.rows import each_row
from sfumato.process.estimate import Denoise, Estimate
from sfumato.process.level import Level

Mask = Tensor | Callable[[Level], Tensor]
"""1 where something is known, 0 where it is free, between for a blend; or that as a function of the level."""


def known(denoise: Denoise, y: Tensor, mask: Mask) -> Denoise:
    """Where ``mask`` is 1, x0 is ``y`` and eps what is left of x, ``(x - alpha y) / sigma``: inpainting.

    ``y`` and ``mask`` are of x's shape or spread over it. Between 0 and 1 the estimate is the blend
    ``m known + (1 - m) found`` of both ends. If a walk starts at ``alpha y + sigma n`` inside the mask, its x stays
    on that path at every level and ends at y, for every sampler that moves along estimates: nothing is pasted, and
    n need not be told. For deterministic samplers it is the paste of ``alpha y + sigma n`` after every step (Song et
    al. 2021b, section 5). A mask that is a function of the level frees parts of the picture one after another
    (differential diffusion, Levin & Fried 2023).
    """

    async def held(x: Tensor, at: Level) -> Estimate:
        found = await denoise(x, at)
        m = mask if isinstance(mask, Tensor) else mask(at)
        # Without noise nothing can be said of eps, and there the network's own is kept.
        eps = (x - at.alpha * y) / at.sigma if at.sigma else found.eps
        return Estimate(at, m * y + (1 - m) * found.x0, m * eps + (1 - m) * found.eps, found.learned)

    return held


def clip(denoise: Denoise, low: float, high: float, keep_eps: bool = False) -> Denoise:
    """x0 clipped to ``low`` .. ``high`` (Ho et al. 2020, the released code).

    eps is recomputed, so that x stays on the line of both: diffusers' ``use_clipped_model_output``. With
    ``keep_eps`` it stays the network's own, which is diffusers' default in DDIM; such estimates are off the line,
    and only samplers with ``Sampler.off_line`` take them. InvalidRequest unless low < high.
    """
    if not low < high:
        raise InvalidRequest(f"clip to {low:g} .. {high:g} is not allowed: low must be below high")
    return _bounded(denoise, lambda x0: x0.clamp(low, high), keep_eps)


def dynamic_threshold(
    denoise: Denoise, quantile: float, bound: float = 1.0, keep_eps: bool = False
) -> Denoise:
    """``clamp(x0, -s, s) bound / s`` with s the ``quantile`` of \\|x0\\| in a row, ``bound`` at the least.

    (Saharia et al. 2022, section 2.3, where bound is 1, the range of pixels, and the quantile 0.995.) Rows whose
    quantile is within the bound are clipped to it. ``keep_eps`` as in ``clip``. InvalidRequest for a quantile
    outside 0 to 1, 0 excluded, or a bound that is not positive.
    """
    if not 0 < quantile <= 1:
        raise InvalidRequest(
            f"threshold = {quantile:g} is outside what is allowed: above 0, to 1 (0.995 is usual)"
        )
    if not bound > 0:
        raise InvalidRequest(f"bound = {bound:g} is outside what is allowed: above 0 (1 for pixels)")

    def pressed(x0: Tensor) -> Tensor:
        s = each_row(lambda row: _quantile(row.abs(), quantile), x0).clamp(min=bound)
        return torch.clamp(x0, -s, s) * (bound / s)

    return _bounded(denoise, pressed, keep_eps)


def _bounded(denoise: Denoise, press: Callable[[Tensor], Tensor], keep_eps: bool) -> Denoise:
    async def bounded(x: Tensor, at: Level) -> Estimate:
        found = await denoise(x, at)
        x0 = press(found.x0)
        # At sigma = 0 there is no eps that makes up for another x0.
        eps = found.eps if keep_eps or not at.sigma else found.towards(x0).eps
        return Estimate(at, x0, eps, found.learned)

    return bounded


def _quantile(values: Tensor, part: float) -> Tensor:
    """The quantile ``part`` of a vector, on a line between its neighbours; only what lies above it is sorted."""
    place = part * (len(values) - 1)
    low = math.floor(place)
    top = values.topk(len(values) - low).values
    return torch.lerp(top[-1], top[-2], place - low) if place > low else top[-1]
