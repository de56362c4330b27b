"""The reverse SDE by Euler and Maruyama's method, and with Langevin steps between: Song et al. 2021b."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from sfumato.process.estimate import Denoise, Estimate, Fresh
from sfumato.process.level import Level, posterior_std
from sfumato.process.vector import Vector, blend
from sfumato.samplers.stochastic import within


def reverse_step(line: Estimate, to: Level, fresh: Fresh) -> Vector:
    """One step of Euler and Maruyama's method on the reverse SDE (Song et al. 2021b, equation 6).

    The clock is v = (sigma / alpha)^2, the variance where x is divided by alpha: there the SDE is ``dx = -2 score
    dv / 2 + dW``, and the step ``x - eps dv / sqrt(v) + sqrt(dv) fresh``, which is also the paper's reverse diffusion
    sampler of the exploding SDE (appendix F). From pure noise, where v is infinite, DDPM's step; to sigma = 0 the
    mean alone, the paper's last denoising step (appendix G).
    """
    at = line.at
    if to.sigma == 0:
        return line.move(to)
    noise = fresh(at, to)
    if at.alpha == 0:
        return line.move(to, posterior_std(at, to), noise)
    lost = math.sqrt(max(0.0, (at.ratio - to.ratio) * (at.ratio + to.ratio)))
    return line.move(to, to.alpha * lost, noise, kept=to.sigma * to.ratio / at.ratio)


async def euler_maruyama(x: Vector, grid: Sequence[Level], denoise: Denoise, fresh: Fresh) -> Vector:
    """``reverse_step`` on each step of the grid."""
    for at, to in pairwise(grid):
        x = reverse_step(await denoise(x, at), to, fresh)
    return x


async def pc(
    x: Vector,
    grid: Sequence[Level],
    denoise: Denoise,
    fresh: Fresh,
    *,
    snr: float = 0.16,
    corrections: int = 1,
) -> Vector:
    """Predictor and corrector (Song et al. 2021b, algorithm 2): ``reverse_step``, then Langevin steps at the new level.

    A Langevin step is ``x + e score + sqrt(2 e) fresh`` with score = -eps / sigma. The paper (algorithm 4) takes
    ``e = 2 (snr |fresh| / |score|)^2``, norms being means over a batch; for noise of unit variance that is
    ``2 (snr sigma)^2``, which is used here and depends on no other row, nor on x. ``corrections`` is how many a level;
    the last level, if it has no noise, has none.
    """
    within("snr", snr, 0.0, 1.0)
    within("corrections", corrections, 0)
    for at, to in pairwise(grid):
        x = reverse_step(await denoise(x, at), to, fresh)
        for visit in range(1, corrections + 1 if to.sigma else 1):
            eps = (await denoise(x, to)).eps
            drift = blend(-2 * snr * snr * to.sigma, eps, 2 * snr * to.sigma, fresh(at, to, visit))
            x = x + drift
    return x
