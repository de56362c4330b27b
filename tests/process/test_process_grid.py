"""What holds of every grid on every schedule, what is refused, lists, and parts of grids."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfumato.errors import InvalidRequest, UnknownName
from sfumato.process.between import Levels
from sfumato.process.grid import SPACINGS, back, check_askable, make_grid, steps_in, tail
from sfumato.process.level import CLEAN, Level
from sfumato.process.prediction import prediction
from sfumato.process.schedule import VP, Cosine, Exploding, Flow, Laplace, Schedule, Table
from sfumato.process.spec import options_of, parse, write
from sfumato.process.table import from_betas, linear, scaled_linear, squared_cosine

TABLE = scaled_linear()
SCHEDULES = {
    "stable diffusion": TABLE,
    "few levels": linear(60),
    "zero snr": scaled_linear(zero_snr=True),
    "few to pure noise": from_betas([0.02] * 59 + [1.0]),
    "squared cosine": squared_cosine(),
    "cosine": Cosine(),
    "cosine, not to its end": Cosine(t_max=0.99),
    "vp": VP(),
    "laplace": Laplace(),
    "flow": Flow(),
    "flow, shifted": Flow(3.0),
    "flow, not to its end": Flow(t_max=0.98),
    "edm": Exploding(),
    "svd": Exploding(0.002, 700.0),
}
ANYWHERE = ("linspace", "normal", "beta", "beta(alpha=0.9, beta=0.5)", "sgm_uniform", "simple", "kl_optimal")
DISCRETE = ("leading", "trailing", "ddim_uniform")
FINITE = (
    "karras",
    "karras(rho=1)",
    "exponential",
    "polyexponential",
    "polyexponential(rho=2)",
    "beta(over=ratio)",
)
FLOWS = ("shifted", "shifted(shift=1)", "shifted(tokens=1024)", "linear_quadratic", "karras(over=sigma)")
ALIGNED = {"align_your_steps(model=sd1)": TABLE, "align_your_steps(model=svd)": SCHEDULES["svd"]}
TEXTS = (*ANYWHERE, *DISCRETE, *FINITE, *FLOWS, *ALIGNED)


def fits(text: str, schedule: Schedule) -> bool:
    """Whether the grid is defined on the schedule at all."""
    if text in DISCRETE:
        return isinstance(schedule, Table)
    if text in FINITE:
        return schedule.level(schedule.t_max).alpha > 0
    if text in FLOWS:
        return isinstance(schedule, Flow)
    if text in ALIGNED:
        return schedule == ALIGNED[text]
    return True


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("text", TEXTS)
def test_one_step_begins_at_the_greatest_noise_wherever_the_grid_is_defined(text: str, name: str) -> None:
    schedule = SCHEDULES[name]
    if not fits(text, schedule):
        with pytest.raises(InvalidRequest):
            make_grid(text, steps=1, schedule=schedule)
        return
    grid = make_grid(text, steps=1, schedule=schedule)
    lowest = text in ("leading", "ddim_uniform")
    assert grid == (schedule.level(1 if lowest else schedule.t_max), CLEAN)
    assert isinstance(grid, Levels)
    assert grid.schedule == schedule


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("text", TEXTS)
@settings(max_examples=6)
@given(steps=st.integers(1, 120), final=st.sampled_from(["zero", "first"]))
def test_a_grid_has_a_level_more_than_steps_and_falls(text: str, name: str, steps: int, final) -> None:
    """Or is refused; within the schedule, from its top where the grid begins there, to the final level."""
    schedule = SCHEDULES[name]
    try:
        grid = make_grid(text, steps=steps, schedule=schedule, final=final)
    except InvalidRequest as error:
        told = str(error)
        if fits(text, schedule) and "ddim_uniform" not in told:
            assert int(told.split("at most ")[1].split()[0]) < steps
        return
    assert fits(text, schedule)
    low, top = schedule.level(schedule.t_min), schedule.level(schedule.t_max)
    assert len(grid) == steps + 1
    assert all(a.lam < b.lam for a, b in pairwise(grid))
    assert grid[-1] == (CLEAN if final == "zero" else low)
    assert top.lam <= grid[0].lam
    assert grid[-2].lam <= low.lam + 1e-9
    if text not in ("leading", "ddim_uniform", "simple", "trailing"):
        assert grid[0] == top
    for at in grid[:-1]:  # every level is the schedule's own
        assert schedule.at(at.lam)[1:] == pytest.approx(at[1:], rel=1e-6, abs=1e-12)
        if math.isfinite(at.lam) and at.alpha > 1e-6:
            assert schedule.at(at.lam).t == pytest.approx(at.t, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("final", ["zero", "first"])
@pytest.mark.parametrize(
    ("text", "schedule", "most"),
    [
        ("linspace", linear(60), 60),
        ("trailing", linear(60), 60),
        ("simple", linear(60), 60),
        ("beta", linear(60), None),
        ("beta(alpha=0.3, beta=1)", linear(60), None),
        ("linspace", Flow(), 1000),
        ("simple", Cosine(t_min=0.01), 100),
        ("shifted(shift=1)", Flow(3.0), 334),
    ],
)
def test_too_many_steps_are_refused_with_the_most_that_work(text: str, schedule, most, final) -> None:
    """No number from there to the one that was asked for works."""
    asked = len(schedule.signal) if isinstance(schedule, Table) else 2 * most
    with pytest.raises(InvalidRequest, match=f"steps = {asked + 1} is too many for the grid") as error:
        make_grid(text, steps=asked + 1, schedule=schedule, final=final)
    found = int(str(error.value).split("at most ")[1].split()[0])
    assert most is None or most - 1 <= found <= most
    assert len(make_grid(text, steps=found, schedule=schedule, final=final)) == found + 1
    for steps in range(found + 1, min(asked, found + 40)):
        with pytest.raises(InvalidRequest):
            make_grid(text, steps=steps, schedule=schedule, final=final)


@pytest.mark.parametrize("text", TEXTS)
def test_text_carries_every_option(text: str) -> None:
    name, options = parse(text)
    every = {**options_of(SPACINGS[name]), **options}
    for schedule in SCHEDULES.values():
        if fits(text, schedule):
            assert make_grid(write(name, every), steps=10, schedule=schedule) == make_grid(
                text, steps=10, schedule=schedule
            )
            return
    pytest.fail("fits nowhere")


def falling(least: float, most: float) -> st.SearchStrategy[list[float]]:
    spread = st.lists(st.integers(1, 10_000), min_size=1, max_size=12, unique=True)
    return spread.map(
        lambda places: [least + (most - least) * p / 10_000 for p in sorted(places, reverse=True)]
    )


@given(falling(0.03, 14.6))
def test_a_list_of_sigmas_is_met_and_its_text_is_the_same_grid(sigmas: list[float]) -> None:
    for schedule in (TABLE, Exploding(), VP()):
        grid = make_grid(sigmas, schedule=schedule)
        assert [at.ratio for at in grid] == pytest.approx([*sigmas, 0], rel=1e-9)
        text = write("custom", {"sigmas": sigmas})
        assert make_grid(text, schedule=schedule, steps=len(sigmas)) == grid
        assert make_grid([*sigmas, 0.0], schedule=schedule) == grid
        assert make_grid(list(grid), schedule=schedule) == grid
        assert steps_in(text, schedule) == len(sigmas)
        first = make_grid(sigmas, schedule=schedule, final="first")
        assert first == (*grid[:-1], schedule.level(schedule.t_min))


@given(falling(0.01, 1.0))
def test_a_list_of_times_is_what_the_network_is_told(times: list[float]) -> None:
    text = write("custom", {"times": times})
    for schedule in (Flow(), Flow(3.0), Cosine(t_min=0.005)):
        grid = make_grid(text, schedule=schedule)
        assert [at.t for at in grid] == pytest.approx([*times, 0])
        assert all(schedule.at(at.lam)[1:] == pytest.approx(at[1:], abs=1e-9) for at in grid[:-1])
    table = make_grid(write("custom", {"times": [999 * t for t in times]}), schedule=TABLE)
    assert table[:-1] == tuple(TABLE.level(999 * t) for t in times)


def test_a_list_may_end_where_the_grid_ends() -> None:
    assert make_grid("custom(times=[999, 0])", schedule=TABLE) == (TABLE.level(999), TABLE.level(0), CLEAN)
    first = make_grid("custom(times=[999, 0])", schedule=TABLE, final="first")
    assert first == (TABLE.level(999), TABLE.level(0))
    assert make_grid("custom(times=[80, 3, 0])", schedule=Exploding())[-2:] == (Exploding().level(3), CLEAN)
    assert steps_in("custom(times=[80, 3, 0])", Exploding()) == 2
    assert steps_in("karras", TABLE) is None


def test_a_published_sigma_may_miss_an_end_by_its_rounding() -> None:
    grid = make_grid([14.615, 0.5], schedule=TABLE)
    assert grid[0] == TABLE.level(999)


def test_levels_that_are_handed_over_need_not_be_the_schedules() -> None:
    levels = [Level(5.0, 0.2, 3.0), Level(1.0, 0.9, 0.1)]
    grid = make_grid(levels, schedule=TABLE)
    assert grid == (*levels, CLEAN)
    assert isinstance(grid, Levels)
    assert grid.schedule is None


@pytest.mark.parametrize(
    ("given", "options", "words"),
    [
        ("custom", {}, "needs a list of sigmas"),
        ("custom(sigmas=[3], times=[5])", {}, "one of them"),
        ("custom(sigmas=[3, 3])", {}, "must fall, and sigma / alpha = 3 follows sigma / alpha = 3"),
        ("custom(sigmas=[3, 5])", {}, "must fall"),
        ("custom(sigmas=[3, 0, 1])", {}, "must fall"),
        ("custom(sigmas=[20, 1])", {}, "sigma = 20 is outside the schedule; allowed: 14.6146 to"),
        ("custom(sigmas=[2, 0.001])", {}, "sigma = 0.001"),
        ("custom(sigmas=[2, -1])", {}, "sigma = -1"),
        ("custom(times=[1000, 3])", {}, "time = 1000 is outside the schedule; allowed: 999 to 0"),
        ("custom(sigmas=3)", {}, "a list of numbers"),
        ("custom(sigmas=[0])", {}, "one at the least"),
        ("custom(sigmas=[3, 0])", {"final": "first"}, "leave one out"),
        ("custom(sigmas=[3, 1])", {"steps": 3}, "steps = 3, but the list makes 2"),
        ([], {}, "needs a list"),
        ([float("nan"), 1.0], {}, "sigma = nan"),
        ([3.0, Level(0.0, 1.0, 0.5)], {"steps": 2}, "numbers or Levels"),
        ("karras", {"steps": None}, "steps is missing"),
        ("karras", {"steps": 10**9}, "1 to 10000"),
        ("karras", {"steps": 0}, "1 to 10000"),
    ],
)
def test_lists_and_counts_that_make_no_grid_are_told(given, options: dict, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        make_grid(given, schedule=TABLE, **options)


@given(st.integers(1, 60), st.floats(0, 1, exclude_min=True))
def test_a_tail_is_the_last_part_of_a_walk(steps: int, strength: float) -> None:
    """As many steps as diffusers' image-to-image pipelines keep."""
    grid = make_grid("linspace", steps=steps, schedule=Flow())
    kept = min(int(steps * strength), steps)
    if kept == 0:
        with pytest.raises(InvalidRequest, match="leaves none"):
            tail(grid, strength)
        return
    found = tail(grid, strength)
    assert len(found) == kept + 1
    assert grid[steps - kept :] == found
    assert isinstance(found, Levels)


