"""L2: on a Gaussian, whose probability-flow ODE has a closed solution, errors fall at the order of the table."""

from __future__ import annotations

import math

import pytest

from sfumato.engine.run import run
from sfumato.process.estimate import Estimate, Vector
from sfumato.process.level import Level
from sfumato.process.schedule import Cosine, Exploding, Flow, Schedule, scaled_linear
from sfumato.samplers import SAMPLERS, sampler
from sfumato.samplers.adams import deis, exponential_x0, ipndm, lms
from sfumato.samplers.multistep import multistep
from sfumato.samplers.unipc import bh1, bh2, predict_correct

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


def truth(at: Level) -> float:
    """x on the way of the ODE, whose flow keeps the quantile: 1.7 deviations from the mean at every level."""
    return at.alpha * MEAN + 1.7 * math.sqrt(spread(at))


def never(at: Level, to: Level, visit: int = 0) -> float:
    pytest.fail("drew")


def history(schedule: Schedule, steps: int, count: int) -> list[Estimate]:
    """The estimates that an exact walk would have made at the ``count`` levels before the grid."""
    step = (TO - FROM) / steps
    levels = [schedule.at(FROM - step * i) for i in range(count, 0, -1)]
    return [run(exact(truth(at), at)) for at in levels]


def multi(*rules, past: list[Estimate]):
    return lambda x, grid: multistep(x, grid, exact, never, rules=rules, past=past)


# The multistep methods of order above 2, from an exact past: from a start of first order they are of second.
FROM_PAST = {
    "lms": (3, lambda past: multi(*[lms] * 4, past=past)),
    "deis": (2, lambda past: multi(*[deis] * 3, past=past)),
    "dpmpp_3m": (2, lambda past: multi(*[exponential_x0] * 3, past=past)),
}


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", [n for n, s in SAMPLERS.items() if not s.stochastic and not s.by_row])
def test_errors_fall_at_the_order_of_the_table(name: str, schedule: str) -> None:
    errors = []
    for steps in (256, 512, 1024) if name in FROM_PAST else STEPS:
        grid = even(SCHEDULES[schedule], steps)
        if name in FROM_PAST:
            count, walk = FROM_PAST[name]
            end = run(walk(history(SCHEDULES[schedule], steps, count))(truth(grid[0]), grid))
        else:
            end = run(SAMPLERS[name].walk(truth(grid[0]), grid, exact, never))
        errors.append(abs(end - truth(grid[-1])))
    assert slope(errors) == pytest.approx(SAMPLERS[name].order, abs=0.15), errors


# What the options of the table's samplers are of.
ORDERS = {
    "lms 1": (1, 0, lambda past: multi(lms, past=past)),
    "lms 2": (2, 1, lambda past: multi(*[lms] * 2, past=past)),
    "lms 3": (3, 2, lambda past: multi(*[lms] * 3, past=past)),
    "deis 1": (1, 0, lambda past: multi(deis, past=past)),
    "deis 2": (2, 1, lambda past: multi(*[deis] * 2, past=past)),
    "deis 4": (4, 3, lambda past: multi(*[deis] * 4, past=past)),
    "3m as the authors' code has it": (
        2,
        2,
        lambda past: multi(*[lambda p, to: exponential_x0(p, to, 0.5)] * 3, past=past),
    ),
    **{
        f"unipc {order} {half.__name__}": (
            order + 1,
            order - 1,
            lambda past, order=order, half=half: (
                lambda x, grid: predict_correct(x, grid, exact, order=order, half=half, past=past)
            ),
        )
        for order in (1, 2, 3)
        for half in (bh1, bh2)
    },
}


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", ORDERS)
def test_orders_of_options(name: str, schedule: str) -> None:
    order, count, walk = ORDERS[name]
    errors = []
    for steps in STEPS[1:]:
        grid = even(SCHEDULES[schedule], steps)
        end = run(walk(history(SCHEDULES[schedule], steps, count))(truth(grid[0]), grid))
        errors.append(abs(end - truth(grid[-1])))
    assert slope(errors) == pytest.approx(order, abs=0.15), errors


def test_fixed_weights_are_of_fourth_order_where_sigma_over_alpha_is_even() -> None:
    """The weights of pndm and ipndm suppose even steps of sigma / alpha; elsewhere their order is 2."""
    errors = []
    for steps in STEPS[1:]:
        grid = [Exploding().level(4.0 - 3.0 * i / steps) for i in range(-3, steps + 1)]
        past = [run(exact(truth(at), at)) for at in grid[:3]]
        end = run(multi(*[ipndm] * 4, past=past)(truth(grid[3]), grid[3:]))
        errors.append(abs(end - truth(grid[-1])))
    assert slope(errors) == pytest.approx(4, abs=0.15), errors


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("order", [2, 3])
def test_the_adaptive_samplers_steps_are_of_its_order(order: int, schedule: str) -> None:
    """With a controller that leaves the step alone, ``h_init`` is the step."""
    first, last = even(SCHEDULES[schedule], 1)
    errors = []
    for steps in (16, 32, 64):
        fixed = f"dpm_adaptive(order={order}, h_init={(TO - FROM) / steps!r}, icoeff=0)"
        end = run(sampler(fixed).walk(truth(first), [first, last], exact, never))
        errors.append(abs(end - truth(last)))
    assert slope(errors) == pytest.approx(order, abs=0.15), errors


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
        if entry.evaluations is None:
            continue
        asked = 0

        async def denoise(x: float, at: Level) -> Estimate:
            nonlocal asked
            asked += 1
            return await exact(x, at)

        run(entry.walk(1.0, even(Flow(), 10), denoise, lambda at, to, visit=0: 0.0))
        again = entry.name == "pndm"  # its first step is taken twice
        assert asked == 10 * entry.evaluations + again, entry.name
