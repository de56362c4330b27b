"""Grids: the list of levels that a sampler walks, from much noise to none.

A grid of ``steps`` has ``steps + 1`` levels, and their noise falls from each to the next. The last is ``zero``
(no noise at all) or ``first``, the schedule's own least level (diffusers' ``set_alpha_to_one=False``).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

from sfumato.errors import InvalidRequest, UnknownName
from sfumato.process.between import Levels
from sfumato.process.level import CLEAN, Level
from sfumato.process.schedule import Flow, Schedule, Table

Final = Literal["zero", "first"]
Grid = tuple[Level, ...]
Spacing = Callable[[Schedule, int], list[Level]]


def linspace(schedule: Schedule, steps: int) -> list[Level]:
    """Times on a line down from t_max.

    Of a discrete schedule, whole indices from the last to 0, both included, rounded half to even (Lin et al.
    2024, table 2: "linspace"); a single step begins at the last. Of a continuous schedule, even steps towards
    time 0, which is left to the final level.
    """
    if isinstance(schedule, Table):
        if steps == 1:
            return [schedule.level(schedule.t_max)]
        stride = schedule.t_max / (steps - 1)
        inner = [schedule.level(round(i * stride)) for i in range(steps - 2, -1, -1)]
        return [schedule.level(schedule.t_max), *inner]
    if schedule.t_max / steps < schedule.t_min:
        raise InvalidRequest(
            f"steps = {steps} is too many: the model was not trained below a time of {schedule.t_min:g}"
        )
    return [schedule.level(schedule.t_max * (1 - i / steps)) for i in range(steps)]


def leading(schedule: Schedule, steps: int, offset: int = 1) -> list[Level]:
    """Indices ``i (T // steps) + offset``, highest first (Lin et al. 2024, table 2: "leading").

    ``offset`` 1 is Stable Diffusion's; it gives way where it does not fit, which is at steps = T alone.
    """
    table = _table(schedule, "leading")
    total = len(table.signal)
    stride = total // steps
    shift = min(offset, total - 1 - (steps - 1) * stride)
    return [table.level(i * stride + shift) for i in range(steps - 1, -1, -1)]


def trailing(schedule: Schedule, steps: int) -> list[Level]:
    """Indices ``round(T - i T / steps) - 1`` (Lin et al. 2024, table 2: "trailing"): begins at the last index."""
    table = _table(schedule, "trailing")
    total = len(table.signal)
    down = (total - total / steps) - total  # rounded as numpy's arange does, on which halves depend
    return [table.level(round(total + i * down) - 1) for i in range(steps)]


def karras(schedule: Schedule, steps: int, rho: float = 7.0) -> list[Level]:
    """``(a + i / (n - 1) (b - a))^rho`` in sigma / alpha, a = max^(1/rho), b = min^(1/rho), i = 0 .. n - 1.

    (Karras et al. 2022, equation 5.) A schedule that begins at alpha = 0 has no greatest ratio and is refused.
    """
    top, low = schedule.level(schedule.t_max), schedule.level(schedule.t_min)
    if top.alpha == 0:
        raise InvalidRequest(
            "the grid 'karras' needs a finite greatest sigma / alpha, and this schedule begins at pure noise "
            "(alpha = 0): use 'linspace'"
        )
    a, b = top.ratio ** (1 / rho), low.ratio ** (1 / rho)
    inner = [schedule.at(-rho * math.log(a + i / (steps - 1) * (b - a))) for i in range(1, steps - 1)]
    return [top, *inner, low] if steps > 1 else [top]


def shifted(schedule: Schedule, steps: int, shift: float = 3.0) -> list[Level]:
    """Rectified flow's times on a line, then shifted towards noise: s = shift t / (1 + (shift - 1) t).

    (Esser et al. 2024, equation 23; 3 is what Stable Diffusion 3 uses.) It stands in for the schedule's own
    shift and does not multiply it.
    """
    if not isinstance(schedule, Flow):
        raise InvalidRequest("the grid 'shifted' is for rectified-flow models; use 'linspace' or 'karras'")
    return linspace(Flow(shift, schedule.t_min, schedule.t_max), steps)


SPACINGS: dict[str, Spacing] = {
    "linspace": linspace,
    "leading": leading,
    "trailing": trailing,
    "karras": karras,
    "shifted": shifted,
}
"""The grids by name: each gives the ``steps`` levels at which the network is asked."""


def make_grid(name: str, *, steps: int, schedule: Schedule, final: Final = "zero") -> Grid:
    """The grid ``name`` of ``steps`` steps on ``schedule``: ``steps + 1`` levels, noise falling.

    A spacing that ends at the schedule's least level anyway (linspace on a table, karras) ends there once under
    ``final="first"``, and one more of its levels is taken before. Raises UnknownName for an unknown grid or
    final level and InvalidRequest for steps below 1, more steps than a discrete schedule has levels, or a grid
    that does not fit the schedule.
    """
    if name not in SPACINGS:
        raise UnknownName("grid", name, SPACINGS)
    if final not in ("zero", "first"):
        raise UnknownName("final level", final, ("zero", "first"))
    if steps < 1:
        raise InvalidRequest(f"steps = {steps} is outside what is allowed: 1 and above (20 is usual)")
    spacing = SPACINGS[name]
    levels = _spaced(spacing, schedule, steps)
    if final == "zero":
        return Levels((*levels, CLEAN), schedule)
    end = schedule.level(schedule.t_min)
    if levels[-1].sigma <= end.sigma:
        levels = _spaced(spacing, schedule, steps + 1)[:-1]
    return Levels((*levels, end), schedule)


def _spaced(spacing: Spacing, schedule: Schedule, steps: int) -> list[Level]:
    if isinstance(schedule, Table) and steps > len(schedule.signal):
        raise InvalidRequest(
            f"steps = {steps} is more than the {len(schedule.signal)} levels this model was trained at"
        )
    return spacing(schedule, steps)


def _table(schedule: Schedule, name: str) -> Table:
    if not isinstance(schedule, Table):
        raise InvalidRequest(
            f"the grid {name!r} counts the indices of a discrete schedule, and this model's schedule is "
            f"continuous: use 'linspace'"
        )
    return schedule
