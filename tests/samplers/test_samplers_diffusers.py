"""Whole trajectories against diffusers' schedulers, with one made-up network in all of them."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from sfumato.engine.run import run
from sfumato.process.estimate import Estimate
from sfumato.process.grid import SPACINGS, make_grid
from sfumato.process.level import CLEAN, Level, posterior_std
from sfumato.process.prediction import prediction
from sfumato.process.schedule import Flow, Table, linear, scaled_linear
from sfumato.samplers import SAMPLERS

diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

DDIMScheduler = diffusers.DDIMScheduler
DDPMScheduler = diffusers.DDPMScheduler
SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
COUNTS = [*range(1, 61), 100, 122, 128, 201, 250, 333, 499, 500, 501, 667, 750, 999, 1000]
Network = Callable[[Tensor, float], Tensor]


def network(x: Tensor, t: float) -> Tensor:
    """Not linear in x, mixes its values, and changes with t; about as large as noise."""
    return torch.tanh(0.8 * x + 0.3 * x.roll(1, -1)) + 0.2 * math.sin(3 * t / 1000)


def start(scale: float = 1.0) -> Tensor:
    return scale * torch.randn(2, 3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def in_float64(scheduler) -> Table:
    """Let a scheduler compute from a table in float64, and return that table."""
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    scheduler.alphas, scheduler.betas = scheduler.alphas.double(), scheduler.betas.double()
    return Table(tuple(scheduler.alphas_cumprod.tolist()))


def ours(
    sampler: str, x: Tensor, grid, kind: str, fresh=None, frame: Callable[[Level], float] = lambda at: 1.0
) -> Tensor:
    """Our walk with the network; ``frame(at)`` is what x is to be multiplied by before it is asked."""
    known = prediction(kind)

    async def denoise(x: Tensor, at: Level) -> Estimate:
        scale = frame(at)
        found = known.estimate(
            scale * x, network(scale * x, at.t), Level(at.t, scale * at.alpha, scale * at.sigma)
        )
        return Estimate(at, found.x0, found.eps)

    return run(SAMPLERS[sampler].walk(x, grid, denoise, fresh))


def theirs(scheduler, x: Tensor, **kwargs) -> Tensor:
    for t in scheduler.timesteps:
        shown = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        x = scheduler.step(network(shown.double(), float(t)), t, x.double(), **kwargs).prev_sample
    return x


def close(a: Tensor, b: Tensor, worst: float, peer: str = "") -> None:
    assert a.isfinite().all()
    found = float((a - b).abs().max() / b.abs().max())
    if peer:
        print(f"PEER {peer} | {found:.1e}")
    assert found < worst


@pytest.mark.parametrize(("table", "config"), [(linear(), {}), (scaled_linear(), SD)], ids=["ddpm", "sd"])
def test_tables_are_theirs_to_their_float32(table: Table, config: dict) -> None:
    np.testing.assert_allclose(table.signal, DDIMScheduler(**config).alphas_cumprod.numpy(), rtol=3e-5)


@pytest.mark.parametrize("name", ["linspace", "leading", "trailing"])
def test_spacings_are_theirs(name: str) -> None:
    scheduler, table = DDIMScheduler(timestep_spacing=name, steps_offset=1), linear()
    for steps in COUNTS:
        scheduler.set_timesteps(steps)
        published, found = scheduler.timesteps.tolist(), [level.t for level in SPACINGS[name](table, steps)]
        if (name, steps) == ("linspace", 1):
            assert (published, found) == ([0], [999])  # theirs would begin at no noise
        elif (name, steps) == ("leading", 1000):
            assert published == [t + 1 for t in found]  # theirs leaves the table
        else:
            assert found == published[:steps]  # theirs has one too many where T / steps is rounded down
            assert len(published) - steps in ((0, 1) if name == "trailing" else (0,))


@pytest.mark.parametrize("kind", ["eps", "v", "x0"])
@pytest.mark.parametrize("final", ["zero", "first"])
@pytest.mark.parametrize(
    ("spacing", "steps"), [("leading", 20), ("leading", 7), ("trailing", 25), ("trailing", 8)]
)
def test_ddim(spacing: str, steps: int, final, kind: str) -> None:
    names = {"eps": "epsilon", "v": "v_prediction", "x0": "sample"}
    scheduler = DDIMScheduler(
        **SD,
        timestep_spacing=spacing,
        steps_offset=1,
        set_alpha_to_one=final == "zero",
        clip_sample=False,
        prediction_type=names[kind],
    )
    table = in_float64(scheduler)
    if final == "first":
        scheduler.final_alpha_cumprod = scheduler.alphas_cumprod[0]
    scheduler.set_timesteps(steps)
    grid = make_grid(spacing, steps=steps, schedule=table, final=final)
    peer = "ddim | diffusers DDIMScheduler"
    close(ours("ddim", start(), grid, kind), theirs(scheduler, start()), 1e-10, peer)


@pytest.mark.parametrize(("spacing", "steps"), [("leading", 50), ("trailing", 10)])
@pytest.mark.parametrize("ddim", [False, True], ids=["ddpm", "ddim with eta 1"])
def test_ddpm(ddim: bool, spacing: str, steps: int) -> None:
    """Draw for draw: the same generator feeds both. DDIM at eta 1 is the same sampler."""
    config = {"timestep_spacing": spacing, "steps_offset": 0, "clip_sample": False}
    scheduler = DDIMScheduler(**config) if ddim else DDPMScheduler(**config)
    table = in_float64(scheduler)
    scheduler.one = torch.tensor(1.0, dtype=torch.float64)
    scheduler.set_timesteps(steps)
    grid = (*(table.level(int(t)) for t in scheduler.timesteps), CLEAN)
    draws = torch.Generator().manual_seed(9)
    found = ours(
        "ddpm",
        start(),
        grid,
        "eps",
        lambda at, to: torch.randn(2, 3, 4, 5, dtype=torch.float64, generator=draws),
    )
    options = {"eta": 1.0} if ddim else {}
    close(found, theirs(scheduler, start(), generator=torch.Generator().manual_seed(9), **options), 1e-8)


def test_the_posterior_deviation_is_ddpms_beta_tilde() -> None:
    scheduler = DDPMScheduler()
    table = in_float64(scheduler)
    scheduler.one = torch.tensor(1.0, dtype=torch.float64)
    for t in (1, 2, 10, 500, 998, 999):
        found = posterior_std(table.level(t), table.level(t - 1))
        assert found**2 == pytest.approx(float(scheduler._get_variance(t)), rel=1e-9)


@pytest.mark.parametrize(
    ("steps", "karras"), [(2, False), (6, False), (30, False), (1, True), (2, True), (6, True), (30, True)]
)
def test_euler(steps: int, karras: bool) -> None:
    """Theirs walks x / alpha and shows the network x / sqrt(1 + sigma^2)."""
    scheduler = diffusers.EulerDiscreteScheduler(**SD, use_karras_sigmas=karras, timestep_spacing="linspace")
    table = Table(tuple(scheduler.alphas_cumprod.double().tolist()))
    scheduler.set_timesteps(steps)
    if karras and steps > 1:
        grid = make_grid("karras", steps=steps, schedule=table)
        np.testing.assert_allclose([at.ratio for at in grid], scheduler.sigmas, rtol=1e-5)
        np.testing.assert_allclose([at.t for at in grid[:-1]], scheduler.timesteps, rtol=1e-5, atol=1e-3)
    grid = tuple(
        Level(float(t), 1.0, float(s))
        for t, s in zip([*scheduler.timesteps, 0], scheduler.sigmas, strict=True)
    )
    x = start(float(scheduler.sigmas[0]))
    found = ours("euler", x, grid, "eps", frame=lambda at: 1 / math.hypot(1, at.sigma))
    close(found, theirs(scheduler, x), 1e-5)


@pytest.mark.parametrize("steps", [1, 2, 5, 20])
def test_heun(steps: int) -> None:
    """Karras' own frame: levels divided by alpha."""
    scheduler = diffusers.HeunDiscreteScheduler(**SD, use_karras_sigmas=True, timestep_spacing="trailing")
    scheduler.set_timesteps(steps)
    every = [0, *range(1, len(scheduler.sigmas) - 1, 2), len(scheduler.sigmas) - 1]
    times = [*scheduler.timesteps, 0]
    grid = tuple(Level(float(times[i]), 1.0, float(scheduler.sigmas[i])) for i in every)
    assert len(grid) == steps + 1
    x = start(float(scheduler.sigmas[0]))
    found = ours("heun", x, grid, "eps", frame=lambda at: 1 / math.hypot(1, at.sigma))
    close(found, theirs(scheduler, x), 1e-5, "heun | diffusers HeunDiscreteScheduler")


