"""The laws that stochastic samplers draw from: on a Gaussian they are known exactly, without sampling.

Where the denoiser is linear, a walk is linear in its draws. So x is kept as a vector of coefficients: of 1, of the
start's unit normal, and of each draw. Its mean is the first, its variance the sum of squares of the others.
"""

from __future__ import annotations

import bisect
import math
import random
from collections.abc import Awaitable, Callable, Sequence
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from sfumato.engine.run import run
from sfumato.noise import Brownian, Stream
from sfumato.process.estimate import Estimate, Walk
from sfumato.process.grid import make_grid
from sfumato.process.level import CLEAN, Level
from sfumato.process.schedule import Cosine, Exploding, Flow, Schedule, scaled_linear
from sfumato.samplers import SAMPLERS, sampler
from sfumato.samplers.distilled import earlier
from tests.laws.test_laws_path import GRIDS

MEAN, VARIANCE = 0.8, 0.09
FROM, TO = math.log(0.2), math.log(9.0)
PLAIN = {"edm": "edm(s_noise=1, churn=4)", "consistency": "consistency(epsilon=0)"}
"""How samplers are written whose defaults are not of unit noise; churn 4 a step is small at the grids used here."""
FEW = [s for s in SAMPLERS if SAMPLERS[s].stochastic and SAMPLERS[s].order == 0 and s != "pc"]
ORDERED = [s for s in SAMPLERS if SAMPLERS[s].stochastic and SAMPLERS[s].order > 0]
SCHEDULES: dict[str, Schedule] = {
    "table": scaled_linear(),
    "cosine": Cosine(),
    "flow": Flow(),
    "edm": Exploding(),
}
Ask = Callable[[Tensor, Level], Awaitable[Estimate]]


def walk_of(name: str) -> Walk:
    return sampler(PLAIN.get(name, name)).walk


class Draws:
    """Unit vectors, each a draw of its own: the first is the number 1, the second the start."""

    def __init__(self, most: int) -> None:
        self.units = torch.eye(most + 2, dtype=torch.float64)
        self.one, self.start, self.used = self.units[0], self.units[1], 1

    def __call__(self, at: Level, to: Level, visit: int = 0) -> Tensor:
        self.used += 1
        return self.units[self.used]


def spread(at: Level) -> float:
    return at.alpha**2 * VARIANCE + at.sigma**2


def law(walk: Walk, grid: Sequence[Level], most: int, answer: Callable[[Draws], Ask]) -> tuple[float, float]:
    """Mean and variance of the end of a walk that begins at the law of the grid's first level."""
    draws = Draws(most)
    x = grid[0].alpha * MEAN * draws.one + math.sqrt(spread(grid[0])) * draws.start
    end: Tensor = run(walk(x, grid, answer(draws), draws))
    return float(end[0]), float(end[1:].square().sum())


def posterior(draws: Draws) -> Ask:
    """E[x0 | x] of N(MEAN, VARIANCE)."""

    async def denoise(x: Tensor, at: Level) -> Estimate:
        away = x - at.alpha * MEAN * draws.one
        x0 = MEAN * draws.one + at.alpha * VARIANCE / spread(at) * away
        return Estimate(at, x0, at.sigma / spread(at) * away)

    return denoise


def even(schedule: Schedule, steps: int, first: float = FROM, last: float = TO) -> list[Level]:
    """Levels evenly spaced in log(alpha / sigma)."""
    return [schedule.at(first + (last - first) * i / steps) for i in range(steps + 1)]


def slope(errors: Sequence[float]) -> float:
    """By how many powers of 2 errors fall when steps double, at the finest."""
    return math.log2(errors[-2] / errors[-1])


