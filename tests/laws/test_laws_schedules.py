"""L4 over all schedules and grids: the x0 that comes out depends on the levels' ratios alone, and on no convention."""

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
from sfumato.process.schedules import Flow, Schedule, schedule
from sfumato.samplers import SAMPLERS

MEANS = torch.tensor([[-1.0, 0.5], [1.0, 0.3], [0.2, -0.9]], dtype=torch.float64)
COVS = torch.tensor(
    [[[0.2, 0.05], [0.05, 0.1]], [[0.05, 0.0], [0.0, 0.3]], [[0.1, -0.04], [-0.04, 0.08]]],
    dtype=torch.float64,
)
WEIGHTS = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
SIGMAS = [14.0, 6.0, 2.5, 1.1, 0.6, 0.3, 0.1]
WALKS = {
    "scaled_linear(zero_snr=true)": ("trailing", "kl_optimal", "beta", "sgm_uniform"),
    "squared_cosine": ("leading", "karras(rho=3)", "simple"),
    "sigmoid": ("exponential", "ddim_uniform", "normal"),
    "vp": ("karras", "beta(over=ratio)", "linspace"),
    "laplace": ("linspace", "kl_optimal(data_std=0.5)"),
    "flow(shift=3)": (
        "beta",
        "linear_quadratic",
        "shifted(tokens=1024, terminal=0.1)",
        "exponential(over=sigma)",
    ),
    "exploding": ("polyexponential(rho=1.5)", "sgm_uniform"),
}


def walk(sampler: str, kind: str, process: Schedule, grid, draws: Tensor) -> Tensor:
    """Where a walk from the ``draws`` ends."""
    model = mixture(MEANS, COVS, WEIGHTS, schedule=process, kind=kind)
    cond = model.conditioner([""] * len(draws))

    async def denoise(x: Tensor, at: Level) -> Estimate:
        found = model.denoiser(x, row_levels([at] * len(x)), cond)
        return Estimate(at, found.x0, found.eps)

    def drew(at: Level, to: Level, visit: int = 0) -> Tensor:
        raise AssertionError("a deterministic sampler drew noise")

    return run(SAMPLERS[sampler].walk(grid[0].sigma * draws, grid, denoise, drew))


@pytest.fixture(scope="module")
def draws() -> Tensor:
    return torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("name", WALKS)
@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m"])
def test_what_the_network_predicts_does_not_matter(sampler: str, name: str, draws: Tensor) -> None:
    process = schedule(name)
    for text in WALKS[name]:
        grid = make_grid(text, steps=10, schedule=process)
        kinds = ["v", "flow", "x0", *(["eps"] if grid[0].alpha > 0 else [])]
        ends = [walk(sampler, kind, process, grid, draws) for kind in kinds]
        assert ends[0].std() > 0.1
        for end in ends[1:]:
            assert (end - ends[0]).abs().max() < 1e-9, text


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m"])
def test_the_same_ratios_on_any_schedule_end_on_the_same_x0(sampler: str, draws: Tensor) -> None:
    """A list of sigmas is one walk, seen in the frame of each schedule."""
    ends = {}
    for name in (
        "scaled_linear",
        "scaled_linear(zero_snr=true)",
        "squared_cosine",
        "vp",
        "cosine",
        "exploding",
    ):
        process = schedule(name)
        ends[name] = walk(sampler, "v", process, make_grid(SIGMAS, schedule=process), draws)
    shares = [sigma / (1 + sigma) for sigma in SIGMAS]  # on a flow sigmas are its own
    ends["flow"] = walk(sampler, "v", Flow(), make_grid(shares, schedule=Flow()), draws)
    for name, end in ends.items():
        assert (end - ends["exploding"]).abs().max() < 1e-9, name


@pytest.mark.parametrize("name", WALKS)
def test_more_steps_end_nearer_together_on_every_grid(name: str, draws: Tensor) -> None:
    """All grids of a schedule that begin at its top converge to one picture."""
    process = schedule(name)
    top = process.level(process.t_max)
    truth = walk("heun", "v", process, make_grid("beta", steps=120, schedule=process), draws)
    for text in WALKS[name]:
        if make_grid(text, steps=10, schedule=process)[0] != top:
            continue
        gaps = [
            float(
                (walk("ddim", "v", process, make_grid(text, steps=n, schedule=process), draws) - truth)
                .abs()
                .max()
            )
            for n in (10, 80)
        ]
        assert gaps[1] < gaps[0] / 2, text
