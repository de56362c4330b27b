"""Levels off the grid: by the schedule where the grid knows one, near it where not."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfumato.process.between import Levels, between, level_at
from sfumato.process.grid import make_grid
from sfumato.process.level import CLEAN, Level
from sfumato.process.schedule import Cosine, Exploding, Flow, Schedule, scaled_linear

SCHEDULES: list[Schedule] = [scaled_linear(), Cosine(), Flow(), Flow(shift=3.0), Exploding()]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
@given(part=st.floats(0.0, 1.0))
def test_a_grid_that_knows_its_schedule_gives_the_schedules_level(schedule: Schedule, part: float) -> None:
    grid = make_grid("linspace", steps=7, schedule=schedule)
    lam = grid[1].lam + part * (grid[-2].lam - grid[1].lam)
    assert level_at(grid, lam) == schedule.at(lam)


def test_a_slice_and_a_copy_know_the_schedule_and_a_list_does_not() -> None:
    grid = make_grid("linspace", steps=7, schedule=Flow())
    assert isinstance(grid, Levels)
    for same in (grid[2:], copy.copy(grid), pickle.loads(pickle.dumps(grid))):
        assert isinstance(same, Levels)
        assert same.schedule == Flow()
    assert grid == tuple(grid)
    assert isinstance(grid[3], Level)


@pytest.mark.parametrize("schedule", [Cosine(), Flow(), Flow(shift=3.0), Exploding()], ids=repr)
@given(part=st.floats(0.0, 1.0))
def test_without_a_schedule_closed_forms_are_met_exactly(schedule: Schedule, part: float) -> None:
    grid = list(make_grid("linspace", steps=7, schedule=schedule))
    lam = grid[1].lam + part * (grid[-2].lam - grid[1].lam)
    assert level_at(grid, lam) == pytest.approx(schedule.at(lam), rel=1e-9)


@given(part=st.floats(0.0, 1.0), at=st.integers(1, 990), step=st.integers(1, 100))
def test_without_a_schedule_a_tables_level_is_exact_and_its_time_near(
    part: float, at: int, step: int
) -> None:
    table = scaled_linear()
    high, low = table.level(min(at + step, 999)), table.level(at)
    lam = high.lam + part * (low.lam - high.lam)
    found, true = between(high, low, lam), table.at(lam)
    assert found[1:] == pytest.approx(true[1:], rel=1e-9)
    assert abs(found.t - true.t) < 0.15 * (high.t - low.t) + 1e-9
    assert low.t - 1e-9 <= found.t <= high.t + 1e-9


def test_levels_of_no_known_process_lie_on_the_line_between_them() -> None:
    at, to = Level(3.0, 0.5, 1.4), Level(1.0, 0.9, 0.2)
    found = between(at, to, math.log(1.5))
    assert found.ratio == pytest.approx(1 / 1.5)
    part = (found.t - 3.0) / -2.0
    assert found == pytest.approx((3 - 2 * part, 0.5 + 0.4 * part, 1.4 - 1.2 * part))


def test_beyond_what_a_schedule_was_trained_at_the_grid_decides() -> None:
    """A schedule's levels end at t_min; a grid may not."""
    schedule = Flow(t_min=0.1)
    grid = Levels((Flow().level(0.5), Flow().level(0.02), CLEAN), schedule)
    assert level_at(grid, Flow().level(0.05).lam) == pytest.approx((0.05, 0.95, 0.05))
