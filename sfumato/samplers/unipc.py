"""UniPC: a predictor and a corrector of exponential Adams methods that share their evaluations."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import pairwise

from sfumato.process.estimate import Denoise, Estimate, Fresh
from sfumato.process.level import Level
from sfumato.process.vector import Vector, mix
from sfumato.samplers.adams import levels, within
from sfumato.samplers.polynomial import REMEMBERED, Shares, over_lambda, weights

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
    begun: Vector = None  # x where the last step began, corrected
    for at, to in pairwise(grid):
        now = await denoise(x, at)
        if begun is not None:
            x = carried(begun, past, past[-1].at, at, half, now)
        past = (*past, now)[-order:]
        begun, x = (x if at.alpha > 0 else None), carried(x, past, at, to, half)
    return x


def carried(
    x: Vector,
    past: Sequence[Estimate],
    at: Level,
    to: Level,
    half: Half,
    beyond: Estimate | None = None,
) -> Vector:
    """x moved from ``at`` to ``to`` with the mean of x0 over the step, whose end ``beyond`` may know.

    ``sigma_to / sigma x + (alpha_to - alpha sigma_to / sigma) mean``, the variation of constants formula.
    """
    kept = to.sigma / at.sigma
    pull = to.alpha - kept * at.alpha
    found = past if beyond is None else (*past, beyond)
    picks, by = _shares(levels(past), at, to, half, beyond is not None)
    return mix([kept, *(pull * share for share in by)], [x, *(found[-1 - pick].x0 for pick in picks)])


@lru_cache(maxsize=REMEMBERED)
def _shares(seen: tuple[Level, ...], at: Level, to: Level, half: Half, corrects: bool) -> Shares:
    """The mean's parts; where they are two, the second's weight is ``half``'s."""
    seen = (to, *seen) if corrects else seen
    picks, by = over_lambda(seen, at, to)
    if len(picks) != 2:
        return picks, by
    ahead = to.lam - at.lam
    return picks, weights([(seen[pick].lam - at.lam) / ahead for pick in picks], (1.0, half(ahead)))
