"""Every deterministic sampler from pure noise, to none, in one step, in part of a grid: held against the exact flow."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfumato.engine.run import run
from sfumato.errors import InvalidRequest
from sfumato.process.estimate import Estimate
from sfumato.process.grid import make_grid
from sfumato.process.level import CLEAN, Level
from sfumato.process.schedule import Cosine, Exploding, Flow, from_betas, scaled_linear
from sfumato.samplers import SAMPLERS, sampler

MEAN, VARIANCE = 0.8, 0.09
GRIDS = {
    "flow from pure noise": ("linspace", Flow()),
    "cosine from pure noise": ("linspace", Cosine()),
    "zero terminal ratio": ("linspace", from_betas([0.002 + 0.04 * i / 299 for i in range(299)] + [1.0])),
    "stable diffusion, trailing": ("trailing", scaled_linear()),
    "edm": ("karras", Exploding()),
}
FIXED = [name for name, s in SAMPLERS.items() if not s.stochastic and not s.by_row]
DETERMINISTIC = [name for name, s in SAMPLERS.items() if not s.stochastic]


def spread(at: Level) -> float:
    return at.alpha**2 * VARIANCE + at.sigma**2


async def exact(x: float, at: Level) -> Estimate:
    """The denoiser of N(MEAN, VARIANCE)."""
    assert at.sigma > 0, "asked where there is no noise"
    away = x - at.alpha * MEAN
    return Estimate(at, MEAN + at.alpha * VARIANCE / spread(at) * away, at.sigma / spread(at) * away)


def truth(at: Level, quantile: float = 1.7) -> float:
    """The flow of the ODE keeps the quantile."""
    return at.alpha * MEAN + quantile * math.sqrt(spread(at))


def never(at: Level, to: Level, visit: int = 0) -> float:
    pytest.fail("drew")


def error(name: str, grid: Sequence[Level]) -> float:
    """How far from the truth a walk ends that began on it, in deviations of the law there."""
    end = run(sampler(name).walk(truth(grid[0]), grid, exact, never))
    return abs(end - truth(grid[-1])) / math.sqrt(spread(grid[-1]))


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("name", FIXED)
def test_whole_grids_converge_to_the_exact_flow(name: str, grid: str) -> None:
    spacing, schedule = GRIDS[grid]
    few, many = (error(name, make_grid(spacing, steps=steps, schedule=schedule)) for steps in (4, 128))
    assert many < few / 5
    assert many < (0.1 if SAMPLERS[name].order == 1 else 0.07)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("name", FIXED)
def test_parts_of_a_grid_converge_to_the_exact_flow(name: str, grid: str) -> None:
    """From the middle to a level with noise, and from the top to the middle, to what a table resolves."""
    spacing, schedule = GRIDS[grid]
    for first, last in ((2, 6), (0, 4)):
        wholes = {fine: make_grid(spacing, steps=8 * fine, schedule=schedule) for fine in (4, 16)}
        few, many = (error(name, w[first * fine : last * fine + 1]) for fine, w in wholes.items())
        assert many < max(0.6 * few, 1.5e-4)
        assert many < 0.05


@pytest.mark.parametrize(("order", "most"), [(2, 2e-2), (3, 2e-2)])
@pytest.mark.parametrize(
    "grid", ["flow from pure noise", "cosine from pure noise", "stable diffusion, trailing", "edm"]
)
def test_the_adaptive_sampler_converges_with_its_tolerance(grid: str, order: int, most: float) -> None:
    """Between the first and the last level with noise; of the grid's own steps it takes the outermost alone."""
    spacing, schedule = GRIDS[grid]
    levels = make_grid(spacing, steps=20, schedule=schedule)[1:-1]
    loose, tight, tighter = (
        error(f"dpm_adaptive(order={order}, rtol={r}, atol={r / 10})", levels) for r in (1e-2, 1e-4, 1e-6)
    )
    assert tighter < tight < loose
    assert tight < most
    assert tighter < most / 10


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_one_step_to_no_noise_is_the_denoisers_answer(name: str, grid: str) -> None:
    spacing, schedule = GRIDS[grid]
    (top, end) = make_grid(spacing, steps=1, schedule=schedule)
    x = truth(top)
    found = run(sampler(name).walk(x, (top, end), exact, never))
    assert found == pytest.approx(run(exact(x, top)).x0, abs=1e-14)


@pytest.mark.parametrize("grid", ["flow from pure noise", "cosine from pure noise"])
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_two_steps_from_pure_noise_to_none(name: str, grid: str) -> None:
    """Both are of infinite length in lambda, the first in sigma / alpha too: DDIM's, or better if that is no matter."""
    spacing, schedule = GRIDS[grid]
    levels = make_grid(spacing, steps=2, schedule=schedule)
    if name in ("heun", "pndm", "ipndm"):
        assert error(name, levels) < error("ddim", levels) - 0.01
    else:
        assert error(name, levels) == pytest.approx(error("ddim", levels), abs=1e-12)