@pytest.mark.parametrize("kind", ["eps", "v"])
@pytest.mark.parametrize(
    ("spacing", "steps"), [("trailing", 1), ("trailing", 2), ("trailing", 20), ("leading", 10)]
)
def test_dpmpp_2m(spacing: str, steps: int, kind: str) -> None:
    scheduler = diffusers.DPMSolverMultistepScheduler(
        **SD,
        timestep_spacing=spacing,
        steps_offset=1,
        final_sigmas_type="zero",
        lower_order_final=False,
        euler_at_final=False,
        prediction_type={"eps": "epsilon", "v": "v_prediction"}[kind],
    )
    table = Table(tuple(scheduler.alphas_cumprod.double().tolist()))
    scheduler.set_timesteps(steps)
    grid = (*(table.level(int(t)) for t in scheduler.timesteps), CLEAN)
    if spacing == "trailing":
        assert grid == make_grid("trailing", steps=steps, schedule=table)
    close(ours("dpmpp_2m", start(), grid, kind), theirs(scheduler, start()), 1e-5)


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("steps", [1, 4, 28])
def test_flow(shift: float, steps: int) -> None:
    """With the times that Flux and its kin hand over, 1 to 1 / steps."""
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / steps, steps).tolist())
    grid = make_grid("linspace", steps=steps, schedule=Flow(shift))
    assert grid == make_grid("linspace" if shift == 1 else "shifted", steps=steps, schedule=Flow())
    np.testing.assert_allclose([at.sigma for at in grid], scheduler.sigmas, rtol=1e-6)
    told = tuple(at._replace(t=1000 * at.t) for at in grid)
    close(ours("euler", start(), told, "flow"), theirs(scheduler, start()), 1e-5)


@pytest.mark.parametrize("steps", [2, 9])
def test_flow_heun(steps: int) -> None:
    scheduler = diffusers.FlowMatchHeunDiscreteScheduler()
    scheduler.set_timesteps(steps)
    sigmas = [float(s) for s in scheduler.sigmas]
    grid = tuple(Level(1000 * s, 1 - s, s) for s in [*sigmas[:-1:2], sigmas[-1]])
    assert len(grid) == steps + 1
    close(ours("heun", start(), grid, "flow"), theirs(scheduler, start()), 1e-5)
