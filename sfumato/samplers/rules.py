"""Rules: pure functions of the past estimates that say on which line the next step moves.

A rule gets the estimates so far (newest last) and the level ahead, and returns a line at the newest level: an Estimate,
or one of whose ends is a sum; ``multistep`` then moves along it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from sfumato.process.estimate import Bent, Estimate, Line
from sfumato.process.level import Level
from sfumato.samplers.polynomial import NEAREST

Rule = Callable[[Sequence[Estimate], Level], Line]


def ddim(past: Sequence[Estimate], to: Level) -> Estimate:
    """The newest estimate as it is: first order.

    Without fresh noise this is DDIM (Song et al. 2021a, equation 12), Euler's method on the probability-flow ODE
    in sigma / alpha, and on the flow in sigma; with it, DDPM and the ancestral samplers.
    """
    return past[-1]


def dpmpp_2m(past: Sequence[Estimate], to: Level) -> Line:
    """DPM-Solver++(2M) (Lu et al. 2022b, algorithm 2): x0 extrapolated on a line in lambda.

    ``D = x0_i + (h_i / (2 h_{i-1})) (x0_i - x0_{i-1})`` with h the steps in lambda = log(alpha / sigma). First
    order where that line is not there: from pure noise and to sigma = 0, where lambda is infinite, and after a
    level that the grid repeats, rounding apart.
    """
    before, now = past
    behind, ahead = now.at.lam - before.at.lam, to.lam - now.at.lam
    if abs(behind) <= NEAREST * abs(ahead) or not (math.isfinite(behind) and math.isfinite(ahead)):
        return now
    part = ahead / (2 * behind)
    return Bent(now, "x0", (1 + part, -part), (now.x0, before.x0))


def gradient_estimation(past: Sequence[Estimate], to: Level, gamma: float = 2.0) -> Line:
    """``gamma eps_i + (1 - gamma) eps_{i-1}`` for eps (Permenter & Yuan 2024, who advise gamma = 2).

    A guess of the noise nearer to the data, not a method of higher order: with 1.5 it would be Adams and Bashforth's.
    The newest estimate alone from pure noise, where x does not depend on eps, and to sigma = 0, where the
    denoiser's own x0 is the answer.
    """
    before, now = past
    if now.at.alpha == 0 or to.sigma == 0:
        return now
    return Bent(now, "eps", (gamma, 1 - gamma), (now.eps, before.eps))