@pytest.mark.parametrize("name", ORDERED)
def test_the_law_converges_at_the_order_of_the_table(name: str) -> None:
    """Mean exact (the mean of x is where the posterior's line stays), variance at the order."""
    errors = []
    for steps in (64, 128, 256) if name != "dpmpp_2m_sde" else (256, 512, 1024):
        grid = even(Flow(), steps)
        mean, variance = law(walk_of(name), grid, 3 * steps, posterior)
        assert abs(mean - grid[-1].alpha * MEAN) < 1e-12
        errors.append(abs(variance - spread(grid[-1])))
    assert errors[-1] < 2e-3
    assert slope(errors) == pytest.approx(SAMPLERS[name].order, abs=0.15), errors


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", ["edm", "restart"])
def test_heuns_chart_does_not_spoil_the_order(name: str, schedule: str) -> None:
    """Those that see the frame of the levels, on all processes."""
    errors = []
    for steps in (128, 256):
        grid = even(SCHEDULES[schedule], steps)
        errors.append(abs(law(walk_of(name), grid, 3 * steps, posterior)[1] - spread(grid[-1])))
    assert slope(errors) == pytest.approx(2, abs=0.15)


@pytest.mark.parametrize(
    "text",
    [
        "euler_ancestral(eta=0.5)",
        "dpmpp_2m_sde(eta=0.5)",
        "dpmpp_2m_sde_heun(eta=2)",
        "dpmpp_3m_sde(eta=0.3)",
        "dpmpp_sde(eta=0.5)",
        "dpm2_ancestral(eta=0.5)",
        "dpmpp_2s_ancestral(eta=0.5)",
        "euler_ancestral_rf(eta=0.4)",
        "edm(s_noise=1, churn=30, tmin=0.2, tmax=2)",
        "restart(low=0.3, high=3, times=4)",
        "sa_solver(tau=0.5)",
        "sa_solver(tau=1, low=0.3, high=2)",
        "sa_solver(predictor=2, corrector=0)",
        "sa_solver(predictor=4, corrector=4, tau=1.4)",
        "pc(snr=0.02)",
        "pc(snr=0.01, corrections=3)",
    ],
)
def test_the_law_does_not_depend_on_how_much_noise_is_exchanged(text: str) -> None:
    """In the limit: every option leads to one law, at first order at least."""
    errors = []
    for steps in (100, 200):
        grid = even(Flow(), steps)
        mean, variance = law(sampler(text).walk, grid, 6 * steps, posterior)
        assert abs(mean - grid[-1].alpha * MEAN) < 1e-12
        errors.append(abs(variance / spread(grid[-1]) - 1))
    assert errors[1] < 0.6 * errors[0]
    assert errors[1] < 0.1


@pytest.mark.parametrize("variance", ["large", "small"])
def test_ddpms_variances_are_right_for_data_of_unit_variance_and_of_one_point(variance: str) -> None:
    """Ho et al. 2020, section 3.2: each exact in any number of steps, on every process."""
    for schedule in SCHEDULES.values():
        for steps in (1, 3, 20):
            grid, draws = even(schedule, steps), Draws(steps)
            v = 1.0 if variance == "large" else 0.0

            async def denoise(x: Tensor, at: Level, v: float = v) -> Estimate:
                whole = at.alpha**2 * v + at.sigma**2
                return Estimate(at, at.alpha * v / whole * x, at.sigma / whole * x)

            first, last = (at.alpha**2 * v + at.sigma**2 for at in (grid[0], grid[-1]))
            walk = sampler(f"ddpm(variance={variance})").walk
            end = run(walk(math.sqrt(first) * draws.start, grid, denoise, draws))
            assert float(end.square().sum()) == pytest.approx(last, rel=1e-12)


def test_langevin_steps_have_the_law_of_the_level_but_for_their_step() -> None:
    """The unadjusted step ``x - 2 a / sigma eps + sqrt(4 a) z``, a = (snr sigma)^2, leaves variance s / (1 - a / s)."""
    grid = even(Flow(), 40)[20:22]
    snr, whole = 0.16, spread(grid[-1])
    mean, variance = law(sampler(f"pc(snr={snr}, corrections=600)").walk, grid, 700, posterior)
    a = (snr * grid[-1].sigma) ** 2
    assert mean == pytest.approx(grid[-1].alpha * MEAN)
    assert variance == pytest.approx(whole / (1 - a / whole), rel=1e-9)


def flow_map(x: Tensor, at: Level, to: Level, one: Tensor) -> Tensor:
    """Where the probability-flow ODE of the Gaussian takes x: it keeps the quantile."""
    return to.alpha * MEAN * one + math.sqrt(spread(to) / spread(at)) * (x - at.alpha * MEAN * one)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("steps", [1, 2, 4, 9])
