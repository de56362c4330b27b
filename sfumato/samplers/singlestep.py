"""Samplers that evaluate the network more than once a step."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from sfumato.process.between import level_at
from sfumato.process.estimate import MOST, Denoise, Fresh
from sfumato.process.level import Level
from sfumato.process.vector import Vector, mix


async def heun(x: Vector, grid: Sequence[Level], denoise: Denoise, fresh: Fresh) -> Vector:
    """Heun's second-order method (Karras et al. 2022, algorithm 1).

    An Euler step to the next level, an evaluation there, and the step again with the mean of both estimates. The
    ODE is ``dx = x0 d alpha + eps d sigma``, and the trapezoid is taken over alpha and sigma as the levels have
    them: on EDM's process (alpha = 1) that is Karras' algorithm, on a rectified flow (alpha + sigma = 1) Heun's
    method on the velocity eps - x0, and nothing is divided, so it may begin at pure noise. First-order steps are
    the same in every frame, trapezoids are not: k-diffusion's Heun on a variance-preserving model is this one on
    levels divided by alpha. The last step, to sigma = 0, is Euler's.
    """
    for at, to in pairwise(grid):
        here = await denoise(x, at)
        ahead = here.move(to)
        if to.sigma == 0:
            return ahead
        there = await denoise(ahead, to)
        # Half of Euler's step from here, and half of the one with the slopes seen there.
        halves = (0.5, 0.5, 0.5 * (to.alpha - at.alpha), 0.5 * (to.sigma - at.sigma))
        x = mix(halves, (ahead, x, there.x0, there.eps))
    return x


async def dpm2(x: Vector, grid: Sequence[Level], denoise: Denoise, fresh: Fresh) -> Vector:
    """DPM-Solver-2 (Lu et al. 2022a, algorithm 1): the midpoint method in log(sigma / alpha).

    An Euler step to the level half way in lambda, and the whole step with the noise seen there. The first step from
    pure noise and the last to sigma = 0, where lambda is infinite, are Euler's. k-diffusion calls it DPM2.
    """
    for at, to in pairwise(grid):
        here = await denoise(x, at)
        if at.alpha == 0 or to.sigma == 0:
            x = here.move(to)
            continue
        middle = level_at(grid, (at.lam + to.lam) / 2)
        there = await denoise(here.move(middle), middle)
        held = to.alpha * at.sigma / at.alpha  # the noise that goes with x0 as it is carried along
        if held > MOST:
            x = here.along(there.eps).move(to)
        else:
            x = mix((to.alpha, held, to.sigma - held), (here.x0, here.eps, there.eps))
    return x
