"""L11: with noise from a Brownian path an ancestral sampler sees one path, however fine its grid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sfumato.engine.run import run
from sfumato.noise import Brownian, Noise, Stream, brownian
from sfumato.process.estimate import Estimate
from sfumato.process.level import CLEAN, Level
from sfumato.process.schedule import Cosine, Exploding, Flow, Schedule, from_betas, scaled_linear
from sfumato.samplers import SAMPLERS

SCHEDULES: dict[str, Schedule] = {
    "flow from pure noise": Flow(),
    "cosine from pure noise": Cosine(),
    "zero terminal ratio": from_betas([0.05] * 59 + [1.0]),
    "stable diffusion": scaled_linear(),
    "edm": Exploding(),
}
CLEAR = torch.tensor([0.7, -1.3, 0.2], dtype=torch.float64)
"""What the constant denoiser answers."""


def walk(noise: Noise, grid: Sequence[Level]) -> Tensor:
    async def denoise(x: Tensor, at: Level) -> Estimate:
        return Estimate(at, CLEAR.expand_as(x), (x - at.alpha * CLEAR) / at.sigma)

    x = grid[0].alpha * CLEAR + grid[0].sigma * noise.start()
    end: Tensor = run(SAMPLERS["ddpm"].walk(x, grid, denoise, noise))
    return end


def levels(schedule: Schedule, places: Sequence[int]) -> list[Level]:
    """From the top of ``schedule`` down, at thousandths of its times."""
    top = schedule.t_max
    return [schedule.level(top), *(schedule.level(top * p / 1000) for p in sorted(set(places), reverse=True))]


@pytest.mark.parametrize("name", SCHEDULES)
@given(
    coarse=st.lists(st.integers(5, 999), min_size=1, max_size=4),
    finer=st.lists(st.integers(5, 999), min_size=1, max_size=25),
    seed=st.integers(0, 1000),
)
@settings(max_examples=12, deadline=None)
def test_a_finer_grid_ends_at_the_same_x(name: str, coarse, finer, seed: int) -> None:
    schedule, last = SCHEDULES[name], min(coarse)
    few = levels(schedule, coarse)
    many = levels(schedule, [*coarse, *(place for place in finer if place > last)])
    ends = [walk(Brownian([seed, seed + 1], (3,), torch.float64), grid) for grid in (few, many)]
    assert float((ends[0] - ends[1]).abs().max()) < 1e-12 * (1 + few[-1].sigma)
    assert float((ends[0] - few[-1].alpha * CLEAR).abs().max()) > 1e-3 * few[-1].sigma


def test_the_test_tells_the_clock_from_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """The path over alpha / sigma instead of its square, or a stream, gives another x on a finer grid."""
    few, many = levels(Flow(), [500, 100]), levels(Flow(), range(100, 1000, 50))

    def gap(make) -> float:
        return float((walk(make(), few) - walk(make(), many)).abs().max())

    assert gap(lambda: Brownian([1], (3,), torch.float64)) < 1e-14
    assert gap(lambda: Stream([1], (3,), torch.float64)) > 1e-2
    monkeypatch.setattr(brownian, "clock", lambda at: at.alpha / at.sigma)
    assert gap(lambda: Brownian([1], (3,), torch.float64)) > 1e-2


def test_pictures_settle_as_steps_grow() -> None:
    """On a Gaussian ddpm converges, path by path, to one x; with a stream every number of steps draws anew."""
    mean, variance, schedule = 0.8, 0.09, Flow()

    async def exact(x: Tensor, at: Level) -> Estimate:
        spread = at.alpha**2 * variance + at.sigma**2
        away = x - at.alpha * mean
        return Estimate(at, mean + at.alpha * variance / spread * away, at.sigma / spread * away)

    def end(make, steps: int) -> Tensor:
        noise = make([4], (500,), torch.float64)
        grid = [*(schedule.at(-5 + 9 * i / steps) for i in range(steps)), CLEAN]
        x: Tensor = run(SAMPLERS["ddpm"].walk(noise.start(), grid, exact, noise))
        return x

    ends = {make: [end(make, steps) for steps in (20, 80, 320)] for make in (Brownian, Stream)}
    gaps = {make: [float((a - b).std()) for a, b in pairwise(e)] for make, e in ends.items()}
    assert gaps[Brownian][1] < gaps[Brownian][0] / 2
    assert gaps[Brownian][1] < 0.1 * math.sqrt(variance)
    assert min(gaps[Stream]) > math.sqrt(variance)
