"""One loop for all samplers that evaluate the network once a step."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from itertools import pairwise

from sfumato.process.estimate import Estimate, Vector
from sfumato.process.level import Level, posterior_std
from sfumato.samplers.rules import Rule

Denoise = Callable[[Vector, Level], Awaitable[Estimate]]
Fresh = Callable[[Level, Level], Vector]
Churn = Callable[[Level, Level], float]

HISTORY = 3


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
) -> Vector:
    """Walk ``grid`` from ``x`` at its first level to its last and return x there.

    At step i the rule ``rules[min(i, len(rules) - 1)]`` turns the past estimates into the line to move on;
    ``churn(at, to)`` is the deviation of the fresh noise.
    """
    past: list[Estimate] = []
    for at, to in pairwise(grid):
        past = [*past[-HISTORY:], await denoise(x, at)]
        rule = rules[min(len(past), len(rules)) - 1]
        std = churn(at, to)
        x = rule(past, to, std).move(to, std, fresh(at, to) if std else 0.0)
    return x
