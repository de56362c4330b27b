"""Constraints: known regions under every sampler, clipping, dynamic thresholding."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sfumato.engine.run import run
from sfumato.errors import InvalidRequest
from sfumato.families.gaussian import mixture
from sfumato.guidance.classifier_free import classifier_free
from sfumato.guidance.constraints import clip, dynamic_threshold, known
from sfumato.guidance.interval import share
from sfumato.guidance.plus import plus_plus
from sfumato.process.estimate import Denoise, Estimate
from sfumato.process.grid import make_grid
from sfumato.process.level import CLEAN, Level
from sfumato.process.schedule import Cosine, Exploding, Flow, Schedule, scaled_linear
from sfumato.samplers import SAMPLERS

SCHEDULES: dict[str, Schedule] = {
    "flow": Flow(),
    "cosine": Cosine(),
    "sd": scaled_linear(),
    "edm": Exploding(),
}
ROWS, SIZE = 3, 6
MASK = torch.tensor([1.0, 0, 1, 1, 0, 0]).double()
INSIDE = MASK.bool()
MODEL = mixture(
    torch.randn(3, SIZE, generator=torch.Generator().manual_seed(4)),
    0.2 * torch.eye(SIZE).expand(3, SIZE, SIZE) + 0.1,
    torch.tensor([0.3, 0.3, 0.4]),
    names=("a", "b", "c"),
)


def draw(seed: int) -> Tensor:
    return torch.randn(ROWS, SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


Y, N = draw(1), draw(2)


def model_on(schedule: Schedule) -> Denoise:
    network = MODEL.denoiser.network
    model = mixture(
        network.means,
        0.2 * torch.eye(SIZE).expand(3, SIZE, SIZE) + 0.1,
        torch.ones(3),
        schedule=schedule,
    )
    return classifier_free(model.denoise, model.conditioner(["1"]), model.conditioner([""]), 2.0)


class Draws:
    """Fresh noise that counts, the same for every walk."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, at: Level, to: Level, visit: int = 0) -> Tensor:
        self.count += 1
        return draw(100 + self.count)


@pytest.mark.parametrize("steps", [1, 7])
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_what_is_known_stays_on_its_path_and_ends_as_it_is(sampler: str, schedule: str, steps: int) -> None:
    """For every sampler the known values come out; without fresh noise they never leave ``alpha y + sigma n``."""
    entry = SAMPLERS[sampler]
    grid = make_grid("linspace", steps=steps, schedule=SCHEDULES[schedule])
    held = known(model_on(SCHEDULES[schedule]), Y, MASK)

    async def watched(x: Tensor, at: Level) -> Estimate:
        if not entry.stochastic:
            on_path(x, at)
        return await held(x, at)

    def on_path(x: Tensor, at: Level) -> None:
        path = at.alpha * Y + at.sigma * N
        torch.testing.assert_close(x[:, INSIDE], path[:, INSIDE], rtol=1e-10, atol=1e-10)

    walk = entry.walk(grid[0].alpha * Y + grid[0].sigma * N, grid, watched, Draws())
    if sampler == "euler_ancestral_rf" and any(abs(at.alpha + at.sigma - 1) > 1e-6 for at in grid):
        with pytest.raises(InvalidRequest, match="rectified flow"):
            run(walk)
        return
    end = run(walk)
    on_path(end, CLEAN)
    assert (end - Y)[:, ~INSIDE].abs().min() > 1e-4


