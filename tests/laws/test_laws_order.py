"""L2: on a Gaussian, whose probability-flow ODE has a closed solution, errors fall at the order of the table."""

from __future__ import annotations

import math

import pytest

from sfumato.engine.run import run
from sfumato.process.estimate import Estimate, Vector
from sfumato.process.level import Level
from sfumato.process.schedule import Cosine, Exploding, Flow, Schedule, scaled_linear
from sfumato.samplers import SAMPLERS

MEAN, VARIANCE = 0.8, 0.09
SCHEDULES: dict[str, Schedule] = {
    "table": scaled_linear(),
    "cosine": Cosine(),
    "flow": Flow(),
    "edm": Exploding(),
}
FROM, TO = math.log(0.2), math.log(9.0)
STEPS = (64, 128, 256, 512)


def spread(at: Level) -> float:
    return at.alpha**2 * VARIANCE + at.sigma**2


async def exact(x: Vector, at: Level) -> Estimate:
    """E[x0 | x] and E[eps | x] of N(MEAN, VARIANCE): regression of one Gaussian on another."""
    away = x - at.alpha * MEAN
    return Estimate(at, MEAN + at.alpha * VARIANCE / spread(at) * away, at.sigma / spread(at) * away)


def even(schedule: Schedule, steps: int) -> list[Level]:
    """Levels evenly spaced in log(alpha / sigma)."""
    return [schedule.at(FROM + (TO - FROM) * i / steps) for i in range(steps + 1)]


def slope(errors: list[float]) -> float:
    """The least-squares slope of log2(error) over doublings of the steps, falling."""
    logs = [math.log2(e) for e in errors]
    middle = (len(logs) - 1) / 2
    weights = [i - middle for i in range(len(logs))]
    return -sum(w * y for w, y in zip(weights, logs, strict=True)) / sum(w * w for w in weights)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("sampler", [s for s in SAMPLERS if not SAMPLERS[s].stochastic])
def test_errors_fall_at_the_order_of_the_table(sampler: str, schedule: str) -> None:
    errors = []
    for steps in STEPS:
        grid = even(SCHEDULES[schedule], steps)
        start = grid[0].alpha * MEAN + 1.7 * math.sqrt(spread(grid[0]))
        # The flow of the ODE keeps the quantile: 1.7 deviations from the mean at every level.
        end = grid[-1].alpha * MEAN + 1.7 * math.sqrt(spread(grid[-1]))
        errors.append(
            abs(run(SAMPLERS[sampler].walk(start, grid, exact, lambda at, to: pytest.fail("drew"))) - end)
        )
    assert slope(errors) == pytest.approx(SAMPLERS[sampler].order, abs=0.15), errors


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_law_of_ancestral_samples_converges_at_the_order_of_the_table(schedule: str) -> None:
    """On a Gaussian a stochastic walk is linear in its draws, so the law of its end is known without sampling:

    its mean is the walk without draws, its variance the sum of squares of what each unit draw alone adds.
    """
    entry = SAMPLERS["ddpm"]
    means, variances = [], []
    for steps in (32, 64, 128):
        grid = even(SCHEDULES[schedule], steps)

        def end(x: float, which: int, grid: list[Level] = grid) -> float:
            levels = {to: i for i, to in enumerate(grid)}
            return float(run(entry.walk(x, grid, exact, lambda at, to: float(levels[to] == which))))

        centre = end(grid[0].alpha * MEAN, -1)
        from_start = end(grid[0].alpha * MEAN + math.sqrt(spread(grid[0])), -1) - centre
        from_draws = [end(grid[0].alpha * MEAN, i) - centre for i in range(1, steps + 1)]
        means.append(abs(centre - grid[-1].alpha * MEAN))
        variances.append(abs(from_start**2 + sum(d * d for d in from_draws) - spread(grid[-1])))
    assert max(means) < 1e-12
    assert slope(variances) == pytest.approx(entry.order, abs=0.15), variances


def test_evaluations_are_what_the_table_says() -> None:
    for entry in SAMPLERS.values():
        asked = 0

        async def denoise(x: float, at: Level) -> Estimate:
            nonlocal asked
            asked += 1
            return await exact(x, at)

        run(entry.walk(1.0, even(Flow(), 10), denoise, lambda at, to: 0.0))
        assert asked == 10 * entry.evaluations
