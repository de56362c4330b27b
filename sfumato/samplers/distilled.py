"""Samplers of a few steps, for networks that were distilled to answer the end of the path, x0, at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from sfumato.process.estimate import Denoise, Fresh
from sfumato.process.level import Level
from sfumato.process.vector import Vector
from sfumato.samplers.multistep import multistep
from sfumato.samplers.rules import ddim
from sfumato.samplers.stochastic import louder, within


async def lcm(
    x: Vector, grid: Sequence[Level], denoise: Denoise, fresh: Fresh, *, s_noise: float = 1.0
) -> Vector:
    """Latent consistency sampling (Luo et al. 2023, algorithm 3): to x0, and all noise of the next level anew."""
    return await multistep(
        x, grid, denoise, louder(fresh, s_noise), rules=(ddim,), churn=lambda at, to: to.sigma
    )


async def consistency(
    x: Vector, grid: Sequence[Level], denoise: Denoise, fresh: Fresh, *, epsilon: float = 0.002
) -> Vector:
    """Multistep consistency sampling (Song et al. 2023, algorithm 1): ``x0 + sqrt(sigma^2 - epsilon^2) fresh``.

    ``epsilon`` is the sigma / alpha at which the network's answers end, and so what their noise is already; with 0
    this is ``lcm``. A step to a level of less noise than ``epsilon`` draws nothing.
    """
    least = within("epsilon", epsilon, 0.0)
    for at, to in pairwise(grid):
        std = math.sqrt(max(0.0, to.sigma**2 - (least * to.alpha) ** 2))
        x = (await denoise(x, at)).move(to, std, fresh(at, to) if std else 0.0, kept=0.0)
    return x


async def tcd(
    x: Vector, grid: Sequence[Level], denoise: Denoise, fresh: Fresh, *, gamma: float = 0.3
) -> Vector:
    """Strategic stochastic sampling of trajectory consistency models (Zheng et al. 2024, algorithm 4).

    From x along the estimate down to the time ``(1 - gamma) t``, and from there by fresh noise up to the next level's
    t. ``gamma`` 0 draws nothing and is ``ddim``; 1 is ``lcm`` where time 0 has no noise (of a discrete schedule, index
    0 has a little). Time is the schedule's; levels that know none have it run evenly with the angle on the circle
    alpha^2 + sigma^2 = 1, with sigma elsewhere.
    """
    within("gamma", gamma, 0.0, 1.0)

    def churn(at: Level, to: Level) -> float:
        if to.sigma == 0 or gamma == 0:
            return 0.0
        low = earlier(grid, to, 1 - gamma)
        kept = to.alpha / low.alpha * low.sigma
        return math.sqrt(max(0.0, (to.sigma - kept) * (to.sigma + kept)))

    return await multistep(x, grid, denoise, fresh, rules=(ddim,), churn=churn)


def earlier(grid: Sequence[Level], at: Level, part: float) -> Level:
    """The level at ``part`` of the time of ``at``."""
    schedule = getattr(grid, "schedule", None)
    if schedule is not None and math.isclose(schedule.level(at.t).sigma, at.sigma, rel_tol=1e-9):
        level: Level = schedule.level(part * at.t)
        return level
    if abs(math.hypot(at.alpha, at.sigma) - 1) < 1e-6:
        angle = part * math.atan2(at.sigma, at.alpha)
        return Level(part * at.t, math.cos(angle), math.sin(angle))
    return Level(part * at.t, 1 + part * (at.alpha - 1), part * at.sigma)
