"""Grids: the list of levels that a sampler walks, from much noise to none.

A grid of ``steps`` has ``steps + 1`` levels. The last is ``zero`` (no noise at all) or ``first``, the schedule's
own least level (diffusers' ``set_alpha_to_one=False``).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from sfumato.errors import InvalidRequest, UnknownName
from sfumato.process.level import Level
from sfumato.process.schedule import Exploding, Flow, Schedule, Table

Final = Literal["zero", "first"]
Grid = tuple[Level, ...]
Spacing = Callable[[Schedule, int], list[Level]]


def _table(schedule: Schedule, name: str) -> Table:
    if not isinstance(schedule, Table):
        raise InvalidRequest(
            f"the grid {name!r} counts the indices of a discrete schedule; this model's schedule is "
            f"continuous: use 'linspace', 'karras' or 'shifted'"
        )
    return schedule


def linspace(schedule: Schedule, steps: int) -> list[Level]:
    """Times on a line from t_max down to t_min, both included; for a discrete schedule, whole indices.

    (numpy's ``linspace`` in Nichol & Dhariwal 2021, rounded as diffusers does.) A continuous schedule steps
    evenly towards 0, which is left for the final level.
    """
    if isinstance(schedule, Table):
        span = schedule.t_max
        return [schedule.level(float(round(span * (1 - i / max(1, steps - 1))))) for i in range(steps)]
    return [schedule.level(schedule.t_max * (1 - i / steps)) for i in range(steps)]


def leading(schedule: Schedule, steps: int, offset: int = 1) -> list[Level]:
    """Indices ``i (T // steps) + offset``, highest first (Lin et al. 2024, table 2: "leading").

    ``offset`` 1 is Stable Diffusion's.
    """
    table = _table(schedule, "leading")
    stride = len(table.signal) // steps
    return [table.level(float(min(i * stride + offset, table.t_max))) for i in reversed(range(steps))]


def trailing(schedule: Schedule, steps: int) -> list[Level]:
    """Indices ``round(T - i T / steps) - 1`` (Lin et al. 2024, table 2: "trailing"): begins at pure noise."""
    table = _table(schedule, "trailing")
    total = len(table.signal)
    return [table.level(float(round(total - i * total / steps) - 1)) for i in range(steps)]


def karras(schedule: Schedule, steps: int, rho: float = 7.0) -> list[Level]:
    """``(a + i / (n - 1) (b - a))^rho`` in sigma / alpha, a = max^(1/rho), b = min^(1/rho).

    (Karras et al. 2022, equation 5.) A schedule that begins at alpha = 0 has no greatest ratio and is refused.
    """
    top, low = schedule.level(schedule.t_max).ratio, schedule.level(schedule.t_min).ratio
    if math.isinf(top):
        raise InvalidRequest(
            "the grid 'karras' needs a finite greatest sigma / alpha, and this schedule begins at pure noise "
            "(alpha = 0): use 'linspace' or 'shifted'"
        )
    a, b = top ** (1 / rho), low ** (1 / rho)
    ratios = [(a + i / max(1, steps - 1) * (b - a)) ** rho for i in range(steps)]
    return [schedule.at(-math.log(r)) for r in ratios]


def shifted(schedule: Schedule, steps: int, shift: float = 3.0) -> list[Level]:
    """Rectified flow's times on a line, shifted towards noise: s = shift t / (1 + (shift - 1) t).

    (Esser et al. 2024, equation 23.)
    """
    if not isinstance(schedule, Flow):
        raise InvalidRequest("the grid 'shifted' is for rectified-flow models; use 'linspace' or 'karras'")
    return [Flow(shift).level(1 - i / steps) for i in range(steps)]


SPACINGS: dict[str, Spacing] = {
    "linspace": linspace,
    "leading": leading,
    "trailing": trailing,
    "karras": karras,
    "shifted": shifted,
}


@dataclass(frozen=True, kw_only=True)
class GridChoice:
    """A named grid and where it ends."""

    name: str
    steps: int
    final: Final = "zero"


def make_grid(name: str, *, steps: int, schedule: Schedule, final: Final = "zero") -> Grid:
    """The grid ``name`` of ``steps`` steps on ``schedule``: ``steps + 1`` levels, noise falling.

    Raises UnknownName for an unknown grid and InvalidRequest for steps below 1, more steps than a discrete
    schedule has levels, or a grid that does not fit the schedule.
    """
    if name not in SPACINGS:
        raise UnknownName("grid", name, SPACINGS)
    if steps < 1:
        raise InvalidRequest(f"steps = {steps} is outside what is allowed: 1 and above (20 is usual)")
    if isinstance(schedule, Table) and steps > len(schedule.signal):
        raise InvalidRequest(
            f"steps = {steps} is more than the {len(schedule.signal)} levels this model was trained at"
        )
    levels = SPACINGS[name](schedule, steps)
    if final not in ("zero", "first"):
        raise UnknownName("final level", final, ("zero", "first"))
    if final == "first":
        end = schedule.level(schedule.t_min)
    else:
        end = Level(0.0, 1.0, 0.0)
    if levels[-1].sigma <= end.sigma:
        levels = levels[:-1] if len(levels) > 1 else levels
    return (*levels, end)


def default_grid(schedule: Schedule) -> str:
    """The grid that suits ``schedule`` when nobody chose one."""
    return "karras" if isinstance(schedule, Exploding) else "linspace"
