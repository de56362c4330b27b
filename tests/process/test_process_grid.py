from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from sfumato.errors import InvalidRequest, UnknownName
from sfumato.process.grid import SPACINGS, make_grid
from sfumato.process.level import CLEAN
from sfumato.process.schedule import Cosine, Exploding, Flow, from_betas, linear, scaled_linear

TABLE = scaled_linear()
FITTING = [
    *((grid, TABLE) for grid in ("linspace", "leading", "trailing", "karras")),
    *((grid, from_betas([0.02] * 59 + [1.0])) for grid in ("linspace", "leading", "trailing")),
    *((grid, linear(60)) for grid in ("linspace", "leading", "trailing", "karras")),
    ("linspace", Cosine()),
    ("karras", Cosine(t_max=0.99)),
    ("linspace", Flow()),
    ("shifted", Flow()),
    ("karras", Flow(t_max=0.98)),
    ("linspace", Exploding()),
    ("karras", Exploding()),
]


@pytest.mark.parametrize(("name", "schedule"), FITTING)
@pytest.mark.parametrize("final", ["zero", "first"])
def test_a_grid_has_a_level_more_than_steps_and_falls(name: str, schedule, final) -> None:
    for steps in (1, 2, 3, 5, 7, 20, 33, 59):
        grid = make_grid(name, steps=steps, schedule=schedule, final=final)
        assert len(grid) == steps + 1
        lams = [level.lam for level in grid]
        assert all(a < b for a, b in pairwise(lams))
        assert grid[-1] == (CLEAN if final == "zero" else schedule.level(schedule.t_min))


@pytest.mark.parametrize("name", ["linspace", "leading", "trailing"])
def test_all_indices_are_used_at_as_many_steps_as_levels(name: str) -> None:
    grid = make_grid(name, steps=1000, schedule=TABLE)
    assert [level.t for level in grid[:-1]] == list(range(999, -1, -1))


@pytest.mark.parametrize("name", ["linspace", "trailing", "karras"])
def test_one_step_begins_at_the_greatest_noise(name: str) -> None:
    assert make_grid(name, steps=1, schedule=TABLE)[0] == TABLE.level(999)


def test_karras_is_even_in_the_seventh_root_between_the_ends() -> None:
    for schedule in (Exploding(), TABLE):
        ratios = np.array([level.ratio for level in SPACINGS["karras"](schedule, 18)])
        roots = ratios ** (1 / 7)
        np.testing.assert_allclose(np.diff(roots), np.diff(roots).mean(), rtol=1e-9)
        assert ratios[0] == schedule.level(schedule.t_max).ratio
        assert ratios[-1] == schedule.level(schedule.t_min).ratio


def test_karras_levels_are_levels_of_the_schedule() -> None:
    """A network asked at a fractional index meets the interpolated level of that index."""
    for level in SPACINGS["karras"](TABLE, 18):
        assert TABLE.level(level.t) == pytest.approx(level, rel=1e-9)


def test_a_continuous_grid_is_even_in_time() -> None:
    grid = make_grid("linspace", steps=10, schedule=Flow())
    np.testing.assert_allclose([level.t for level in grid], np.linspace(1, 0, 11), atol=1e-15)
    grid = make_grid("linspace", steps=8, schedule=Exploding())
    np.testing.assert_allclose([level.sigma for level in grid], np.linspace(80, 0, 9))


@pytest.mark.parametrize(
    ("name", "schedule", "steps", "final"),
    [
        ("linspace", TABLE, 0, "zero"),
        ("linspace", TABLE, 1001, "zero"),
        ("linspace", TABLE, 1000, "first"),
        ("karras", TABLE, 1001, "zero"),
        ("linspace", Flow(), 1001, "zero"),
        ("shifted", Flow(), 3001, "zero"),
        ("karras", Flow(), 10, "zero"),
        ("karras", Cosine(), 10, "zero"),
        ("shifted", TABLE, 10, "zero"),
        ("leading", Flow(), 10, "zero"),
        ("trailing", Exploding(), 10, "zero"),
    ],
)
def test_what_does_not_fit_is_refused(name: str, schedule, steps: int, final) -> None:
    with pytest.raises(InvalidRequest):
        make_grid(name, steps=steps, schedule=schedule, final=final)


def test_unknown_names_are_told_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match="karras"):
        make_grid("karas", steps=10, schedule=TABLE)
    with pytest.raises(UnknownName, match="zero"):
        make_grid("karras", steps=10, schedule=TABLE, final="zer")  # type: ignore[arg-type]
