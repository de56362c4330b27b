"""Inversion: up to the noise that makes a picture, and down again."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from sfumato.engine.run import run
from sfumato.errors import InvalidRequest
from sfumato.process.between import Levels
from sfumato.process.estimate import Estimate
from sfumato.process.grid import make_grid
from sfumato.process.level import CLEAN, Level
from sfumato.process.prediction import prediction
from sfumato.process.schedule import Cosine, Exploding, Flow, Schedule, scaled_linear
from sfumato.samplers import SAMPLERS, sampler
from sfumato.samplers.inversion import invert, rising
from tests.samplers.peers_ode import network, start
from tests.samplers.test_samplers_ode_ends import exact, truth

SCHEDULES: dict[str, tuple[str, Schedule]] = {
    "flow from pure noise": ("linspace", Flow()),
    "cosine from pure noise": ("linspace", Cosine()),
    "stable diffusion": ("trailing", scaled_linear()),
    "edm": ("karras", Exploding()),
}


async def mixed(x: Tensor, at: Level) -> Estimate:
    """A network whose values depend on each other."""
    assert at.sigma > 0
    scale = 1 / math.hypot(at.alpha, at.sigma)
    shown = Level(at.t, scale * at.alpha, scale * at.sigma)
    kind = prediction("v")
    found = kind.estimate(scale * x, 0.5 * network(scale * x, 500 * shown.sigma), shown)
    return Estimate(at, found.x0, found.eps)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("final", ["zero", "first"])
@pytest.mark.parametrize("steps", [2, 12])
def test_refined_inversion_and_ddim_undo_each_other(steps: int, final, name: str) -> None:
    spacing, schedule = SCHEDULES[name]
    if steps == 2:
        schedule = schedule if name != "edm" else Exploding(t_min=0.5, t_max=4.0)
    grid = make_grid(spacing, steps=steps, schedule=schedule, final=final)
    picture = 0.5 * start()
    noise = run(invert(picture, rising(grid), mixed, None, refine=300))  # type: ignore[arg-type]
    again = run(SAMPLERS["ddim"].walk(noise, grid, mixed, None))  # type: ignore[arg-type]
    assert (again - picture).abs().max() < 1e-9
    rough = run(invert(picture, rising(grid), mixed, None))  # type: ignore[arg-type]
    once = run(SAMPLERS["ddim"].walk(rough, grid, mixed, None))  # type: ignore[arg-type]
    assert (once - picture).abs().max() > 1e-6


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("refine", [0, 2])
def test_inversion_goes_up_the_exact_flow_at_first_order(refine: int, name: str) -> None:
    """On a Gaussian, whose flow keeps the quantile: between two levels with noise, and from none to pure noise."""
    _, schedule = SCHEDULES[name]
    errors = []
    for steps in (50, 100, 200):
        lams = [math.log(9.0) + (math.log(0.2) - math.log(9.0)) * i / steps for i in range(steps + 1)]
        grid = [schedule.at(lam) for lam in lams]
        end = run(invert(truth(grid[0]), grid, exact, None, refine=refine))  # type: ignore[arg-type]
        errors.append(abs(end - truth(grid[-1])))
    assert errors[1] / errors[0] == pytest.approx(0.5, abs=0.06)
    assert errors[2] / errors[1] == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize("schedule", [Flow(), Cosine()], ids=repr)
def test_from_no_noise_to_pure_noise(schedule: Schedule) -> None:
    errors = []
    for steps in (10, 40, 160):
        grid = rising(make_grid("linspace", steps=steps, schedule=schedule))
        end = run(invert(truth(CLEAN), grid, exact, None, refine=30))  # type: ignore[arg-type]
        errors.append(abs(end - truth(grid[-1])))
    assert errors[2] < 0.4 * errors[1] < 0.2 * errors[0]
    assert errors[2] < 0.05


@pytest.mark.parametrize(("refine", "each"), [(0, 1), (3, 4)])
def test_the_network_is_asked_at_the_upper_level_of_every_step(refine: int, each: int) -> None:
    asked: list[Level] = []
    grid = rising(make_grid("linspace", steps=4, schedule=Flow()))

    async def denoise(x: float, at: Level) -> Estimate:
        asked.append(at)
        return await exact(x, at)

    run(invert(0.3, grid, denoise, None, refine=refine))  # type: ignore[arg-type]
    assert asked == [at for at in grid[1:] for _ in range(each)]


def test_rising_keeps_the_schedule_and_turns_back() -> None:
    grid = make_grid("linspace", steps=4, schedule=Flow())
    turned = rising(grid)
    assert isinstance(turned, Levels)
    assert turned.schedule == Flow()
    assert rising(turned) == grid
    assert turned[0] == CLEAN


def test_what_cannot_be_inverted_is_refused_with_a_sentence() -> None:
    grid = make_grid("linspace", steps=4, schedule=Flow())
    with pytest.raises(InvalidRequest, match="noise rises"):
        run(invert(0.3, grid, exact, None))  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match="clean picture to pure noise"):
        run(invert(0.3, (CLEAN, grid[0]), exact, None))  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match="refine = -1"):
        run(invert(0.3, rising(grid), exact, None, refine=-1))  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_the_adaptive_sampler_says_so_where_the_network_gives_no_numbers(value: float) -> None:
    """Without that it would look for a step for ever."""

    async def denoise(x: Tensor, at: Level) -> Estimate:
        return Estimate(at, torch.full_like(x, value), x)

    grid = make_grid("linspace", steps=5, schedule=Flow())
    with pytest.raises(InvalidRequest, match="not smooth or not finite"):
        run(SAMPLERS["dpm_adaptive"].walk(start(), grid, denoise, None))  # type: ignore[arg-type]


def test_the_adaptive_sampler_gives_up_on_a_network_that_says_something_else_each_time() -> None:
    signs = itertools.cycle((5.0, -5.0))

    async def denoise(x: float, at: Level) -> Estimate:
        x0 = next(signs)
        return Estimate(at, x0, (x - at.alpha * x0) / at.sigma)

    grid = [Flow().level(0.9), Flow().level(0.1)]
    with pytest.raises(InvalidRequest, match=r"rtol = 1e-09"):
        run(sampler("dpm_adaptive(rtol=1e-9, atol=1e-9)").walk(0.5, grid, denoise, None))  # type: ignore[arg-type]
