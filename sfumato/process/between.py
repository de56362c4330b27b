"""Levels that lie between those of a grid, for samplers that evaluate the network on the way."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

from sfumato.process.level import Level
from sfumato.process.schedule import Schedule

SAME = 1e-9
"""How far two values of log(alpha / sigma) may differ by rounding."""


class Levels(tuple[Level, ...]):
    """A tuple of levels that knows the ``schedule`` they were taken from; a slice of it knows it too.

    The schedule is what tells a network's time at a level between two others. It takes no part in equality.
    """

    schedule: Schedule | None

    def __new__(cls, levels: Iterable[Level], schedule: Schedule | None = None) -> Levels:
        """The ``levels`` of ``schedule``."""
        made = super().__new__(cls, levels)
        made.schedule = schedule
        return made

    def __getitem__(self, where: Any) -> Any:
        """One level, or for a slice Levels of the same schedule."""
        found = super().__getitem__(where)
        return Levels(found, self.schedule) if isinstance(where, slice) else found

    def __getnewargs__(self) -> tuple[tuple[Level, ...], Schedule | None]:
        """What pickle and copy make it of again."""
        return tuple(self), self.schedule


def level_at(grid: Sequence[Level], lam: float) -> Level:
    """The level with ``log(alpha / sigma) = lam`` on the process of ``grid``, whose range it lies in.

    By the grid's own schedule where it knows one, which also gives the time that the network was trained to be
    told there; else between its two neighbours in the grid, by ``between``.
    """
    schedule: Schedule | None = getattr(grid, "schedule", None)
    if schedule is not None:
        found = schedule.at(lam)
        if abs(found.lam - lam) <= SAME * max(1.0, abs(lam)):  # a schedule is limited to trained levels
            return found
    for at, to in pairwise(grid):
        if min(at.lam, to.lam) <= lam <= max(at.lam, to.lam):
            return between(at, to, lam)
    return between(grid[0], grid[-1], lam)


def between(at: Level, to: Level, lam: float) -> Level:
    """The level with ``lam`` on the way from ``at`` to ``to`` where only those two are known.

    On the circle ``alpha^2 + sigma^2 = 1`` where both lie on it (variance-preserving processes), time running
    evenly with the angle; else on the straight line between them, which is the process itself of a rectified flow
    and of EDM, time running evenly with sigma. The time is exact on cosine, flow and EDM, near on tables.
    """
    if all(abs(math.hypot(end.alpha, end.sigma) - 1) < 1e-6 for end in (at, to)):
        angle, first, last = (
            math.atan2(math.exp(-lam), 1.0),
            *(math.atan2(e.sigma, e.alpha) for e in (at, to)),
        )
        part = (angle - first) / (last - first)
        return Level(at.t + part * (to.t - at.t), math.cos(angle), math.sin(angle))
    ratio = math.exp(-lam)
    rise, run = to.sigma - at.sigma, to.alpha - at.alpha
    part = (ratio * at.alpha - at.sigma) / (rise - ratio * run)
    return Level(at.t + part * (to.t - at.t), at.alpha + part * run, at.sigma + part * rise)
