"""UniPC: a predictor and a corrector of exponential Adams methods that share their evaluations."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from sfumato.process.estimate import Denoise, Estimate, Fresh
from sfumato.process.level import Level
from sfumato.process.vector import Vector, mix
from sfumato.samplers.adams import apart, within
from sfumato.samplers.polynomial import exponential, weights

Half = Callable[[float], float]
"""Of the step h in lambda, the weight of a first difference where UniPC takes half of B(h): B(h) / (2 (1 - e^-h))."""


def bh1(h: float) -> float:
    """B(h) = h (Zhao et al. 2023, B_1)."""
    return -0.5 * h / math.expm1(-h)


def bh2(h: float) -> float:
    """B(h) = e^h - 1 (Zhao et al. 2023, B_2), 1 - e^-h where data is predicted."""
    return 0.5


async def unipc(
    x: Vector, grid: Sequence[Level], denoise: Denoise, fresh: Fresh, *, order: int = 2
) -> Vector:
    """UniPC with B2(h), predicting data (Zhao et al. 2023, UniPC-p with UniP-p and UniC-p); ``order`` p is 1 to 4.

    With the corrector the error falls at order p + 1. 2 is what the authors advise under guidance, 3 without.
    """
    return await predict_correct(x, grid, denoise, order=within("unipc", order, 4), half=bh2)


async def unipc_bh1(
    x: Vector, grid: Sequence[Level], denoise: Denoise, fresh: Fresh, *, order: int = 2
) -> Vector:
    """``unipc`` with B1(h), which the authors advise for few steps without guidance; ``order`` p is 1 to 4."""
    return await predict_correct(x, grid, denoise, order=within("unipc_bh1", order, 4), half=bh1)


async def predict_correct(
    x: Vector,
    grid: Sequence[Level],
    denoise: Denoise,
    *,
    order: int,
    half: Half,
    past: Sequence[Estimate] = (),
) -> Vector:
    """Walk ``grid``: predict, ask, correct x with what was asked, and go on from there without asking again.

    x0 is a polynomial in lambda, integrated exactly; so B(h) cancels out of all but the two cases in which the
    authors fix a coefficient to a half: the predictor from two estimates and the corrector from one.
    ``past`` are estimates from before the grid, newest last. First order from pure noise and to sigma = 0, where
    lambda is infinite, and no correction across them.
    """
    predicted = False
    for at, to in pairwise(grid):
        now = await denoise(x, at)
        if predicted:
            better = carried(past, at, half, now)
            # The same x0, on the line through the corrected x.
            now = Estimate(at, now.x0, mix((1.0, 1 / at.sigma, -1 / at.sigma), (now.eps, better, x)))
        past = (*past, now)[-order:]
        x = carried(past, to, half)
        predicted = at.alpha > 0
    return x


def carried(past: Sequence[Estimate], to: Level, half: Half, beyond: Estimate | None = None) -> Vector:
    """x at ``to``, on the newest line of ``past`` with the mean of x0 over the step, whose end ``beyond`` may know."""
    now = past[-1]
    ahead = to.lam - now.at.lam
    if ahead == 0 or not math.isfinite(ahead):
        return now.move(to)
    kept, nodes = apart(past, [e.at.lam for e in past], now.at.lam, ahead)
    if beyond is not None:
        kept, nodes = [*kept, beyond], [*nodes, 1.0]
    if len(kept) == 1:
        return now.move(to)
    moments = exponential(ahead, len(nodes)) if len(nodes) > 2 else [1.0, half(ahead)]
    by = weights(nodes, moments)
    # now.towards(mean).move(to), in one sum: what x0 gains, eps loses times alpha / sigma.
    gain = to.alpha - to.sigma * now.at.alpha / now.at.sigma
    scales = [to.sigma, to.alpha + gain * (by[0] - 1), *(gain * w for w in by[1:])]
    return mix(scales, [now.eps, *(e.x0 for e in kept)])
