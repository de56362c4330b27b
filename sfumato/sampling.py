"""For people who bring their own network: one call from a function of (x, level) to samples."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from sfumato.engine.run import run
from sfumato.errors import InvalidRequest
from sfumato.noise import Stream
from sfumato.process.estimate import Denoise, Estimate
from sfumato.process.grid import Grid
from sfumato.process.level import Level
from sfumato.samplers import Sampler
from sfumato.samplers import sampler as sampler_named

Answer = Tensor | Estimate | Awaitable[Tensor | Estimate]
OFF = 0.02
"""By what part of x an estimate may miss it, for rounding in a network of half precision."""


def sample(
    denoise: Callable[[Any, Level], Answer],
    *,
    shape: Sequence[int],
    grid: Grid,
    sampler: str = "dpmpp_2m",
    seeds: Sequence[int] = (0,),
    x0: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Samples (len(seeds), *shape), each a function of its own seed, by any sampler on any grid.

    ``denoise(x, level)`` gets all rows (len(seeds), *shape) and a Level of floats, and returns the clean x0 of x's
    shape, or an Estimate where the network's own eps is wanted too; it may be ``async``. ``sampler`` is a name, with
    options where it has some, ``"edm(churn=40)"``. The walk begins at ``alpha x0 + sigma noise`` of the first level
    (``x0`` None for 0, which is generation) and ends at the last. InvalidRequest for names, seeds and shapes that
    do not fit, and for an Estimate whose ends do not add up to x (CFG++) under a sampler that needs that.

    ::

        grid = sfumato.grid("karras", steps=20, schedule=sfumato.schedules.edm())
        x0 = sfumato.sample(denoise, shape=(2,), grid=grid, sampler="dpmpp_2m", seeds=[1, 2, 3, 4])
    """
    entry = sampler_named(sampler)
    if len(grid) < 2:
        raise InvalidRequest("a grid needs two levels at least: one to begin at and one to end at")
    if not len(seeds):
        raise InvalidRequest("seeds is empty; give one seed a sample")
    rows = (len(seeds), *shape)
    if x0 is not None and tuple(x0.shape) != rows:
        raise InvalidRequest(
            f"x0 has shape {tuple(x0.shape)}; {len(seeds)} seeds and shape {tuple(shape)} need {rows}"
        )
    if entry.by_row and len(seeds) > 1:
        parts = [
            sample(
                denoise,
                shape=shape,
                grid=grid,
                sampler=sampler,
                seeds=[seed],
                x0=None if x0 is None else x0[i : i + 1],
                dtype=dtype,
            )
            for i, seed in enumerate(seeds)
        ]
        return torch.cat(parts)
    noise = Stream(seeds, shape, dtype)
    x = grid[0].sigma * noise.start()
    if x0 is not None:
        x = x + grid[0].alpha * x0.to(dtype)
    with torch.no_grad():
        end: Tensor = run(entry.walk(x, grid, on_line(as_denoise(denoise), entry), noise))
    return end


def as_denoise(function: Callable[[Any, Level], Answer]) -> Denoise:
    """A function of (x, level) as samplers, guidance and constraints want it: a coroutine that returns an Estimate.

    An answer that is a tensor is x0, and eps is what is left, ``(x - alpha x0) / sigma``. InvalidRequest for an
    answer of another kind or shape. What ``sample`` does with the function that it is given; needed where a wrapper
    of ``sfumato.guidance`` stands between, as in ``known(sfumato.as_denoise(denoise), y, mask)``.
    """

    async def estimated(x: Tensor, at: Level) -> Estimate:
        found: Any = function(x, at)
        if inspect.isawaitable(found):
            found = await found
        if isinstance(found, Estimate):
            return found
        if not isinstance(found, Tensor) or found.shape != x.shape:
            told = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            raise InvalidRequest(
                f"denoise(x, level) must return x0 of x's shape {tuple(x.shape)}, or an Estimate; it returned {told}"
            )
        return Estimate(at, found, (x - at.alpha * found) / at.sigma)

    return estimated


def on_line(denoise: Denoise, entry: Sampler) -> Denoise:
    """``denoise`` with a check, under samplers that need it, that both ends of an estimate add up to x."""
    if entry.off_line:
        return denoise

    async def checked(x: Tensor, at: Level) -> Estimate:
        found = await denoise(x, at)
        away = (at.alpha * found.x0 + at.sigma * found.eps - x).abs().max()
        if float(away) > OFF * float(x.abs().max() + at.sigma):
            raise InvalidRequest(
                f"the estimate's x0 and eps do not add up to x at sigma = {at.sigma:g}, and the sampler "
                f"{entry.name!r} uses x itself: take one that moves along estimates, such as 'ddim' or 'dpmpp_2m'"
            )
        return found

    return checked
