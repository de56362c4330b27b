"""Whole stochastic trajectories against diffusers' schedulers, the same noise in both."""

from __future__ import annotations

import importlib
import math
import sys
import types
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from sfumato.engine.run import run
from sfumato.process.between import Levels
from sfumato.process.estimate import Estimate
from sfumato.process.level import CLEAN, Level
from sfumato.process.prediction import prediction
from sfumato.process.schedule import Table
from sfumato.samplers import sampler
from sfumato.samplers.sde_singlestep import joined
from tests.samplers.peers_sde import agree, network, noise

diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def feed(monkeypatch: pytest.MonkeyPatch, scheduler: Any, draws: Sequence[Tensor]) -> None:
    """Let a scheduler take its noise from ``draws``, in its own dtype."""
    left = iter(draws)
    module = importlib.import_module(type(scheduler).__module__)
    monkeypatch.setattr(
        module, "randn_tensor", lambda shape, dtype=torch.float64, **_: next(left).reshape(shape).to(dtype)
    )


def ours(
    text: str,
    x: Tensor,
    grid: Sequence[Level],
    draws: Sequence[Tensor],
    kind: str = "eps",
    preserving: bool = False,
    learned: bool = False,
) -> Tensor:
    """Our walk; ``preserving`` shows the network x scaled to alpha^2 + sigma^2 = 1, as Karras' frame wants."""
    left, known = iter(draws), prediction(kind)

    async def denoise(x: Tensor, at: Level) -> Estimate:
        scale = 1 / math.hypot(at.alpha, at.sigma) if preserving else 1.0
        shown = scale * x
        output = network(shown, -at.lam if at.alpha else 9.0)
        found = known.estimate(shown, output, Level(at.t, scale * at.alpha, scale * at.sigma))
        return Estimate(at, found.x0, found.eps, between(output) if learned else None)

    return run(sampler(text).walk(x, grid, denoise, lambda at, to, visit=0: next(left)))


def between(output: Tensor) -> Tensor:
    """A network's word on variances, in [0, 1]."""
    return 0.5 + 0.5 * torch.sin(3 * output)


def theirs(
    scheduler: Any, x: Tensor, log_sigmas: Sequence[float], learned: bool = False, **options: Any
) -> Tensor:
    for t, log_sigma in zip(scheduler.timesteps, log_sigmas, strict=False):
        shown = scheduler.scale_model_input(x, t)
        output = network(shown.double(), log_sigma)
        told = torch.cat((output, 2 * between(output) - 1), dim=1) if learned else output
        x = scheduler.step(told, t, x.double(), **options).prev_sample
    return x


def in_float64(scheduler: Any) -> Table:
    """Let a scheduler compute from a table in float64, and return that table."""
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    scheduler.alphas, scheduler.betas = scheduler.alphas.double(), scheduler.betas.double()
    scheduler.one = torch.tensor(1.0, dtype=torch.float64)
    return Table(tuple(scheduler.alphas_cumprod.tolist()))


def exploding(scheduler: Any, every: int = 1) -> tuple[Level, ...]:
    return tuple(Level(float(s), 1.0, float(s)) for s in scheduler.sigmas[::every])


def logs(grid: Sequence[Level]) -> list[float]:
    return [-at.lam if at.alpha else 9.0 for at in grid[:-1]]


