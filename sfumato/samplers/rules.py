"""Rules: pure functions of the past estimates that say on which line the next step moves.

A rule gets the estimates so far (newest last) and the level ahead, and returns an Estimate at the newest level;
``multistep`` then moves along it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from sfumato.process.estimate import Estimate
from sfumato.process.level import Level

Rule = Callable[[Sequence[Estimate], Level], Estimate]


def ddim(past: Sequence[Estimate], to: Level) -> Estimate:
    """The newest estimate as it is: first order.

    Without fresh noise this is DDIM (Song et al. 2021a, equation 12), Euler's method on the probability-flow ODE
    in sigma / alpha, and on the flow in sigma; with it, DDPM and the ancestral samplers.
    """
    return past[-1]


def dpmpp_2m(past: Sequence[Estimate], to: Level) -> Estimate:
    """DPM-Solver++(2M) (Lu et al. 2022b, algorithm 2): x0 extrapolated on a line in lambda.

    ``D = x0_i + (h_i / (2 h_{i-1})) (x0_i - x0_{i-1})`` with h the steps in lambda = log(alpha / sigma). First
    order where that line is not there: from pure noise and to sigma = 0, where lambda is infinite, and after a
    level that the grid repeats.
    """
    before, now = past
    behind, ahead = now.at.lam - before.at.lam, to.lam - now.at.lam
    if behind == 0 or not (math.isfinite(behind) and math.isfinite(ahead)):
        return now
    return now.towards(now.x0 + (ahead / (2 * behind)) * (now.x0 - before.x0))