@pytest.mark.parametrize("sampler", [s.name for s in SAMPLERS.values() if not s.by_row])
def test_inside_a_walk_is_that_of_a_denoiser_that_knows(sampler: str) -> None:
    """Draw for draw, also with fresh noise, and whatever the rest of the picture does; the rest of the grid too."""
    grid = make_grid("linspace", steps=8, schedule=Flow())[1:6]
    start = grid[0].alpha * Y + grid[0].sigma * N

    async def knowing(x: Tensor, at: Level) -> Estimate:
        return Estimate(at, Y, (x - at.alpha * Y) / at.sigma)

    ends = [
        run(SAMPLERS[sampler].walk(start, grid, denoise, Draws()))
        for denoise in (known(model_on(Flow()), Y, MASK), knowing)
    ]
    torch.testing.assert_close(ends[0][:, INSIDE], ends[1][:, INSIDE], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_it_is_the_paste_of_fixed_noise(schedule: str) -> None:
    """Euler by hand, with the known region pasted into x before every step, as inpainting usually does."""
    grid = make_grid("linspace", steps=7, schedule=SCHEDULES[schedule])
    denoise = model_on(SCHEDULES[schedule])
    start = grid[0].sigma * N + grid[0].alpha * Y
    found = run(SAMPLERS["euler"].walk(start, grid, known(denoise, Y, MASK), Draws()))
    x = start
    for at, to in pairwise(grid):
        x = torch.where(INSIDE, at.alpha * Y + at.sigma * N, x)
        x = run(denoise(x, at)).move(to)
    torch.testing.assert_close(found, torch.where(INSIDE, Y, x), rtol=1e-10, atol=1e-10)


@given(st.floats(0, 1), st.floats(0.05, 0.95))
@settings(max_examples=30, deadline=None)
def test_a_soft_mask_blends_and_stays_on_the_line(m: float, t: float) -> None:
    at = Flow().level(t)
    x = at.alpha * Y + at.sigma * draw(3)
    denoise = model_on(Flow())
    free, held = (
        run(denoise(x, at)),
        run(known(denoise, Y, torch.full((SIZE,), m, dtype=torch.float64))(x, at)),
    )
    torch.testing.assert_close(held.x0, m * Y + (1 - m) * free.x0, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(at.alpha * held.x0 + at.sigma * held.eps, x, rtol=1e-11, atol=1e-11)


def test_a_mask_of_the_level_frees_values_one_after_another() -> None:
    """Differential diffusion: a value is held to its path until the noise falls below its strength, then free."""
    strength = torch.tensor([0.0, 0.2, 0.4, 0.6, 0.8, 0.99]).double()
    grid = make_grid("linspace", steps=10, schedule=Flow())
    held = known(model_on(Flow()), Y, lambda at: (strength < share(at)).double())
    freed = [False] * SIZE

    async def watched(x: Tensor, at: Level) -> Estimate:
        off = (x - at.alpha * Y - at.sigma * N).abs().amax(dim=0)
        for k in range(SIZE):
            freed[k] |= bool(off[k] > 1e-9)
            assert freed[k] == bool(share(last[0]) <= strength[k])
        last[0] = at
        return await held(x, at)

    last = [Level(0.0, 0.0, 1.0)]
    end = run(SAMPLERS["euler"].walk(N, grid, watched, Draws()))
    assert torch.equal((end - Y).abs().amax(dim=0) < 1e-9, torch.tensor([True] + [False] * 5))


def test_the_known_replaces_both_ends_off_the_line_too() -> None:
    at = Flow().level(0.6)
    x = at.alpha * Y + at.sigma * N
    off = plus_plus(MODEL.denoise, MODEL.conditioner(["a"]), MODEL.conditioner([""]), 0.7)
    held = run(known(off, Y, MASK)(x, at))
    torch.testing.assert_close(held.x0[:, INSIDE], Y[:, INSIDE], rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(held.eps[:, INSIDE], N[:, INSIDE], rtol=1e-12, atol=1e-12)
    free = run(off(x, at))
    assert torch.equal(held.eps[:, ~INSIDE], free.eps[:, ~INSIDE])


def test_without_noise_the_known_picture_has_the_networks_noise() -> None:
    async def denoise(x: Tensor, at: Level) -> Estimate:
        return Estimate(at, x, N)

    found = run(known(denoise, Y, MASK)(Y, CLEAN))
    assert torch.equal(found.eps, N)
    assert torch.equal(found.x0, Y)


SAID = 3 * draw(5)


async def saying(x: Tensor, at: Level) -> Estimate:
    return Estimate(at, SAID, (x - at.alpha * SAID) / at.sigma)


@given(st.floats(-3, 3), st.floats(0.01, 3), st.booleans())
@settings(max_examples=50, deadline=None)
def test_clip(low: float, width: float, keep: bool) -> None:
    at, x = Flow().level(0.4), draw(6)
    plain, found = run(saying(x, at)), run(clip(saying, low, low + width, keep)(x, at))
    assert float(found.x0.min()) >= low
    assert float(found.x0.max()) <= low + width
    within = (low <= SAID) & (low + width >= SAID)
    assert torch.equal(found.x0[within], SAID[within])
    if keep:
        assert torch.equal(found.eps, plain.eps)
    else:
        torch.testing.assert_close(at.alpha * found.x0 + at.sigma * found.eps, x, rtol=1e-12, atol=1e-12)


@given(st.floats(0.05, 1), st.floats(0.1, 12))
@settings(max_examples=50, deadline=None)
def test_dynamic_threshold(quantile: float, bound: float) -> None:
    """Within the bound; what lies past the quantile is at its edge, what lies within it keeps its ratio."""
    at, x = Flow().level(0.4), draw(6)
    found = run(dynamic_threshold(saying, quantile, bound)(x, at))
    assert float(found.x0.abs().max()) <= bound * (1 + 1e-12)
    torch.testing.assert_close(at.alpha * found.x0 + at.sigma * found.eps, x, rtol=1e-11, atol=1e-11)
    for row, said in zip(found.x0, SAID, strict=True):
        ordered = said.abs().sort().values
        place = quantile * (SIZE - 1)
        below, part = ordered[math.floor(place)], place - math.floor(place)
        s = float(below + part * (ordered[math.ceil(place)] - below))
        inner = said.abs() < max(s, bound)
        torch.testing.assert_close(row[inner], said[inner] * (bound / max(s, bound)), rtol=1e-9, atol=1e-9)
        assert bool((row[~inner].abs() > bound * (1 - 1e-9)).all())


def test_without_noise_x0_is_pressed_and_eps_left() -> None:
    async def denoise(x: Tensor, at: Level) -> Estimate:
        return Estimate(at, SAID, N)

    found = run(clip(denoise, -1, 1)(Y, CLEAN))
    assert torch.equal(found.eps, N)
    assert float(found.x0.abs().max()) == 1


@pytest.mark.parametrize(("low", "high"), [(1, 1), (2, 1), (math.nan, 1), (0, math.nan)])
def test_clips_of_nothing_are_refused(low: float, high: float) -> None:
    with pytest.raises(InvalidRequest, match="below"):
        clip(saying, low, high)


@pytest.mark.parametrize(("quantile", "bound"), [(0, 1), (1.1, 1), (math.nan, 1), (0.9, 0), (0.9, math.nan)])
def test_thresholds_of_nothing_are_refused(quantile: float, bound: float) -> None:
    with pytest.raises(InvalidRequest, match=r"threshold|bound"):
        dynamic_threshold(saying, quantile, bound)
