"""L3 and L4: samplers that are claimed equal are, and what x0 comes out depends on no convention."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sfumato.denoiser import row_levels
from sfumato.engine.run import run
from sfumato.families.gaussian import mixture
from sfumato.process.estimate import Estimate, Walk
from sfumato.process.grid import make_grid
from sfumato.process.level import Level
from sfumato.process.prediction import PREDICTIONS
from sfumato.process.schedule import Cosine, Exploding, Flow, Schedule, scaled_linear
from sfumato.samplers import SAMPLERS
from sfumato.samplers import sampler as find
from sfumato.samplers.er_sde import Scale, extended_by
from sfumato.samplers.multistep import ancestral, walk_by
from sfumato.samplers.rules import ddim, dpmpp_2m
from sfumato.samplers.stochastic import sde_by

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
    "dpm_adaptive": "its steps suit the error in x as it is",
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


def walk(sampler: str | Walk, model, grid, draws: Tensor) -> Tensor:
    """The x0 at which a walk ends, with one fixed draw of unit variance a step."""
    cond = model.conditioner([""] * len(draws[0]))
    steps = iter(draws[1:])

    async def denoise(x: Tensor, at: Level) -> Estimate:
        found = model.denoiser(x, row_levels([at] * len(x)), cond)
        return Estimate(at, found.x0, found.eps)

    chosen = find(sampler).walk if isinstance(sampler, str) else sampler
    end = run(chosen(grid[0].sigma * draws[0], grid, denoise, lambda at, to, visit=0: next(steps)))
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


def er_sde_of(scale: Scale) -> Walk:
    """ER-SDE's first order for a noise scale function."""
    return walk_by(ddim, churn=extended_by(scale))


EQUAL: dict[str, tuple[str | Walk, str | Walk]] = {
    "ddpm is euler_ancestral": ("ddpm", "euler_ancestral"),
    "ddpm is ddim with eta 1": ("ddpm", walk_by(ddim, churn=ancestral)),
    "ddpm is the first order of the dpm++ sde": ("ddpm", walk_by(ddim, churn=sde_by(1.0))),
    "ddpm is the first order of sa_solver": ("ddpm", "sa_solver(predictor=1, corrector=0)"),
    "ddpm is er_sde with v^2": ("ddpm", er_sde_of(lambda log_v: 2 * log_v)),
    "ddim is euler_ancestral without noise": ("ddim", "euler_ancestral(eta=0)"),
    "ddim is euler_ancestral_rf without noise": ("ddim", "euler_ancestral_rf(eta=0)"),
    "ddim is tcd without noise": ("ddim", "tcd(gamma=0)"),
    "ddim is sa_solver's first order, tau 0": ("ddim", "sa_solver(predictor=1, corrector=0, tau=0)"),
    "2m is its sde without noise": ("dpmpp_2m", "dpmpp_2m_sde(eta=0)"),
    "2m_sde in the heun form is sa_solver's predictor": (
        "dpmpp_2m_sde_heun",
        "sa_solver(predictor=2, corrector=0)",
    ),
    "and at any eta": ("dpmpp_2m_sde_heun(eta=0.49)", "sa_solver(predictor=2, corrector=0, tau=0.7)"),
    "res is 2m_sde in the heun form without noise": ("res_multistep", "dpmpp_2m_sde_heun(eta=0)"),
    "3m is its sde without noise": ("dpmpp_3m", "dpmpp_3m_sde(eta=0, curvature=1)"),
    "3m is sa_solver's predictor, tau 0": ("dpmpp_3m", "sa_solver(predictor=3, corrector=0, tau=0)"),
    "3m_sde is sa_solver's predictor": (
        "dpmpp_3m_sde(curvature=1)",
        "sa_solver(predictor=3, corrector=0)",
    ),
    "dpm2 is its ancestral without noise": ("dpm2", "dpm2_ancestral(eta=0)"),
    "2s and sde without noise are one": ("dpmpp_2s_ancestral(eta=0)", "dpmpp_sde(eta=0)"),
    "heun is edm without churn": ("heun", "edm(churn=0)"),
    "heun is edm with churn elsewhere": ("heun", "edm(churn=40, tmin=1000, tmax=2000)"),
    "heun is restart without restarts": ("heun", "restart(times=0)"),
    "heun is restart where there is no level": ("heun", "restart(low=1.0, high=1.0001)"),
    "pc without corrections": ("euler_maruyama", "pc(corrections=0)"),
    "lcm is consistency to no noise": ("lcm", "consistency(epsilon=0)"),
    "lcm is tcd at its limit": ("lcm", "tcd(gamma=1)"),
    "lcm is er_sde at its limit": ("lcm", er_sde_of(lambda log_v: 80 * log_v)),
}


@pytest.mark.parametrize("steps", [1, 2, 9])
@pytest.mark.parametrize("claim", EQUAL)
def test_samplers_that_are_claimed_equal_are(claim: str, steps: int, draws: Tensor) -> None:
    """Draw for draw, on a flow from pure noise to none."""
    model = mixture(MEANS, COVS, WEIGHTS)
    grid = make_grid("linspace", steps=steps, schedule=Flow())
    one, other = (walk(side, model, grid, draws) for side in EQUAL[claim])
    assert (one - other).abs().max() < (1e-4 if "limit" in claim else 1e-11)


def test_er_sde_with_v_is_ddim(draws: Tensor) -> None:
    """The ODE is the extended SDE whose noise scale function is v, from a finite sigma / alpha."""
    process = scaled_linear()
    model, grid = (
        mixture(MEANS, COVS, WEIGHTS, schedule=process),
        make_grid("karras", steps=9, schedule=process),
    )
    assert (
        walk(er_sde_of(lambda log_v: log_v), model, grid, draws) - walk("ddim", model, grid, draws)
    ).abs().max() < 1e-6


def test_ancestral_noise_and_that_of_the_sde_are_equal_at_the_ends_alone(draws: Tensor) -> None:
    """eta 1/2 of the posterior's deviation is not an SDE run with half its noise; nor is the flow's form either."""
    model, grid = mixture(MEANS, COVS, WEIGHTS), make_grid("linspace", steps=9, schedule=Flow())
    first = walk("euler_ancestral(eta=0.5)", model, grid, draws)
    second = walk(walk_by(ddim, churn=sde_by(0.5)), model, grid, draws)
    third = walk("euler_ancestral_rf(eta=0.5)", model, grid, draws)
    assert (
        min(float((a - b).abs().max()) for a, b in ((first, second), (first, third), (second, third))) > 1e-2
    )


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
