"""One loop for all samplers that evaluate the network once a step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from sfumato.process.estimate import Denoise, Estimate, Fresh, Walk
from sfumato.process.level import Level, posterior_std
from sfumato.process.vector import Vector
from sfumato.samplers.rules import Rule

Churn = Callable[[Level, Level], float]
"""The standard deviation of the fresh noise of the step from one level to the next."""


def still(at: Level, to: Level) -> float:
    """No fresh noise: a deterministic sampler."""
    return 0.0


def ancestral(at: Level, to: Level) -> float:
    """All the noise that the posterior has (Ho et al. 2020, equation 7): DDPM."""
    return posterior_std(at, to)


async def multistep(
    x: Vector,
    grid: Sequence[Level],
    denoise: Denoise,
    fresh: Fresh,
    *,
    rules: Sequence[Rule],
    churn: Churn = still,
    past: Sequence[Estimate] = (),
) -> Vector:
    """Walk ``grid`` from ``x`` at its first level to its last and return x there.

    ``rules[k - 1]`` turns the newest k estimates into the line to move on; the last rule is used as soon as
    there are estimates enough for it. ``fresh`` is asked only where ``churn`` gives more than 0. ``past`` are
    estimates from before the grid, newest last, where a walk goes on from another.
    """
    for at, to in pairwise(grid):
        past = [*past, await denoise(x, at)][-len(rules) :]
        line = rules[len(past) - 1](past, to)
        std = churn(at, to)
        x = line.move(to, std, fresh(at, to) if std else 0.0)
    return x


def walk_by(*rules: Rule, churn: Churn = still) -> Walk:
    """The sampler of ``rules`` and ``churn`` without options: ``multistep`` with both filled in."""

    async def walk(x: Vector, grid: Sequence[Level], denoise: Denoise, fresh: Fresh) -> Vector:
        return await multistep(x, grid, denoise, fresh, rules=rules, churn=churn)

    return walk