FRAMES = {
    "preserving": lambda lam: Level(
        -lam, 1 / math.hypot(1, math.exp(-lam)), 1 / math.hypot(1, math.exp(lam))
    ),
    "flow": lambda lam: Level(-lam, 1 / (1 + math.exp(-lam)), 1 / (1 + math.exp(lam))),
    "exploding": lambda lam: Level(-lam, 1.0, math.exp(-lam)),
}


@settings(deadline=None, max_examples=15)
@given(
    start=st.floats(-5.0, 1.0),
    gaps=st.lists(st.floats(0.05, 2.0), min_size=1, max_size=8),
    frame=st.sampled_from(sorted(FRAMES)),
    noise=st.booleans(),
    clean=st.booleans(),
)
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_on_any_grid_a_line_stays_a_line(
    name: str, start: float, gaps: list[float], frame: str, noise: bool, clean: bool
) -> None:
    """Where the denoiser always sees the same ends, x ends between them, whatever the steps are."""
    lams = [start + sum(gaps[:i]) for i in range(len(gaps) + 1)]
    grid = [FRAMES[frame](lam) for lam in lams]
    if noise and frame != "exploding":
        grid = [Level(9.0, 0.0, 1.0), *grid]
    if clean:
        grid = [*grid, CLEAN]
    x0, eps = 0.7, -1.3

    async def same(x: float, at: Level) -> Estimate:
        assert x == pytest.approx(at.alpha * x0 + at.sigma * eps, abs=1e-9 * (1 + at.sigma))
        return Estimate(at, x0, eps)

    end = run(sampler(name).walk(grid[0].alpha * x0 + grid[0].sigma * eps, grid, same, never))
    assert end == pytest.approx(grid[-1].alpha * x0 + grid[-1].sigma * eps, abs=1e-9 * (1 + grid[0].sigma))


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_no_step_at_all_leaves_x_alone(name: str) -> None:
    assert run(sampler(name).walk(0.3, [Flow().level(0.5)], exact, never)) == 0.3


@pytest.mark.parametrize("name", FIXED)
def test_a_level_that_a_grid_repeats_does_no_harm(name: str) -> None:
    """Methods that know where their estimates were drop the older one; fixed weights cannot, and lose some order."""
    for steps in (16, 64):
        grid = make_grid("linspace", steps=steps, schedule=Flow())
        half = steps // 2
        again = (*grid[: half + 1], grid[half], grid[half], *grid[half + 1 :])
        plain, found = error(name, grid), error(name, again)
        assert found < plain + 0.3 / steps, (plain, found)
    assert found < max(0.02, 1.1 * plain)


@pytest.mark.parametrize("name", [n for n in FIXED if n != "pndm"])
def test_an_alpha_of_nearly_0_does_no_harm(name: str) -> None:
    """But to pndm, whose first step takes half of the noise of the level below times a nearly infinite step."""
    grid = [Level(1.0, 1e-12, 1.0), *make_grid("linspace", steps=20, schedule=Flow())[1:]]
    assert error(name, grid) < 0.17
    assert error("pndm", grid) > 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lms(order=0)", "order = 0 is outside what 'lms' allows: 1 to 4"),
        ("lms(order=5)", "order = 5"),
        ("deis(order=5)", "'deis' allows: 1 to 4"),
        ("ipndm(order=7)", "'ipndm' allows: 1 to 4"),
        ("unipc(order=0)", "'unipc' allows: 1 to 4"),
        ("unipc_bh1(order=9)", "'unipc_bh1' allows: 1 to 4"),
        ("dpm_adaptive(order=4)", "'dpm_adaptive' allows: 2 or 3"),
        ("dpm_adaptive(rtol=0)", "above 0"),
        ("dpm_adaptive(h_init=-1)", "above 0"),
    ],
)
def test_options_out_of_range_are_refused_with_a_sentence(text: str, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said.replace("(", r"\(")):
        run(sampler(text).walk(1.0, make_grid("linspace", steps=3, schedule=Flow()), exact, never))


@pytest.mark.parametrize("name", ["lms", "deis", "ipndm", "unipc"])
def test_order_one_is_ddim(name: str) -> None:
    """UniPC's corrector makes more of it; a predictor alone is DDIM."""
    grid = (*(Cosine().level(t) for t in (1.0, 0.8, 0.5, 0.1)), CLEAN)
    ddim, found = (run(sampler(text).walk(0.9, grid, exact, never)) for text in ("ddim", f"{name}(order=1)"))
    assert (found == pytest.approx(ddim, abs=1e-14)) == (name != "unipc")


def test_gradient_estimation_of_one_is_ddim_and_of_three_halves_is_adams_and_bashforths() -> None:
    grid = make_grid("linspace", steps=9, schedule=Cosine())[2:-1]
    walk = {
        text: run(sampler(text).walk(0.9, grid, exact, never))
        for text in (
            "ddim",
            "gradient_estimation(gamma=1)",
            "ipndm(order=2)",
            "gradient_estimation(gamma=1.5)",
        )
    }
    assert walk["ddim"] == pytest.approx(walk["gradient_estimation(gamma=1)"], abs=1e-14)
    assert walk["ipndm(order=2)"] == pytest.approx(walk["gradient_estimation(gamma=1.5)"], abs=1e-14)
    assert abs(walk["ddim"] - walk["ipndm(order=2)"]) > 1e-3
