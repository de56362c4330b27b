"""Options, refusals and odd grids of the stochastic samplers."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from sfumato.engine.run import run
from sfumato.errors import InvalidRequest
from sfumato.process.estimate import Estimate
from sfumato.process.grid import make_grid
from sfumato.process.level import CLEAN, Level
from sfumato.process.schedule import Cosine, Exploding, Flow, scaled_linear
from sfumato.process.spec import options_of
from sfumato.samplers import SAMPLERS, sampler
from sfumato.samplers.er_sde import extended, moments, recommended
from sfumato.samplers.sde import SDE
from tests.samplers.peers_sde import PEERS

FLOW = make_grid("linspace", steps=6, schedule=Flow())
PLAIN = {"edm": "edm(s_noise=1)", "consistency": "consistency(epsilon=0)"}


def end(text: str, grid=FLOW, x: float = 1.0, learned: float | None = None) -> float:
    async def denoise(x: float, at: Level) -> Estimate:
        return Estimate(at, 0.3 * x, (1 - 0.3 * at.alpha) / at.sigma * x, learned)

    return float(run(sampler(text).walk(x, grid, denoise, lambda at, to, visit=0: 0.5)))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("euler_ancestral(eta=1.1)", "eta = 1.1"),
        ("euler_ancestral(eta=-0.1)", "eta = -0.1"),
        ("euler_ancestral_rf(eta=2)", "eta = 2"),
        ("dpm2_ancestral(s_noise=-1)", "s_noise = -1"),
        ("dpmpp_2s_ancestral(eta=1.01)", "0 to 1"),
        ("dpmpp_sde(eta=-1)", "eta = -1"),
        ("dpmpp_2m_sde(eta=-1)", "0 and above"),
        ("dpmpp_3m_sde(curvature=-1)", "curvature = -1"),
        ("ddpm(variance=huge)", "'small', 'large', 'learned'"),
        ("ddpm(variance=learned)", "trained to predict variances"),
        ("edm(churn=-1)", "churn = -1"),
        ("edm(tmin=3, tmax=2)", "tmax = 2"),
        ("restart(low=3)", "high = 2"),
        ("restart(times=-1)", "times = -1"),
        ("sa_solver(predictor=5)", "predictor = 5"),
        ("sa_solver(predictor=0)", "1 to 4"),
        ("sa_solver(corrector=-1)", "corrector = -1"),
        ("sa_solver(tau=-1)", "tau = -1"),
        ("sa_solver(low=2, high=1)", "high = 1"),
        ("pc(snr=1.5)", "snr = 1.5"),
        ("pc(corrections=-2)", "corrections = -2"),
        ("pc(corrections=1.5)", "corrections = 1.5"),
        ("tcd(gamma=1.2)", "gamma = 1.2"),
        ("consistency(epsilon=-1)", "epsilon = -1"),
        ("lcm(s_noise=-1)", "s_noise = -1"),
        ("lcm(eta=1)", "eta"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(text: str, said: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        end(text)
    assert said in str(caught.value)


@pytest.mark.parametrize("schedule", [scaled_linear(), Cosine(), Exploding()], ids=["table", "cosine", "edm"])
def test_the_flows_ancestral_sampler_refuses_other_processes(schedule) -> None:
    with pytest.raises(InvalidRequest, match="euler_ancestral"):
        end("euler_ancestral_rf", make_grid("linspace", steps=4, schedule=schedule))


@pytest.mark.parametrize("entry", SDE, ids=lambda e: e.name)
def test_every_option_changes_x(entry) -> None:
    """Each at another value than its default, on a grid where it can matter."""
    other = {"variance": "large", "predictor": 1, "corrector": 0, "times": 1, "corrections": 3, "low": 0.9}
    other |= {"high": 3.0, "tmin": 1.0, "tmax": 1.5, "epsilon": 0.5, "churn": 1.0, "snr": 0.3}
    for name, default in options_of(entry.walk).items():
        value = other.get(name, 0.4)
        assert value != default
        assert abs(end(f"{entry.name}({name}={value})") - end(entry.name)) > 1e-6, name


def test_a_learned_variance_runs_between_the_two_in_logarithm() -> None:
    """0 is small, 1 is large, 1/2 their geometric mean, and each value of a picture has its own."""
    ends = {v: end("ddpm(variance=learned)", FLOW[1:3], learned=v) for v in (0.0, 0.5, 1.0)}
    assert ends[0.0] == pytest.approx(end("ddpm", FLOW[1:3]))
    assert ends[1.0] == pytest.approx(end("ddpm(variance=large)", FLOW[1:3]))
    without = end("ddpm(variance=learned)", FLOW[1:3], learned=-math.inf)
    assert (ends[0.5] - without) ** 2 == pytest.approx((ends[0.0] - without) * (ends[1.0] - without))

    async def denoise(x: Tensor, at: Level) -> Estimate:
        return Estimate(
            at, 0.3 * x, (1 - 0.3 * at.alpha) / at.sigma * x, torch.tensor([0.0, 0.5, 1.0]).double()
        )

    walk = sampler("ddpm(variance=learned)").walk
    found = run(walk(torch.ones(3).double(), FLOW[1:3], denoise, lambda at, to, visit=0: 0.5))
    assert found.tolist() == pytest.approx([ends[0.0], ends[0.5], ends[1.0]])


@st.composite
def grids(draw: Callable) -> list[Level]:
    """Falling levels of a process, some repeated, from pure noise or less, to none or more."""
    kind = draw(st.sampled_from(["flow", "preserving", "exploding"]))
    top = 0.999 if kind == "exploding" else 1.0
    times = draw(st.lists(st.floats(0.01, top), min_size=2, max_size=7))
    times = sorted(times, reverse=True)
    if draw(st.booleans()):
        times[0] = top
    levels = {
        "flow": lambda t: Level(t, 1 - t, t),
        "preserving": lambda t: Level(
            t, math.cos(math.pi * t / 2) if t < 1 else 0.0, math.sin(math.pi * t / 2)
        ),
        "exploding": lambda t: Level(t / (1 - t), 1.0, t / (1 - t)),
    }
    grid = [levels[kind](t) for t in times]
    return [*grid, CLEAN] if draw(st.booleans()) else grid


LINE = [e.name for e in SDE if e.name not in ("euler_maruyama", "pc")]


@pytest.mark.parametrize("name", LINE)
@settings(max_examples=60, deadline=None)
@example(grid=[Level(1.0, 0.0, 1.0), Level(1.0, 0.0, 1.0), CLEAN])
@example(
    grid=[Level(0.999, 1 - 0.999, 0.999), Level(0.999 - 1.1e-16, 1.1e-16 + 1 - 0.999, 0.999 - 1.1e-16), CLEAN]
)
@example(grid=[Level(t, 1 - t, t) for t in (0.999, 0.9989999999999999, 0.3166326348753951)])
@example(grid=[Level(0.5, 0.5, 0.5), Level(0.01 + 1e-17, 0.99, 0.01 + 2e-18), Level(0.01, 0.99, 0.01)])
@given(grid=grids())
def test_any_falling_grid_keeps_the_law_of_the_line(name: str, grid: list[Level]) -> None:
    """One known x0: x ends with alpha of it and noise of length sigma, whatever the grid."""
    if name == "euler_ancestral_rf" and any(abs(at.alpha + at.sigma - 1) > 1e-6 for at in grid):
        grid = [Level(at.sigma / (at.alpha + at.sigma), 0, 0) for at in grid]
        grid = [Level(at.t, 1 - at.t, at.t) for at in grid]
    units = torch.eye(60, dtype=torch.float64)
    draws = iter(units[2:])

    async def denoise(x: Tensor, at: Level) -> Estimate:
        return Estimate(at, units[0], (x - at.alpha * units[0]) / at.sigma)

    start = grid[0].alpha * units[0] + grid[0].sigma * units[1]
    walk = sampler(PLAIN.get(name, name)).walk
    x = run(walk(start, grid, denoise, lambda at, to, visit=0: next(draws)))
    assert abs(float(x[0]) - grid[-1].alpha) < 1e-9
    assert abs(float(x[1:].norm()) - grid[-1].sigma) < 1e-9 * (1 + grid[0].sigma)


def asked(text: str, grid) -> tuple[list[Level], list[tuple[Level, Level, int]]]:
    """The levels at which a sampler asks the network, and the intervals of which it asks noise."""
    levels, intervals = [], []

    async def denoise(x: float, at: Level) -> Estimate:
        levels.append(at)
        return Estimate(at, 0.3 * x, 0.8 * x)

    def fresh(at: Level, to: Level, visit: int = 0) -> float:
        intervals.append((at, to, visit))
        return 0.5

    run(sampler(text).walk(1.0, grid, denoise, fresh))
    return levels, intervals


@pytest.mark.parametrize("name", [e.name for e in SDE if e.name != "euler_ancestral_rf"])
def test_networks_are_told_times_of_their_schedule_within_the_grid(name: str) -> None:
    """Also in the middle of steps and where EDM adds noise: never above the first level."""
    table = scaled_linear()
    grid = make_grid("trailing", steps=8, schedule=table)
    levels, intervals = asked(name, grid)
    for at in levels:
        assert at.lam >= grid[0].lam
        assert at.t == pytest.approx(table.at(at.lam).t, abs=1e-6)
    assert len(set(intervals)) == len(intervals), "an interval came twice without a visit of its own"


def test_edm_raises_levels_by_gamma_but_never_above_the_first() -> None:
    """On a fine grid the second level would be raised past the first: it is raised to it."""
    grid = make_grid("karras", steps=30, schedule=Exploding())
    _, intervals = asked("edm(churn=100, tmax=80, s_noise=1)", grid)
    assert intervals[0] == (grid[1], grid[0], 2)
    for at, hat, visit in intervals:
        assert grid.index(at) == visit - 1
        assert hat.ratio == pytest.approx(min(grid[0].ratio, math.sqrt(2) * at.ratio))


def test_intervals_of_restart_go_up_and_are_counted() -> None:
    grid = make_grid("karras", steps=12, schedule=Exploding())
    inside = [at for at in grid if 0.1 <= at.ratio <= 2 and at.sigma]
    levels, intervals = asked("restart(times=3)", grid)
    assert intervals == [(inside[-1], inside[0], visit) for visit in (1, 2, 3)]
    again = 3 * (2 * (len(inside) - 1))
    assert len(levels) == 2 * 12 - 1 + again


def test_pc_asks_noise_of_a_level_by_visits() -> None:
    grid = FLOW[1:4]
    _, intervals = asked("pc(corrections=2)", grid)
    assert intervals == [(*grid[i : i + 2], visit) for i in (0, 1) for visit in (0, 1, 2)]


def test_er_sdes_noise_scale_function_is_the_papers() -> None:
    for v in (1e-3, 0.1, 2.0, 80.0, 1e9, 1e12):
        whole = v**0.3
        exact = math.log(v) + (math.log(math.exp(whole) + 10) if whole < 700 else whole)
        assert recommended(math.log(v)) == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize(("start", "stop"), [(2.0, 1.9), (2.0, 0.5), (20.0, 0.02), (0.3, 0.29)])
def test_er_sdes_moments_are_those_of_its_weight(start: float, stop: float) -> None:
    """Against the weight phi' / phi^2 summed finely; and for phi = v^2 in closed form."""
    v = np.exp(np.linspace(math.log(stop), math.log(start), 200_001))
    phi = v * (np.exp(v**0.3) + 10)
    weight = (1 / phi[:-1] - 1 / phi[1:]) / (1 / phi[0] - 1 / phi[-1])
    middle = (v[:-1] + v[1:]) / 2 - start
    found = moments(recommended, -math.log(start), -math.log(stop))
    assert found == pytest.approx(((weight * middle).sum(), (weight * middle**2).sum()), rel=1e-6)
    first, second = moments(lambda log_v: 2 * log_v, -math.log(start), -math.log(stop))
    room = 1 / stop**2 - 1 / start**2
    mean, square = 2 * (1 / stop - 1 / start) / room, 2 * math.log(start / stop) / room
    assert first == pytest.approx(mean - start, rel=1e-6)
    assert second == pytest.approx(square - 2 * start * mean + start**2, rel=1e-5)


