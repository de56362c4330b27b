"""Restart sampling: part of the grid is walked again, after noise has been added."""

from __future__ import annotations

from collections.abc import Sequence

from sfumato.process.estimate import Denoise, Fresh
from sfumato.process.level import Level
from sfumato.process.vector import Vector
from sfumato.samplers.sde_singlestep import noised
from sfumato.samplers.singlestep import heun
from sfumato.samplers.stochastic import louder, within


async def restart(
    x: Vector,
    grid: Sequence[Level],
    denoise: Denoise,
    fresh: Fresh,
    *,
    low: float = 0.1,
    high: float = 2.0,
    times: int = 2,
    s_noise: float = 1.0,
) -> Vector:
    """Restart (Xu et al. 2023, algorithm 1): Heun's method, and ``times`` times back up from ``low`` to ``high``.

    Both are sigma / alpha; the interval is that of the grid's levels within them, and its steps are the grid's. At its
    lower end fresh noise brings x back to its upper end, and the ODE is walked down again: errors made above are
    forgotten, as far as noise hides them. A grid with fewer than two levels within has no interval, and this is
    ``heun``.
    """
    within("low", low, 0.0)
    within("high", high, low)
    within("times", times, 0)
    draw = louder(fresh, s_noise)
    inside = [i for i, at in enumerate(grid) if at.sigma > 0 and low <= at.ratio <= high]
    if len(inside) < 2:
        return await heun(x, grid, denoise, fresh)
    first, last = inside[0], inside[-1]
    x = await heun(x, grid[: last + 1], denoise, fresh)
    for visit in range(1, times + 1):
        x = noised(x, grid[last], grid[first], draw(grid[last], grid[first], visit))
        x = await heun(x, grid[first : last + 1], denoise, fresh)
    return await heun(x, grid[last:], denoise, fresh)
