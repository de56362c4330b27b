"""Stochastic samplers that evaluate the network more than once a step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from sfumato.process.between import level_at
from sfumato.process.estimate import Denoise, Fresh
from sfumato.process.level import Level
from sfumato.process.vector import Vector, blend
from sfumato.samplers.singlestep import heun
from sfumato.samplers.stochastic import ancestral_by, louder, within


async def edm(
    x: Vector,
    grid: Sequence[Level],
    denoise: Denoise,
    fresh: Fresh,
    *,
    churn: float = 40.0,
    tmin: float = 0.05,
    tmax: float = 50.0,
    s_noise: float = 1.003,
) -> Vector:
    """EDM's stochastic sampler (Karras et al. 2022, algorithm 2): a little noise is added, then Heun's step.

    Where sigma / alpha is between ``tmin`` and ``tmax``, noise raises it by the factor ``1 + gamma``, gamma the less of
    ``churn`` / steps and sqrt(2) - 1. Defaults are the paper's for ImageNet-64 (table 5). x is never made noisier
    than the grid's first level, above which the network may know nothing.
    """
    within("churn", churn, 0.0)
    within("tmin", tmin, 0.0)
    within("tmax", tmax, tmin)
    draw = louder(fresh, s_noise)
    gamma = min(churn / max(1, len(grid) - 1), math.sqrt(2) - 1)
    for step, (at, to) in enumerate(pairwise(grid)):
        hat = raised(grid, at, gamma) if tmin <= at.ratio <= tmax else at
        if hat != at:
            x = noised(x, at, hat, draw(at, hat, step + 1))
        x = await heun(x, (hat, to), denoise, fresh)
    return x


def raised(grid: Sequence[Level], at: Level, gamma: float) -> Level:
    """The level with ``1 + gamma`` times the sigma / alpha of ``at``, but not above the first of ``grid``."""
    if gamma == 0 or at.alpha == 0 or at.lam <= grid[0].lam:
        return at
    lam = at.lam - math.log1p(gamma)
    return grid[0] if lam <= grid[0].lam else level_at(grid, lam)


def noised(x: Vector, at: Level, to: Level, fresh: Vector) -> Vector:
    """x at ``at`` brought up to the noisier level ``to``: the forward process, ``(alpha_to / alpha) x + std fresh``."""
    scale = to.alpha / at.alpha
    kept = scale * at.sigma
    return blend(scale, x, math.sqrt(max(0.0, (to.sigma - kept) * (to.sigma + kept))), fresh)


async def dpm2_ancestral(
    x: Vector,
    grid: Sequence[Level],
    denoise: Denoise,
    fresh: Fresh,
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
) -> Vector:
    """DPM-Solver-2's step (Lu et al. 2022a, algorithm 1), in sigma / alpha, with ancestral noise.

    The noise estimate in the middle of the step, in lambda, carries x over all of it, down to what the fresh noise
    leaves. First order from pure noise and where all noise is exchanged.
    """
    churn, draw = ancestral_by(eta), louder(fresh, s_noise)
    for at, to in pairwise(grid):
        line, std = await denoise(x, at), churn(at, to)
        middle = halfway(grid, at, to, std)
        if middle is not None:
            line = line.along((await denoise(line.move(middle), middle)).eps)
        x = line.move(to, std, draw(at, to) if std else 0.0)
    return x


async def dpmpp_2s_ancestral(
    x: Vector,
    grid: Sequence[Level],
    denoise: Denoise,
    fresh: Fresh,
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
) -> Vector:
    """DPM-Solver++(2S) (Lu et al. 2022b, algorithm 1, r = 1/2) with ancestral noise.

    As ``dpm2_ancestral``, with x0 in the place of the noise. First order from pure noise and to sigma = 0.
    """
    churn, draw = ancestral_by(eta), louder(fresh, s_noise)
    for at, to in pairwise(grid):
        line, std = await denoise(x, at), churn(at, to)
        middle = halfway(grid, at, to, std)
        if middle is not None:
            line = line.towards((await denoise(line.move(middle), middle)).x0)
        x = line.move(to, std, draw(at, to) if std else 0.0)
    return x


def halfway(grid: Sequence[Level], at: Level, to: Level, std: float = 0.0) -> Level | None:
    """The level in the middle, in lambda, between ``at`` and where a step to ``to`` goes before noise of ``std``.

    None where that middle is not there: an end is infinite, or the step has no length.
    """
    kept = math.sqrt(max(0.0, (to.sigma - std) * (to.sigma + std)))
    down = Level(to.t, to.alpha, kept)
    if not (math.isfinite(at.lam) and math.isfinite(down.lam) and down.lam > at.lam):
        return None
    return level_at(grid, (at.lam + down.lam) / 2)


async def dpmpp_sde(
    x: Vector,
    grid: Sequence[Level],
    denoise: Denoise,
    fresh: Fresh,
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
) -> Vector:
    """DPM-Solver++ for the SDE, single step, r = 1/2 (Lu et al. 2022b, appendix; k-diffusion's sample_dpmpp_sde).

    An ancestral step to the middle, in lambda; then all of the step with the x0 found there. Two draws: the noise of
    the first half, and that of the second; the whole step's is what a Brownian motion over (alpha / sigma)^2 makes
    of both, so that x in the middle and at the end belong to one path. First order from pure noise and to sigma = 0.
    """
    churn, draw = ancestral_by(eta), louder(fresh, s_noise)
    for at, to in pairwise(grid):
        line, std = await denoise(x, at), churn(at, to)
        middle = halfway(grid, at, to)
        if middle is None:
            noise = draw(at, to) if std else 0.0
        else:
            noise = draw(at, middle) if std else 0.0
            half = line.move(middle, churn(at, middle), noise)
            line = line.towards((await denoise(half, middle)).x0)
            if std:
                noise = joined(at, middle, to, noise, draw(middle, to))
        x = line.move(to, std, noise)
    return x


def joined(at: Level, middle: Level, to: Level, first: Vector, second: Vector) -> Vector:
    """The unit increment over a step of which ``first`` and ``second`` are those over its two parts.

    Each has the share of variance that its part has of the clock (alpha / sigma)^2.
    """
    # Counted back from the end, so that a long step does not overflow.
    share = math.expm1(2 * (at.lam - middle.lam)) / math.expm1(2 * (at.lam - to.lam))
    share *= math.exp(2 * (middle.lam - to.lam))
    return blend(math.sqrt(share), first, math.sqrt(1 - share), second)