def test_strengths_outside_are_refused_and_all_of_it_is_all() -> None:
    grid = make_grid("linspace", steps=20, schedule=Flow())
    assert tail(grid, 1.0) == grid
    for strength in (0.0, -0.5, 1.01, math.nan):
        with pytest.raises(InvalidRequest, match="strength"):
            tail(grid, strength)
    with pytest.raises(InvalidRequest, match=r"0\.05 or more"):
        tail(grid, 0.01)


def test_back_is_the_grid_with_noise_rising() -> None:
    grid = make_grid("karras", steps=9, schedule=TABLE, final="first")
    assert back(grid) == grid[::-1]
    assert all(a.lam > b.lam for a, b in pairwise(back(grid)))
    assert back(back(grid)) == grid
    assert isinstance(back(grid), Levels)


@pytest.mark.parametrize(
    ("kind", "text", "schedule", "words"),
    [
        ("eps", "linspace", scaled_linear(zero_snr=True), "pure noise"),
        ("eps", "linspace", Flow(), "pure noise"),
        ("eps", "leading", scaled_linear(zero_snr=True), None),
        ("eps", "linspace", TABLE, None),
        ("edm", "linspace", TABLE, "alpha = 1"),
        ("edm", "karras", Exploding(), None),
        *(
            (kind, "linspace", schedule, None)
            for kind in ("x0", "v", "flow")
            for schedule in SCHEDULES.values()
        ),
    ],
)
def test_a_network_is_not_asked_where_it_says_nothing(kind: str, text: str, schedule, words) -> None:
    if words is None:
        grid = make_grid(text, steps=10, schedule=schedule, prediction=prediction(kind))
        for at in grid[:-1]:  # and so both ends can be had everywhere
            found = prediction(kind).estimate(0.3, 0.7, at)
            assert at.alpha * found.x0 + at.sigma * found.eps == pytest.approx(0.3, rel=1e-9)
        return
    with pytest.raises(InvalidRequest, match=words):
        make_grid(text, steps=10, schedule=schedule, prediction=prediction(kind))


def test_inversion_from_no_noise_is_refused_for_x0() -> None:
    grid = make_grid("linspace", steps=5, schedule=Flow())
    check_askable(back(grid), prediction("eps"))
    with pytest.raises(InvalidRequest, match="final='first'"):
        check_askable(back(grid), prediction("x0"))


@pytest.mark.parametrize("name", ["linspace", "leading", "trailing"])
def test_all_indices_are_used_at_as_many_steps_as_levels(name: str) -> None:
    grid = make_grid(name, steps=1000, schedule=TABLE)
    assert [level.t for level in grid[:-1]] == list(range(999, -1, -1))


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
