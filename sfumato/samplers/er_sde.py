"""ER-SDE-Solver-3: an SDE whose noise is chosen by a function of the level, integrated to third order."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

from sfumato.process.estimate import Denoise, Estimate, Fresh, Line
from sfumato.process.level import Level
from sfumato.process.vector import Vector
from sfumato.samplers.adams import levels, summed
from sfumato.samplers.multistep import Churn, multistep
from sfumato.samplers.polynomial import NEAREST, REMEMBERED, Shares
from sfumato.samplers.rules import Rule, ddim
from sfumato.samplers.stochastic import louder

Scale = Callable[[float], float]
"""The logarithm of the noise scale function, of the logarithm of sigma / alpha."""


async def er_sde(
    x: Vector, grid: Sequence[Level], denoise: Denoise, fresh: Fresh, *, s_noise: float = 1.0
) -> Vector:
    """ER-SDE-Solver-3 (Cui et al. 2023, section 3) with the noise scale function that the paper recommends.

    Over v = sigma / alpha, and with the noise scale function phi, the extended reverse SDE has the solution ``x_to /
    alpha_to = (phi(v_to) / phi(v)) x / alpha + phi(v_to) int phi' / phi^2 x0 dv + noise``: a mean of x0,
    of which Taylor's polynomial by backward differences is integrated. First order from pure noise and to sigma = 0.
    """
    rules = (ddim, extended(recommended), extended(recommended))
    return await multistep(
        x, grid, denoise, louder(fresh, s_noise), rules=rules, churn=extended_by(recommended)
    )


def recommended(log_v: float) -> float:
    """The logarithm of ``phi(v) = v (e^(v^0.3) + 10)``, the paper's choice for pictures."""
    power = math.exp(0.3 * log_v)
    return log_v + (math.log(math.exp(power) + 10) if power < 700 else power)


def extended_by(scale: Scale) -> Churn:
    """The noise of the extended SDE: ``alpha_to sqrt(v_to^2 - r^2 v^2)``, r = phi(v_to) / phi(v)."""

    def std(at: Level, to: Level) -> float:
        if to.sigma == 0 or at.alpha == 0:
            return to.sigma
        kept = math.exp(scale(-to.lam) - scale(-at.lam) + to.lam - at.lam)
        return to.sigma * math.sqrt(max(0.0, (1 - kept) * (1 + kept)))

    return std


def extended(scale: Scale) -> Rule:
    """The mean of x0 over the step: ``x0 + m1 x0' + m2 / 2 x0''`` by backward differences over v.

    m1 and m2 are the moments of v's way from the step's beginning. x0' is the last difference quotient, as the paper
    has it, which is x0's slope in the middle of the last step and not at its end.
    """

    def rule(past: Sequence[Estimate], to: Level) -> Line:
        return summed(past, "x0", _shares(scale, levels(past), to))

    return rule


@lru_cache(maxsize=REMEMBERED)
def _shares(scale: Scale, seen: tuple[Level, ...], to: Level) -> Shares:
    """The parts of past x0 in the step's mean. Levels that rounding alone holds apart say nothing of a slope."""
    alone: Shares = ((0,), (1.0,))
    v = [at.ratio for at in seen]
    least = NEAREST * (v[0] - to.ratio)
    if to.sigma == 0 or not 0 < least < v[1] - v[0] < math.inf:
        return alone
    first, second = moments(scale, seen[0].lam, to.lam)
    gap = 1 / (v[0] - v[1])
    if len(v) < 3 or not least < v[2] - v[1] < math.inf:
        return (0, 1), (1 + first * gap, -first * gap)
    curve, before = second / (v[0] - v[2]), 1 / (v[1] - v[2])
    parts = (1 + first * gap + curve * gap, -first * gap - curve * (gap + before), curve * before)
    return (0, 1, 2), parts


NODES = (0.1834346424956498, 0.5255324099163290, 0.7966664774136267, 0.9602898564975363)
WEIGHTS = (0.3626837833783620, 0.3137066458778873, 0.2223810344533745, 0.1012285362903763)
"""Gauss and Legendre's rule of 8 points on [-1, 1], the positive half."""


def moments(scale: Scale, lam: float, to: float) -> tuple[float, float]:
    """The means of ``v - v_at`` and of its square over the step between two lambdas, weighted by ``phi' / phi^2``.

    By parts: ``m1 (1 - r) = v_to - v + phi(v_to) int dv / phi``, and ``m2 / 2`` likewise with one more power. The
    integrals, over log v where they are smooth, are by quadrature.
    """
    end, here, there = scale(-to), math.exp(-lam), math.exp(-to)
    if to - lam < 1e-6:  # where the difference below would be rounding, and the weight is flat
        return (there - here) / 2, (there - here) ** 2 / 3
    centre, half = -(lam + to) / 2, (to - lam) / 2
    whole = slope = 0.0
    for node, weight in zip(NODES, WEIGHTS, strict=True):
        for u in (centre - half * node, centre + half * node):
            v = math.exp(u)
            part = half * weight * v * math.exp(end - scale(u))
            whole += part
            slope += part * (v - here)
    room, step = -math.expm1(end - scale(-lam)), there - here
    return (step + whole) / room, 2 * (step * step / 2 + slope) / room
