"""Every step walked several times, so that what is held and what is free come to agree."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from sfumato.process.estimate import Denoise, Fresh, Walk
from sfumato.process.level import Level

VISITS = 1000
"""Visits of an interval that one walk of a step may count."""


def repeated(walk: Walk, times: int) -> Walk:
    """``walk`` step by step, each but the last ``times`` times: noise leads back up, and the step is walked again.

    (Lugmayr et al. 2022, RePaint, algorithm 1, with jumps of one step of the grid.) A sampler that remembers steps
    begins anew with each.
    """

    async def over(x: Any, grid: Sequence[Level], denoise: Denoise, fresh: Fresh) -> Any:
        for k in range(len(grid) - 1):
            at, to = grid[k], grid[k + 1]
            rounds = times if k < len(grid) - 2 else 1
            for n in range(rounds):
                below = await walk(x, grid[k : k + 2], denoise, _later(fresh, n))
                x = raised(below, to, at, fresh(at, to, VISITS * n + VISITS - 1)) if n < rounds - 1 else below
        return x

    return over


def raised(x: Any, at: Level, to: Level, fresh: Any) -> Any:
    """x at the level ``at`` carried up to ``to`` by the process: scaled, and noise added to the level's variance."""
    kept = to.alpha / at.alpha
    return kept * x + math.sqrt(max(0.0, to.sigma**2 - (kept * at.sigma) ** 2)) * fresh


def _later(fresh: Fresh, number: int) -> Fresh:
    """``fresh`` for the visit ``number`` of a step."""

    def draw(at: Level, to: Level, visit: int = 0) -> Any:
        return fresh(at, to, VISITS * number + visit)

    return draw