@pytest.mark.parametrize(
    "text", ["lcm", "tcd", "tcd(gamma=0)", "tcd(gamma=0.8)", "consistency", "consistency(epsilon=0.1)"]
)
def test_distilled_samplers_keep_the_law_exactly_if_the_network_is_exact(
    text: str, steps: int, schedule: str
) -> None:
    """The network is the flow map itself: to x0 (lcm), to the least level (consistency), to where tcd goes."""
    grid = [*even(SCHEDULES[schedule], steps)[:-1], CLEAN]
    options = text.partition("=")[2].rstrip(")")
    end_ratio = float(options or 0.002) if text.startswith("consistency") else 0.0
    ahead = dict(pairwise(grid))

    def answer(draws: Draws) -> Ask:
        async def denoise(x: Tensor, at: Level) -> Estimate:
            if not text.startswith("tcd"):
                x0 = flow_map(x, at, Level(0.0, 1.0, end_ratio), draws.one)
                return Estimate(at, x0, (x - at.alpha * x0) / at.sigma)
            goal = earlier(grid, ahead[at], 1 - float(options or 0.3)) if ahead[at].sigma else CLEAN
            there = flow_map(x, at, goal, draws.one)
            det = at.alpha * goal.sigma - at.sigma * goal.alpha
            return Estimate(
                at,
                (goal.sigma * x - at.sigma * there) / det,
                (at.alpha * there - goal.alpha * x) / det,
            )

        return denoise

    mean, variance = law(sampler(text).walk, grid, steps, answer)
    assert mean == pytest.approx(MEAN, abs=1e-12)
    assert variance == pytest.approx(VARIANCE + end_ratio**2, rel=1e-12)


LINE = [s for s in SAMPLERS if SAMPLERS[s].stochastic and s not in ("euler_maruyama", "pc")]
"""Euler and Maruyama's step and Langevin's have the variance of the line to first order in the step alone."""


@pytest.mark.parametrize("final", ["zero", "first"])
@pytest.mark.parametrize("steps", [1, 2, 11])
@pytest.mark.parametrize(
    ("name", "where"),
    [(s, g) for s in LINE for g in GRIDS if s != "euler_ancestral_rf" or isinstance(GRIDS[g][1], Flow)],
)
def test_fresh_noise_keeps_the_law_of_the_line(name: str, where: str, steps: int, final) -> None:
    """L1: one known x0, so alpha of it and noise of length sigma, wherever the network is asked."""
    spacing, schedule = GRIDS[where]
    grid = make_grid(spacing, steps=steps, schedule=schedule, final=final)
    draws = Draws(6 * steps + 6)

    def check(x: Tensor, at: Level) -> None:
        assert abs(float(x[0]) - at.alpha) < 1e-12
        assert abs(float(x[1:].norm()) - at.sigma) < 1e-12 * (1 + at.sigma)

    async def denoise(x: Tensor, at: Level) -> Estimate:
        check(x, at)
        return Estimate(at, draws.one, (x - at.alpha * draws.one) / at.sigma)

    start = grid[0].alpha * draws.one + grid[0].sigma * draws.start
    check(run(walk_of(name)(start, grid, denoise, draws)), grid[-1])


class Path:
    """A Brownian path over the clock (alpha / sigma)^2, drawn where it is asked for, exactly."""

    def __init__(self, seed: int) -> None:
        self.random, self.times, self.values = random.Random(seed), [0.0], [0.0]

    def value(self, time: float) -> float:
        i = bisect.bisect_left(self.times, time)
        if i < len(self.times) and self.times[i] == time:
            return self.values[i]
        before, low = self.times[i - 1], self.values[i - 1]
        if i == len(self.times):
            found = low + math.sqrt(time - before) * self.random.gauss(0, 1)
        else:
            after, high = self.times[i], self.values[i]
            part = (time - before) / (after - before)
            found = low + part * (high - low)
            found += math.sqrt(part * (1 - part) * (after - before)) * self.random.gauss(0, 1)
        self.times.insert(i, time)
        self.values.insert(i, found)
        return found

    def __call__(self, at: Level, to: Level, visit: int = 0) -> float:
        assert visit == 0
        start, end = ((level.alpha / level.sigma) ** 2 for level in (at, to))
        return (self.value(end) - self.value(start)) / math.sqrt(end - start)


