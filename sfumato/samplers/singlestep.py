"""Samplers that evaluate the network more than once a step."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from sfumato.process.estimate import Estimate, Vector
from sfumato.process.level import Level
from sfumato.samplers.multistep import Denoise, Fresh


async def heun(x: Vector, grid: Sequence[Level], denoise: Denoise, fresh: Fresh) -> Vector:
    """Heun's second-order method (Karras et al. 2022, algorithm 1).

    An Euler step to the next level, an evaluation there, and the step again with the mean of both slopes. The
    slope is that of ``x / (alpha + sigma)`` over ``sigma / (alpha + sigma)``, which is finite from pure noise
    (alpha = 0) to none, and equals ``eps - x0`` times a number. The last step, to sigma = 0, is Euler's.
    """
    for at, to in pairwise(grid):
        here = await denoise(x, at)
        if to.sigma == 0:
            x = here.move(to)
            continue
        there = await denoise(here.move(to), to)
        x = mean_slope(x, here, there, at, to)
    return x


def mean_slope(x: Vector, here: Estimate, there: Estimate, at: Level, to: Level) -> Vector:
    """x at level ``to`` after a trapezoidal step in the flow chart.

    With y = x / (alpha + sigma) and s = sigma / (alpha + sigma), dy/ds = eps - x0 (Liu et al. 2022, eq. 1).
    """
    sum_at, sum_to = at.alpha + at.sigma, to.alpha + to.sigma
    step = to.sigma / sum_to - at.sigma / sum_at
    slope = 0.5 * ((here.eps - here.x0) + (there.eps - there.x0))
    return sum_to * ((1 / sum_at) * x + step * slope)
