"""Grids: the list of levels that a sampler walks, from much noise to none.

A grid of ``steps`` has ``steps + 1`` levels, and their noise falls from each to the next. The last is ``zero``
(no noise at all) or ``first``, the schedule's own least level (diffusers' ``set_alpha_to_one=False``).
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, Literal

from sfumato.errors import InvalidRequest, UnknownName
from sfumato.process.between import SAME, Levels
from sfumato.process.level import CLEAN, Level
from sfumato.process.prediction import Prediction
from sfumato.process.schedule import Schedule
from sfumato.process.spacing import (
    beta,
    ddim_uniform,
    leading,
    linear_quadratic,
    linspace,
    normal,
    sgm_uniform,
    shifted,
    simple,
    trailing,
)
from sfumato.process.spacing_flow import even, trig
from sfumato.process.spacing_sigma import (
    align_your_steps,
    custom,
    exponential,
    karras,
    kl_optimal,
    listed,
    polyexponential,
)
from sfumato.process.spec import check_options, parse
from sfumato.process.table import Table

Final = Literal["zero", "first"]
Grid = tuple[Level, ...]
Spacing = Callable[..., list[Level]]

SPACINGS: dict[str, Spacing] = {
    "linspace": linspace,
    "normal": normal,
    "leading": leading,
    "trailing": trailing,
    "karras": karras,
    "exponential": exponential,
    "polyexponential": polyexponential,
    "beta": beta,
    "sgm_uniform": sgm_uniform,
    "simple": simple,
    "ddim_uniform": ddim_uniform,
    "kl_optimal": kl_optimal,
    "align_your_steps": align_your_steps,
    "linear_quadratic": linear_quadratic,
    "shifted": shifted,
    "even": even,
    "trig": trig,
    "custom": custom,
}
"""The grids by name: ``(schedule, steps, *, options)`` gives the levels at which the network is asked."""

MOST_STEPS = 10_000


def make_grid(
    name: str | Sequence[float] | Sequence[Level],
    *,
    steps: int | None = None,
    schedule: Schedule,
    final: Final = "zero",
    prediction: Prediction | None = None,
) -> Grid:
    """The grid ``name`` of ``steps`` steps on ``schedule``: ``steps + 1`` levels, noise falling.

    ``name`` may have options, ``"karras(rho=5)"``, or be a list: of sigmas, as ``"custom(sigmas=[...])"`` reads
    them, or of Levels. A list says itself how many steps there are, and the final level is added where it does not
    end there. A spacing that ends at the schedule's least level anyway (linspace on a table, karras) ends there once
    under ``final="first"``, and one more of its levels is taken before.

    Raises UnknownName for an unknown grid, option or final level, and InvalidRequest for steps outside what is
    allowed, more steps than levels stay apart, a grid that does not fit the schedule, and, where ``prediction`` is
    given, one that asks the network where its output says nothing (``check_askable``). The grid knows its schedule
    (process.between), unless it was given as Levels.
    """
    if final not in ("zero", "first"):
        raise UnknownName("final level", final, ("zero", "first"))
    if not isinstance(name, str):
        grid = _given(_levels(name, schedule), steps, schedule, final)
    else:
        chosen, options = _chosen(name)
        if chosen == "custom":
            grid = _given(listed(schedule, **options), steps, schedule, final)
        elif steps is None:
            raise InvalidRequest(f"steps is missing: the grid {chosen!r} needs their number (20 is usual)")
        else:
            grid = _spaced(chosen, partial(SPACINGS[chosen], **options), steps, schedule, final)
    if prediction is not None:
        check_askable(grid, prediction)
    # Levels that were handed over need not be the schedule's.
    return Levels(grid, schedule if isinstance(name, str) or not isinstance(name[0], Level) else None)


def steps_in(name: str, schedule: Schedule) -> int | None:
    """The number of steps that the text of a grid fixes by itself, ``"custom(sigmas=[...])"``; None for all others."""
    chosen, options = _chosen(name)
    if chosen != "custom":
        return None
    return sum(level.sigma > 0 for level in listed(schedule, **options))


def check_askable(grid: Sequence[Level], prediction: Prediction) -> None:
    """Refuse a grid that asks a network of ``prediction`` where its output says nothing.

    The network is asked at every level but the last. A network that predicts eps says nothing of x0 in pure noise,
    one that predicts x0 nothing of eps without noise, and EDM's is defined where alpha = 1 alone.
    """
    for at in grid[:-1]:
        if prediction.kind == "eps" and at.alpha == 0:
            raise InvalidRequest(
                "a network that predicts eps says nothing of the picture in pure noise (alpha = 0), which this grid "
                "asks it at: choose a grid that begins lower, such as 'leading', or a network that predicts v"
            )
        if prediction.kind == "x0" and at.sigma == 0:
            raise InvalidRequest(
                "a network that predicts x0 says nothing of the noise where there is none (sigma = 0), which this "
                "grid asks it at: make the grid with final='first'"
            )
        if prediction.kind == "edm" and at.alpha != 1:
            raise InvalidRequest(
                f"a network that predicts edm is defined where alpha = 1, and this grid has alpha = {at.alpha:g}: "
                f"use the schedule 'exploding'"
            )


def tail(grid: Grid, strength: float) -> Grid:
    """The last ``min(int(n strength), n)`` of the n steps of ``grid``: where image-to-image begins.

    InvalidRequest for a strength outside (0, 1], or so small that no step is left.
    """
    steps = len(grid) - 1
    if not 0 < strength <= 1:
        raise InvalidRequest(f"strength = {strength:g} is outside what is allowed: above 0 and at most 1")
    kept = min(int(steps * strength), steps)
    if kept == 0:
        raise InvalidRequest(
            f"strength = {strength:g} leaves none of {steps} steps; it must be {1 / steps:.3g} or more"
        )
    return grid[steps - kept :]


def back(grid: Grid) -> Grid:
    """``grid`` the other way round, noise rising: what inversion walks.

    Where ``grid`` ends without noise, its network is asked there first; ``final="first"`` spares it that.
    """
    return grid[::-1]


def _chosen(text: str) -> tuple[str, dict[str, Any]]:
    name, options = parse(text, "grid")
    if name not in SPACINGS:
        raise UnknownName("grid", name, SPACINGS)
    check_options(name, SPACINGS[name], options)
    return name, options


def _levels(values: Sequence[float] | Sequence[Level], schedule: Schedule) -> list[Level]:
    levels = [value for value in values if isinstance(value, Level)]
    sigmas = [value for value in values if not isinstance(value, Level)]
    if levels and sigmas:
        raise InvalidRequest("a list that is a grid holds numbers or Levels, and this one holds both")
    return levels or listed(schedule, sigmas=sigmas)


def _given(levels: list[Level], steps: int | None, schedule: Schedule, final: Final) -> Grid:
    """The grid of a list: its levels, and the final one where it is not there yet."""
    clean = levels[-1].sigma == 0
    if clean and final == "first":
        raise InvalidRequest(
            "the list ends without noise, and final = 'first' at the least level: leave one out"
        )
    end = CLEAN if final == "zero" else schedule.level(schedule.t_min)
    grid = (*levels,) if levels[-1] == end or clean else (*levels, end)
    for here, there in pairwise(grid):
        if not here.lam < there.lam:
            raise InvalidRequest(
                f"the noise of a grid must fall, and {_shown(there)} follows {_shown(here)} in the list"
            )
    if len(grid) < 2 or steps not in (None, len(grid) - 1):
        raise InvalidRequest(
            f"steps = {steps}, but the list makes {len(grid) - 1}: leave steps out"
            if steps is not None
            else "a list of levels needs one at the least at which the network is asked"
        )
    return grid


def _spaced(name: str, spacing: Spacing, steps: int, schedule: Schedule, final: Final) -> Grid:
    if not 1 <= steps <= MOST_STEPS:
        raise InvalidRequest(f"steps = {steps} is outside what is allowed: 1 to {MOST_STEPS} (20 is usual)")
    grid = _try(spacing, steps, schedule, final)
    if grid is None:
        most = _most(spacing, steps - 1, schedule, final)
        raise InvalidRequest(
            f"steps = {steps} is too many for the grid {name!r} on this schedule: at most {most} keep its levels "
            f"apart and within what the model was trained at"
        )
    return grid


def _try(spacing: Spacing, steps: int, schedule: Schedule, final: Final) -> Grid | None:
    """The grid, or None where it has more steps than the schedule has room for."""
    low = schedule.level(schedule.t_min)
    room = len(schedule.signal) if isinstance(schedule, Table) else MOST_STEPS + 1
    if steps > room:
        return None
    levels = spacing(schedule, steps)
    if levels[-1].lam > low.lam + SAME:
        return None
    if final == "first" and levels[-1].lam >= low.lam - SAME:
        if steps + 1 > room:
            return None
        levels = spacing(schedule, steps + 1)[:-1]
    grid = (*levels, CLEAN if final == "zero" else low)
    falls = all(a.alpha < b.alpha or a.sigma > b.sigma for a, b in pairwise(grid))
    return grid if falls else None


def _most(spacing: Spacing, below: int, schedule: Schedule, final: Final) -> int:
    """The most steps, at most ``below``, that there is room for.

    Indices that are rounded need not coincide in order, so every number is tried on a table; continuous levels
    leave their room once and for all, which is found by bisection.
    """

    def fits(steps: int) -> bool:
        try:
            return _try(spacing, steps, schedule, final) is not None
        except InvalidRequest:
            return False

    if isinstance(schedule, Table):
        return next((n for n in range(min(below, len(schedule.signal)), 0, -1) if fits(n)), 0)
    return bisect.bisect_left(range(1, below + 1), True, key=lambda n: not fits(n))


def _shown(level: Level) -> str:
    return f"sigma / alpha = {level.ratio:g}"