@pytest.mark.parametrize("top", [1.0, 0.9])
@pytest.mark.parametrize(
    "name",
    [
        "ddpm",
        "euler_ancestral",
        "dpm2_ancestral",
        "dpmpp_2s_ancestral",
        "dpmpp_sde",
        "dpmpp_2m_sde",
        "dpmpp_2m_sde_heun",
        "dpmpp_3m_sde",
        "sa_solver",
    ],
)
def test_refining_the_grid_does_not_change_x(name: str, top: float) -> None:
    """L11: with all the noise exchanged and one x0, x is a function of the Brownian path and of its level alone."""
    path, ends = Path(1), []
    for steps in (1, 3, 12, 60):
        grid = [Level(s, 1 - s, s) for s in (top + (0.05 - top) * i / steps for i in range(steps))]
        grid.append(Level(0.05, 0.95, 0.05))  # the same to the last bit, for a path is rough

        async def denoise(x: float, at: Level) -> Estimate:
            return Estimate(at, 0.7, (x - at.alpha * 0.7) / at.sigma)

        ends.append(run(walk_of(name)(grid[0].alpha * 0.7 + grid[0].sigma * 1.3, grid, denoise, path)))
    assert abs(ends[0] - 0.95 * 0.7) > 1e-3
    assert max(abs(end - ends[0]) for end in ends) < 1e-12


@pytest.mark.parametrize("name", ["euler_ancestral_rf", "er_sde", "lcm"])
def test_where_another_amount_of_noise_is_exchanged_refining_does(name: str) -> None:
    """The test above can fail: these meet the same path and end elsewhere."""
    path, ends = Path(1), []
    for steps in (3, 12):
        grid = [Level(s, 1 - s, s) for s in (0.9 - 0.85 * i / steps for i in range(steps + 1))]

        async def denoise(x: float, at: Level) -> Estimate:
            return Estimate(at, 0.7, (x - at.alpha * 0.7) / at.sigma)

        ends.append(run(walk_of(name)(grid[0].alpha * 0.7 + grid[0].sigma * 1.3, grid, denoise, path)))
    assert abs(ends[0] - ends[1]) > 1e-4


@pytest.mark.parametrize("name", [*LINE, "euler_maruyama"])
def test_brownian_noise_gives_the_law_too(name: str) -> None:
    """Noise that is a function of the interval: samplers that come back say so, or its variance would be wrong.

    The exact flow map is the network of distilled samplers. 4000 values, four standard errors and the step's error.
    """
    count, steps = 4000, 40
    grid = [*even(Flow(), steps)[:-1], CLEAN] if name in FEW else even(Flow(), steps)
    source = Brownian([5], (count,), torch.float64)
    one = torch.ones(1, dtype=torch.float64)

    async def denoise(x: Tensor, at: Level) -> Estimate:
        if name in FEW:
            x0 = flow_map(x, at, CLEAN, one)
        else:
            x0 = MEAN + at.alpha * VARIANCE / spread(at) * (x - at.alpha * MEAN)
        return Estimate(at, x0, (x - at.alpha * x0) / at.sigma)

    start = grid[0].alpha * MEAN + math.sqrt(spread(grid[0])) * Stream([9], (count,), torch.float64).start()
    text = "tcd(gamma=1)" if name == "tcd" else PLAIN.get(name, name)
    end = run(sampler(text).walk(start, grid, denoise, source)) / grid[-1].alpha
    true = spread(grid[-1]) / grid[-1].alpha ** 2
    assert abs(float(end.mean()) - MEAN) < 4 * math.sqrt(true / count)
    bias = 0.12 if SAMPLERS[name].order == 1 else 0.0
    assert abs(float(end.var()) / true - 1) < 4 * math.sqrt(2 / count) + bias


def test_every_few_step_sampler_is_tried_with_an_exact_network() -> None:
    assert sorted(FEW) == ["consistency", "lcm", "tcd"]
