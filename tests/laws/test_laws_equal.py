"""L3 and L4: samplers that are claimed equal are, and what x0 comes out depends on no convention."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sfumato.denoiser import row_levels
from sfumato.engine.run import run
from sfumato.families.gaussian import mixture
from sfumato.process.estimate import Estimate
from sfumato.process.grid import make_grid
from sfumato.process.level import Level
from sfumato.process.prediction import PREDICTIONS
from sfumato.process.schedule import Cosine, Exploding, Flow, Schedule, scaled_linear
from sfumato.samplers import SAMPLERS
from sfumato.samplers import sampler as find
from sfumato.samplers.rules import dpmpp_2m

MEANS = torch.tensor([[-1.0, 0.5], [1.0, 0.3], [0.2, -0.9]], dtype=torch.float64)
COVS = torch.tensor(
    [[[0.2, 0.05], [0.05, 0.1]], [[0.05, 0.0], [0.0, 0.3]], [[0.1, -0.04], [-0.04, 0.08]]],
    dtype=torch.float64,
)
WEIGHTS = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)

RESCALED: dict[str, tuple[Schedule, str, int]] = {
    "table": (scaled_linear(), "karras", 14),
    "cosine": (Cosine(t_max=0.98), "karras", 14),
    "flow": (Flow(t_max=0.98), "karras", 14),
}


SEEN = {
    "heun": "a trapezoid over alpha and sigma as the levels have them",
    "edm": "heun's steps",
    "restart": "heun's steps",
    "tcd": "a part of the schedule's time, which is another level on another process",
    "euler_ancestral_rf": "made for alpha + sigma = 1",
}
"""Samplers whose result depends on the frame of the levels, and by what."""


def frames(grid: tuple[Level, ...]) -> dict[str, tuple[Level, ...]]:
    """The same levels in other frames: each scaled so that alpha, or alpha + sigma, or alpha^2 + sigma^2 is 1."""

    def scaled(by) -> tuple[Level, ...]:
        return tuple(Level(at.t, at.alpha / by(at), at.sigma / by(at)) for at in grid)

    return {
        "exploding": scaled(lambda at: at.alpha),
        "flow": scaled(lambda at: at.alpha + at.sigma),
        "preserving": scaled(lambda at: (at.alpha**2 + at.sigma**2) ** 0.5),
        "any": scaled(lambda at: 0.3 + at.alpha**2),
    }


def walk(sampler: str, model, grid, draws: Tensor) -> Tensor:
    """The x0 at which a walk ends, with one fixed draw of unit variance a step."""
    cond = model.conditioner([""] * len(draws[0]))
    steps = iter(draws[1:])

    async def denoise(x: Tensor, at: Level) -> Estimate:
        found = model.denoiser(x, row_levels([at] * len(x)), cond)
        return Estimate(at, found.x0, found.eps)

    entry = SAMPLERS[sampler] if sampler in SAMPLERS else find(sampler)
    end = run(entry.walk(grid[0].sigma * draws[0], grid, denoise, lambda at, to, visit=0: next(steps)))
    return end / grid[-1].alpha


@pytest.fixture(scope="module")
def draws() -> Tensor:
    return torch.randn(40, 6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("schedule", RESCALED)
@pytest.mark.parametrize("sampler", [s for s in SAMPLERS if s not in SEEN])
def test_no_sampler_of_one_evaluation_sees_the_scale_of_x(sampler: str, schedule: str, draws: Tensor) -> None:
    """ddim on a variance-preserving process is euler on the exploding one, and so for every frame and sampler."""
    process, spacing, steps = RESCALED[schedule]
    model = mixture(MEANS, COVS, WEIGHTS, schedule=process)
    grid = make_grid(spacing, steps=steps, schedule=process)
    ends = {name: walk(sampler, model, frame, draws) for name, frame in frames(grid).items()}
    own = walk(sampler, model, grid, draws)
    assert own.std() > 0.1
    for name, end in ends.items():
        assert (end - own).abs().max() < 1e-10, name


def test_ddim_preserving_is_euler_exploding(draws: Tensor) -> None:
    process = scaled_linear()
    grid = make_grid("trailing", steps=20, schedule=process)
    model = mixture(MEANS, COVS, WEIGHTS, schedule=process)
    exploding = frames(grid)["exploding"]
    assert (walk("ddim", model, grid, draws) - walk("euler", model, exploding, draws)).abs().max() < 1e-10


@pytest.mark.parametrize("sampler", [s for s in SAMPLERS if s != "euler_ancestral_rf"])
def test_the_kind_of_prediction_does_not_matter(sampler: str, draws: Tensor) -> None:
    for process, kinds in ((scaled_linear(), ("eps", "x0", "v", "flow")), (Exploding(), sorted(PREDICTIONS))):
        grid = make_grid("karras", steps=12, schedule=process)
        ends = [
            walk(sampler, mixture(MEANS, COVS, WEIGHTS, schedule=process, kind=k), grid, draws) for k in kinds
        ]
        for end in ends[1:]:
            assert (end - ends[0]).abs().max() < 1e-10


def test_2m_needs_no_history_it_does_not_have(draws: Tensor) -> None:
    """On a grid of two steps from pure noise 2M has no finite step in lambda behind it: it is ddim."""
    model = mixture(MEANS, COVS, WEIGHTS)
    for steps in (1, 2):
        grid = make_grid("linspace", steps=steps, schedule=Flow())
        assert torch.equal(walk("dpmpp_2m", model, grid, draws), walk("ddim", model, grid, draws))
    grid = make_grid("linspace", steps=5, schedule=Flow())
    assert not torch.equal(walk("dpmpp_2m", model, grid, draws), walk("ddim", model, grid, draws))


def test_2m_steps_over_a_repeated_level() -> None:
    level = Flow().level
    past = [Estimate(level(0.5), 1.0, 2.0), Estimate(level(0.5), 1.5, 2.5)]
    assert dpmpp_2m(past, level(0.4)) == past[1]


def test_2m_is_exact_where_x0_is_a_line_in_lambda() -> None:
    """Where the denoiser's x0 runs on a line in lambda, the rule's x0 is that line in the middle of the step."""
    schedule = Cosine()
    at = [schedule.at(lam) for lam in (-1.0, -0.7, 0.4)]
    past = [Estimate(level, 2.0 + 3.0 * level.lam, 0.1) for level in at[:2]]
    assert dpmpp_2m(past, at[2]).x0 == pytest.approx(2.0 + 3.0 * (-0.7 + 0.4) / 2)


@pytest.fixture(scope="module")
def truth(draws: Tensor) -> Tensor:
    return walk(
        "heun", mixture(MEANS, COVS, WEIGHTS), make_grid("linspace", steps=300, schedule=Flow()), draws
    )


@pytest.mark.parametrize("sampler", [n for n, s in SAMPLERS.items() if not s.stochastic and not s.by_row])
def test_all_samplers_agree_in_the_limit(sampler: str, truth: Tensor, draws: Tensor) -> None:
    """On the mixture, from pure noise to none."""
    gaps = []
    for steps in (20, 80):
        grid = make_grid("linspace", steps=steps, schedule=Flow())
        gaps.append(float((walk(sampler, mixture(MEANS, COVS, WEIGHTS), grid, draws) - truth).abs().max()))
    assert gaps[1] < gaps[0] / (2 if sampler == "gradient_estimation" else 3)  # it errs to the other side
    assert gaps[1] < 0.05