@pytest.mark.parametrize(("spacing", "steps"), [("leading", 50), ("trailing", 10), ("trailing", 1)])
@pytest.mark.parametrize(
    ("variance", "known"), [("small", "fixed_small"), ("large", "fixed_large"), ("learned", "learned_range")]
)
def test_ddpm(variance: str, known: str, spacing: str, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Theirs draws noise in the last step too, where that is not from index 0; Ho et al. (algorithm 2) do not.

    It gets zeros there. With the small variance that makes no difference.
    """
    scheduler = diffusers.DDPMScheduler(
        timestep_spacing=spacing, steps_offset=0, clip_sample=False, variance_type=known
    )
    table = in_float64(scheduler)
    scheduler.set_timesteps(steps)
    grid = (*(table.level(int(t)) for t in scheduler.timesteps), CLEAN)
    start, *draws = noise(steps + 1)
    feed(monkeypatch, scheduler, [*draws[: steps - 1], 0 * start, 0 * start])
    learned = variance == "learned"
    found = ours(f"ddpm(variance={variance})", start, grid, draws, learned=learned)
    agree("ddpm", f"diffusers DDPMScheduler {known}", found, theirs(scheduler, start, logs(grid), learned))


@pytest.mark.parametrize("steps", [1, 7, 20])
def test_euler_ancestral(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = diffusers.EulerAncestralDiscreteScheduler(**SD, timestep_spacing="trailing")
    scheduler.set_timesteps(steps)
    grid = exploding(scheduler)
    start, *draws = noise(steps + 1)
    feed(monkeypatch, scheduler, draws)
    x = grid[0].sigma * start
    found = ours("euler_ancestral", x, grid, draws, preserving=True)
    agree(
        "euler_ancestral",
        "diffusers EulerAncestralDiscreteScheduler",
        found,
        theirs(scheduler, x, logs(grid)),
    )


@pytest.mark.parametrize("steps", [2, 7, 20])
def test_dpm2_ancestral(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = diffusers.KDPM2AncestralDiscreteScheduler(**SD, timestep_spacing="trailing")
    scheduler.set_timesteps(steps)
    grid = exploding(scheduler, 2)
    if len(grid) == steps:
        grid = (*grid, CLEAN)
    start, *draws = noise(steps + 1)
    feed(monkeypatch, scheduler, draws)
    x = grid[0].sigma * start
    inner = [float(s) for s in scheduler.sigmas_interpol]
    asked = [
        math.log(float(scheduler.sigmas[i]) if i % 2 == 0 else inner[i - 1])
        for i in range(len(scheduler.timesteps))
    ]
    found = ours("dpm2_ancestral", x, grid, draws, preserving=True)
    agree("dpm2_ancestral", "diffusers KDPM2AncestralDiscreteScheduler", found, theirs(scheduler, x, asked))


@pytest.mark.parametrize("steps", [1, 2, 6, 20])
@pytest.mark.parametrize(
    ("name", "order", "form"),
    [("dpmpp_2m_sde", 2, "midpoint"), ("dpmpp_2m_sde_heun", 2, "heun"), ("dpmpp_3m_sde", 3, "heun")],
)
def test_dpmpp_sde(name: str, order: int, form: str, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for a sign in theirs at order 3: the last term's 1/2 is subtracted where it is to be added.

    Their own ODE form and k-diffusion have it right: the coefficient of a second difference must vanish with the step,
    and theirs goes to -1. The test adds what is missing, alpha_t D2.
    """
    scheduler = diffusers.DPMSolverMultistepScheduler(
        **SD,
        algorithm_type="sde-dpmsolver++",
        solver_order=order,
        solver_type=form,
        timestep_spacing="trailing",
        final_sigmas_type="zero",
        lower_order_final=False,
        euler_at_final=False,
    )
    scheduler.set_timesteps(steps)
    monkeypatch.setattr(scheduler, "multistep_dpm_solver_third_order_update", with_the_right_sign(scheduler))
    ratios = [float(s) for s in scheduler.sigmas]
    grid = [Level(s, 1 / math.hypot(1, s), s / math.hypot(1, s)) for s in ratios]
    start, *draws = noise(steps + 1)
    feed(monkeypatch, scheduler, draws)
    found = ours(name, start, grid, draws)
    agree(
        name,
        "diffusers DPMSolverMultistepScheduler sde-dpmsolver++",
        found,
        theirs(scheduler, start, logs(grid)),
    )


def with_the_right_sign(scheduler: Any) -> Any:
    plain = scheduler.multistep_dpm_solver_third_order_update

    def update(outputs: list[Tensor], sample: Tensor, noise: Tensor) -> Tensor:
        i = scheduler.step_index
        lam = [-math.log(float(s)) for s in scheduler.sigmas[i - 2 : i + 2]]
        h = lam[3] - lam[2]
        slopes = [h * (outputs[-k] - outputs[-k - 1]) / (lam[3 - k] - lam[2 - k]) for k in (1, 2)]
        bend = h * (slopes[0] - slopes[1]) / (lam[2] - lam[0])
        alpha = 1 / math.hypot(1, float(scheduler.sigmas[i + 1]))
        return plain(outputs, sample=sample, noise=noise) + alpha * bend

    return update


@pytest.mark.parametrize("steps", [1, 2, 9])
def test_dpmpp_sde_of_one_step(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without torchsde, which only makes their noise: it is ours, of the first half and then of the whole step."""
    monkeypatch.setitem(sys.modules, "torchsde", types.ModuleType("torchsde"))
    module = importlib.import_module("diffusers.schedulers.scheduling_dpmsolver_sde")
    scheduler = module.DPMSolverSDEScheduler(**SD, timestep_spacing="trailing")
    scheduler.set_timesteps(steps)
    scheduler.sigmas = scheduler.sigmas.double()
    ratios = [*scheduler.sigmas[:-1:2].tolist(), 0.0] if steps > 1 else scheduler.sigmas.tolist()
    grid = [Level(v, 1.0, v) for v in ratios]
    start, *draws = noise(2 * steps + 1)
    left, first = iter(draws), []

    def sampled(here: Tensor, there: Tensor) -> Tensor:
        if not first:
            first.append(next(left))
            return first[0]
        at, to = (Level(float(v), 1.0, float(v)) for v in (here, there))
        middle = Level(0.0, 1.0, math.sqrt(at.sigma * to.sigma))
        return joined(at, middle, to, first.pop(), next(left))

    scheduler.noise_sampler = sampled
    x = grid[0].sigma * start
    asked = [v for at, to in pairwise(grid) for v in (-at.lam, -(at.lam + to.lam) / 2)][:-1]
    found = ours("dpmpp_sde", x, grid, draws, preserving=True)
    agree("dpmpp_sde", "diffusers DPMSolverSDEScheduler", found, theirs(scheduler, x, asked))


@pytest.mark.parametrize("steps", [1, 4, 12])
@pytest.mark.parametrize("eta", [1.0, 0.5])
def test_euler_ancestral_rf(eta: float, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = diffusers.LTXEulerAncestralRFScheduler(eta=eta, s_noise=1.0)
    sigmas = [1 - i / steps for i in range(steps + 1)]
    scheduler.set_timesteps(sigmas=sigmas)
    scheduler.scale_model_input = lambda x, t: x
    grid = [Level(1000 * s, 1 - s, s) for s in sigmas]
    start, *draws = noise(steps + 1)
    feed(monkeypatch, scheduler, draws)
    asked = logs(grid)
    scheduler.timesteps = scheduler.timesteps[:-1]
    found = ours(f"euler_ancestral_rf(eta={eta})", start, grid, draws, kind="flow")
    known = theirs(scheduler, start, asked)
    agree("euler_ancestral_rf", "diffusers LTXEulerAncestralRFScheduler", found, known)


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_lcm(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With their boundary condition off, which is the network's parametrisation and not the sampler's."""
    scheduler = diffusers.LCMScheduler(**SD, clip_sample=False)
    table = in_float64(scheduler)
    monkeypatch.setattr(scheduler, "get_scalings_for_boundary_condition_discrete", lambda t: (0.0, 1.0))
    scheduler.set_timesteps(steps)
    grid = (*(table.level(int(t)) for t in scheduler.timesteps), CLEAN)
    start, *draws = noise(steps + 1)
    feed(monkeypatch, scheduler, draws)
    found = ours("lcm", start, grid, draws)
    agree("lcm", "diffusers LCMScheduler", found, theirs(scheduler, start, logs(grid)))


@pytest.mark.parametrize("steps", [1, 4])
def test_lcm_on_a_flow(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = diffusers.FlowMatchLCMScheduler()
    scheduler.set_timesteps(steps)
    scheduler.scale_model_input = lambda x, t: x
    grid = [Level(1000 * s, 1 - s, s) for s in map(float, scheduler.sigmas)]
    start, *draws = noise(steps + 1)
    feed(monkeypatch, scheduler, draws)
    found = ours("lcm", start, grid, draws, kind="flow")
    agree("lcm", "diffusers FlowMatchLCMScheduler", found, theirs(scheduler, start, logs(grid)))


@pytest.mark.parametrize("churn", [0.0, 3.0, 80.0])
def test_edm(churn: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their step is given the sigmas; it draws for every step, ours where there is churn."""
    sigmas = [50.0, 20.0, 9.0, 4.0, 1.5, 0.5, 0.2, 0.05, 0.0]
    steps = len(sigmas) - 1
    module = importlib.import_module("diffusers.schedulers.deprecated.scheduling_karras_ve")
    scheduler = module.KarrasVeScheduler(s_churn=churn, s_min=0.1, s_max=10.0, s_noise=1.007)
    scheduler.num_inference_steps = steps
    start, *draws = noise(steps + 1)
    feed(monkeypatch, scheduler, draws)
    x = known = sigmas[0] * start
    for at, to in pairwise(sigmas):
        hat, up = scheduler.add_noise_to_input(known, at)
        output = -network(hat / math.hypot(1, up), math.log(up))
        moved = scheduler.step(output, up, to, hat)
        known = moved.prev_sample
        if to:
            output = -network(known / math.hypot(1, to), math.log(to))
            known = scheduler.step_correct(output, up, to, hat, known, moved.derivative).prev_sample
    churned = [d for d, sigma in zip(draws, sigmas, strict=False) if churn and 0.1 <= sigma <= 10]
    grid = [Level(s, 1.0, s) for s in sigmas]
    found = ours(f"edm(churn={churn}, tmin=0.1, tmax=10, s_noise=1.007)", x, grid, churned, preserving=True)
    agree("edm", "diffusers KarrasVeScheduler", found, known)


@pytest.mark.parametrize("gamma", [0.0, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_tcd(steps: int, gamma: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """At times that (1 - gamma) leaves whole, for theirs rounds them down, and to their least level, index 0."""
    scheduler = diffusers.TCDScheduler(**SD)
    table = in_float64(scheduler)
    times = [900, 700, 480, 240][:steps]
    scheduler.set_timesteps(timesteps=times)
    grid = Levels((*(table.level(t) for t in times), table.level(0)), table)
    start, *draws = noise(steps + 1)
    feed(monkeypatch, scheduler, draws)
    # Theirs leaves out the last noise, from index 0 to 0; ours has none to add there.
    found = ours(f"tcd(gamma={gamma})", start, grid, draws)
    known = theirs(scheduler, start, logs(grid), eta=gamma)
    agree("tcd", "diffusers TCDScheduler", found, known)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_consistency(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Theirs ends at its least sigma, where the noise is none; the network's skip is left out as for lcm."""
    scheduler = diffusers.CMStochasticIterativeScheduler(clip_denoised=False)
    scheduler.set_timesteps(steps)
    grid = exploding(scheduler)
    monkeypatch.setattr(scheduler, "get_scalings_for_boundary_condition", lambda sigma: (1.0, -sigma))
    monkeypatch.setattr(
        type(scheduler), "scale_model_input", lambda self, x, t: x / math.hypot(1, sigma_of(self, t))
    )
    start, *draws = noise(steps + 1)
    feed(monkeypatch, scheduler, draws)
    x = grid[0].sigma * start
    found = ours("consistency", x, grid, draws, preserving=True)
    agree("consistency", "diffusers CMStochasticIterativeScheduler", found, theirs(scheduler, x, logs(grid)))


def sigma_of(scheduler: Any, t: Tensor) -> float:
    if scheduler.step_index is None:
        scheduler._init_step_index(t)
    scheduler.is_scale_input_called = True
    return float(scheduler.sigmas[scheduler.step_index])


@pytest.mark.parametrize("steps", [3, 10])
def test_euler_maruyama_is_their_predictor(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler, sigmas = score_ve(steps)
    grid = [Level(s, 1.0, s) for s in [*reversed(sigmas), 0.0]]
    start, *draws = noise(steps + 1)
    feed(monkeypatch, scheduler, draws)
    x = known = sigmas[-1] * start
    for t, at in zip(scheduler.timesteps, grid, strict=False):
        score = -network(known / math.hypot(1, at.sigma), math.log(at.sigma)) / at.sigma
        answer = scheduler.step_pred(score, t, known)
        known = answer.prev_sample_mean if at is grid[-2] else answer.prev_sample
    found = ours("euler_maruyama", x, grid, draws, preserving=True)
    agree("euler_maruyama", "diffusers ScoreSdeVeScheduler step_pred", found, known)


def score_ve(steps: int) -> tuple[Any, list[float]]:
    """Their scheduler with its sigmas in float64, least first."""
    scheduler = diffusers.ScoreSdeVeScheduler(num_train_timesteps=steps, sigma_min=0.02, sigma_max=50.0)
    scheduler.set_timesteps(steps)
    scheduler.set_sigmas(steps)
    scheduler.discrete_sigmas = scheduler.discrete_sigmas.double()
    return scheduler, scheduler.discrete_sigmas.tolist()


@pytest.mark.parametrize("snr", [0.05, 0.16])
def test_pc(snr: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each corrector with the snr that makes their step ours: theirs has the ratio of norms that happen to be drawn."""
    steps = 6
    scheduler, sigmas = score_ve(steps)
    grid = [Level(s, 1.0, s) for s in [*reversed(sigmas), 0.0]]
    start, *draws = noise(2 * steps + 1)
    feed(monkeypatch, scheduler, draws)
    x = known = sigmas[-1] * start
    left = iter(draws[1::2])
    for step, (t, at) in enumerate(zip(scheduler.timesteps, grid, strict=False)):
        score = -network(known / math.hypot(1, at.sigma), math.log(at.sigma)) / at.sigma
        answer = scheduler.step_pred(score, t, known)
        if step == steps - 1:
            known = answer.prev_sample_mean
            break
        known, to = answer.prev_sample, grid[step + 1].sigma
        score = -network(known / math.hypot(1, to), math.log(to)) / to
        norms = [float(v.flatten(1).norm(dim=-1).mean()) for v in (score, next(left))]
        scheduler.register_to_config(snr=snr * to * norms[0] / norms[1])
        known = scheduler.step_correct(score, known).prev_sample
    found = ours(f"pc(snr={snr})", x, grid, draws, preserving=True)
    agree("pc", "diffusers ScoreSdeVeScheduler", found, known)
