"""SA-Solver: Adams methods for the reverse SDE, with a corrector that uses the predictor's own evaluation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from sfumato.process.estimate import Denoise, Estimate, Fresh
from sfumato.process.level import Level
from sfumato.process.vector import Vector, blend, mix
from sfumato.samplers.adams import levels
from sfumato.samplers.polynomial import over_lambda
from sfumato.samplers.stochastic import louder, sde_by, within


async def sa_solver(
    x: Vector,
    grid: Sequence[Level],
    denoise: Denoise,
    fresh: Fresh,
    *,
    predictor: int = 3,
    corrector: int = 3,
    tau: float = 1.0,
    low: float = 0.0,
    high: float = math.inf,
    s_noise: float = 1.0,
) -> Vector:
    """SA-Solver (Xue et al. 2023, algorithm 1), x0 prediction, predict - evaluate - correct.

    ``predictor`` and ``corrector`` are of how many x0 the polynomials in lambda go through (1 to 4, corrector 0 for
    none), the corrector's through that at the step's end too; both steps of one interval use the same noise. ``tau``
    is how much noise there is (section 4: 0 the ODE, 1 the SDE), where sigma / alpha at the step's beginning is within
    ``low`` and ``high``, and 0 elsewhere. Polynomials begin with what there is; from pure noise and to sigma = 0 the
    step is first order and is not corrected. The last step is never corrected: nothing is evaluated after it.
    """
    within("predictor", predictor, 1, 4)
    within("corrector", corrector, 0, 4)
    within("tau", tau, 0.0)
    within("low", low, 0.0)
    within("high", high, low)
    draw, noisy, still = louder(fresh, s_noise), sde_by(tau * tau), sde_by(0.0)
    past: list[Estimate] = []
    ends = list(pairwise(grid))
    for step, (at, to) in enumerate(ends):
        inside = low <= at.ratio <= high
        rate = 1 + tau * tau * inside
        past = past or [await denoise(x, at)]
        std = (noisy if inside else still)(at, to)
        # The part that predictor and corrector share: what is left of x, and the noise.
        kept = math.sqrt(max(0.0, (to.sigma - std) * (to.sigma + std))) / at.sigma
        base, pull = blend(kept, x, std, draw(at, to) if std else 0.0), to.alpha - kept * at.alpha
        ahead = adams(base, pull, past[-predictor:], at, to, rate)
        if step + 1 < len(ends):
            found = await denoise(ahead, to)
            if corrector and at.alpha > 0 and to.sigma > 0:
                used = [*past[1 - corrector :], found] if corrector > 1 else [found]
                ahead = adams(base, pull, used, at, to, rate)
            past = [*past, found][-4:]
        x = ahead
    return x


def adams(base: Vector, pull: float, found: Sequence[Estimate], at: Level, to: Level, rate: float) -> Vector:
    """``base + pull mean``: the step from ``at`` to ``to`` by the mean of x0 over it.

    The mean is that of the polynomial in lambda through ``found``, weighted by ``e^(rate lambda)`` (Xue et al. 2023,
    section 5). Estimates where lambda is infinite are left out, and a step of infinite length takes the newest alone.
    """
    picks, by = over_lambda(levels(found), at, to, rate) if to.ratio < at.ratio else ((0,), (1.0,))
    shares = [pull * share for share in by]
    return mix([1.0, *shares], [base, *(found[-1 - pick].x0 for pick in picks)])