def test_er_sdes_rule_is_exact_where_x0_is_a_line_in_sigma_over_alpha() -> None:
    schedule = Exploding()
    at = [schedule.level(v) for v in (3.0, 2.2, 1.5, 0.9)]
    past = [Estimate(level, 2.0 + 3.0 * level.ratio, 0.1) for level in at[:3]]
    mean = moments(recommended, at[2].lam, at[3].lam)[0]
    for known in (past[1:], past):
        assert extended(recommended)(known, at[3]).x0 == pytest.approx(2.0 + 3.0 * (1.5 + mean))


def test_er_sdes_rule_takes_the_second_derivative_whole_and_the_first_by_the_last_difference() -> None:
    """Of x0 = v^2 the second is 2, as it is; the first is v_0 + v_1, which belongs to the middle of the last step."""
    schedule = Exploding()
    at = [schedule.level(v) for v in (3.0, 2.2, 1.5, 0.9)]
    past = [Estimate(level, level.ratio**2, 0.1) for level in at[:3]]
    first, second = moments(recommended, at[2].lam, at[3].lam)
    found = extended(recommended)(past, at[3])
    assert found.x0 == pytest.approx(1.5**2 + first * (1.5 + 2.2) + second / 2 * 2)
    assert found.x0 + 1.5 * found.eps == pytest.approx(past[2].x0 + 1.5 * 0.1)


def test_the_table_says_what_is_stochastic() -> None:
    assert all(entry.stochastic for entry in SDE)
    for entry in SDE:
        _, intervals = asked(entry.name, make_grid("linspace", steps=10, schedule=Flow()))
        assert intervals, entry.name
        assert SAMPLERS[entry.name] is entry


@pytest.mark.parametrize("name", [e.name for e in SDE if e.off_line])
def test_samplers_that_only_move_along_estimates_know_nothing_of_x(name: str) -> None:
    """So they accept estimates that are not on one line with x: where those do not depend on x, nothing does."""

    async def denoise(x: float, at: Level) -> Estimate:
        return Estimate(at, math.sin(at.sigma), math.cos(3 * at.sigma))

    grid = FLOW[1:-1]
    ends = [run(sampler(name).walk(x, grid, denoise, lambda at, to, visit=0: 0.5)) for x in (1.0, -7.0)]
    assert ends[0] == ends[1]


def test_every_sampler_says_what_it_was_compared_with() -> None:
    """ER-SDE is neither in diffusers nor in k-diffusion: its rule is held against its definition above."""
    assert set(PEERS) == {entry.name for entry in SDE}
    assert [name for name, peers in PEERS.items() if not peers] == ["er_sde"]
