"""Whole stochastic trajectories against k-diffusion's, the same noise in both."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from sfumato.engine.run import run
from sfumato.process.estimate import Estimate
from sfumato.process.level import Level
from sfumato.samplers import sampler
from sfumato.samplers.sde_singlestep import joined
from tests.peers.kdiffusion import sampling
from tests.samplers.peers_sde import agree, network, noise

SIGMAS = [14.6, 9.1, 5.5, 3.2, 1.8, 0.9, 0.45, 0.2, 0.08, 0.03, 0.0]


def x0_of(x: Tensor, sigma: float) -> Tensor:
    """The denoised picture that both sides are told."""
    return x - sigma * network(x / math.hypot(1, sigma), math.log(sigma))


def ours(text: str, x: Tensor, sigmas: list[float], fresh: Any) -> Tensor:
    grid = [Level(s, 1.0, s) for s in sigmas]

    async def denoise(x: Tensor, at: Level) -> Estimate:
        x0 = x0_of(x, at.sigma)
        return Estimate(at, x0, (x - x0) / at.sigma)

    return run(sampler(text).walk(x, grid, denoise, fresh))


def theirs(function: Any, x: Tensor, sigmas: list[float], **options: Any) -> Tensor:
    return function(
        lambda x, sigma: x0_of(x, float(sigma[0])),
        x,
        torch.tensor(sigmas, dtype=torch.float64),
        disable=True,
        **options,
    )


@pytest.mark.parametrize(
    "sigmas", [SIGMAS, SIGMAS[:-1], SIGMAS[3:7], [5.0, 0.0]], ids=["whole", "least", "part", "1"]
)
@pytest.mark.parametrize(
    ("name", "peer", "options"),
    [
        ("euler_ancestral", "sample_euler_ancestral", {"eta": 1.0, "s_noise": 1.0}),
        ("euler_ancestral", "sample_euler_ancestral", {"eta": 0.6, "s_noise": 1.05}),
        ("dpm2_ancestral", "sample_dpm_2_ancestral", {"eta": 1.0, "s_noise": 1.0}),
        ("dpm2_ancestral", "sample_dpm_2_ancestral", {"eta": 0.5, "s_noise": 0.9}),
        ("dpmpp_2s_ancestral", "sample_dpmpp_2s_ancestral", {"eta": 1.0, "s_noise": 1.0}),
        ("dpmpp_2s_ancestral", "sample_dpmpp_2s_ancestral", {"eta": 0.5, "s_noise": 1.1}),
        ("dpmpp_2m_sde", "sample_dpmpp_2m_sde", {"eta": 1.0, "s_noise": 1.0}),
        ("dpmpp_2m_sde", "sample_dpmpp_2m_sde", {"eta": 0.4, "s_noise": 1.1}),
        ("dpmpp_2m_sde", "sample_dpmpp_2m_sde", {"eta": 2.0, "s_noise": 1.0}),
        ("dpmpp_3m_sde", "sample_dpmpp_3m_sde", {"eta": 1.0, "s_noise": 1.0}),
        ("dpmpp_3m_sde", "sample_dpmpp_3m_sde", {"eta": 0.3, "s_noise": 0.9}),
    ],
)
def test_trajectories(name: str, peer: str, options: dict[str, float], sigmas: list[float]) -> None:
    """k-diffusion's 2M and 3M SDE fail on one step to sigma = 0: they keep the length of a step they never took."""
    if sigmas == [5.0, 0.0] and peer in ("sample_dpmpp_2m_sde", "sample_dpmpp_3m_sde"):
        with pytest.raises(UnboundLocalError):
            theirs(getattr(sampling, peer), torch.ones(1), sigmas, noise_sampler=noise, **options)
        return
    start, *draws = noise(len(sigmas))
    mine, other = iter(draws), iter(draws)
    text = f"{name}({', '.join(f'{key}={value}' for key, value in options.items())})"
    found = ours(text, sigmas[0] * start, sigmas, lambda at, to, visit=0: next(mine))
    known = theirs(
        getattr(sampling, peer), sigmas[0] * start, sigmas, noise_sampler=lambda a, b: next(other), **options
    )
    agree(name, f"k-diffusion {peer}", found, known)


@pytest.mark.parametrize("eta", [1.0, 0.4])
def test_2m_sde_in_the_heun_form(eta: float) -> None:
    start, *draws = noise(len(SIGMAS))
    mine, other = iter(draws), iter(draws)
    found = ours(f"dpmpp_2m_sde_heun(eta={eta})", 14.6 * start, SIGMAS, lambda at, to, visit=0: next(mine))
    known = theirs(
        sampling.sample_dpmpp_2m_sde,
        14.6 * start,
        SIGMAS,
        noise_sampler=lambda a, b: next(other),
        eta=eta,
        solver_type="heun",
    )
    agree("dpmpp_2m_sde_heun", "k-diffusion sample_dpmpp_2m_sde", found, known)


@pytest.mark.parametrize("eta", [1.0, 0.5])
@pytest.mark.parametrize("sigmas", [SIGMAS, SIGMAS[2:6]], ids=["whole", "part"])
def test_dpmpp_sde(sigmas: list[float], eta: float) -> None:
    """Ours asks for the noise of both halves of a step; theirs for the first half, then for the whole."""
    start, *draws = noise(2 * len(sigmas))
    mine, halves = iter(draws), iter(draws)
    first: list[Tensor] = []

    def sampled(here: Tensor, there: Tensor) -> Tensor:
        if not first:
            first.append(next(halves))
            return first[0]
        at, to = (Level(float(s), 1.0, float(s)) for s in (here, there))
        middle = Level(0.0, 1.0, math.sqrt(at.sigma * to.sigma))
        return joined(at, middle, to, first.pop(), next(halves))

    found = ours(f"dpmpp_sde(eta={eta})", sigmas[0] * start, sigmas, lambda at, to, visit=0: next(mine))
    known = theirs(sampling.sample_dpmpp_sde, sigmas[0] * start, sigmas, noise_sampler=sampled, eta=eta)
    agree("dpmpp_sde", "k-diffusion sample_dpmpp_sde", found, known)


@pytest.mark.parametrize("churn", [0.0, 2.0, 40.0])
def test_edm(churn: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Below the grid's first level, above which ours adds no noise and theirs would."""
    start, *draws = noise(len(SIGMAS))
    drawn = iter(draws)
    monkeypatch.setattr(torch, "randn_like", lambda x: next(drawn))
    options = {"tmin": 0.1, "tmax": 6.0, "s_noise": 1.003}
    text = f"edm(churn={churn}, {', '.join(f'{key}={value}' for key, value in options.items())})"
    found = ours(text, 14.6 * start, SIGMAS, lambda at, to, visit=0: draws[visit - 1])
    known = theirs(
        sampling.sample_heun,
        14.6 * start,
        SIGMAS,
        s_churn=churn,
        **{f"s_{key.removeprefix('s_')}": value for key, value in options.items()},
    )
    agree("edm", "k-diffusion sample_heun", found, known)


def test_restart() -> None:
    """Put together from their Heun on parts of the grid: down to 0.2, three times up to 3.2 and down, and on."""
    start, *draws = noise(4)
    left, top, low = iter(draws), SIGMAS.index(3.2), SIGMAS.index(0.2)
    found = ours(
        "restart(low=0.1, high=4, times=3)", 14.6 * start, SIGMAS, lambda at, to, visit=0: next(left)
    )
    known = theirs(sampling.sample_heun, 14.6 * start, SIGMAS[: low + 1])
    for draw in draws:
        known = known + math.sqrt(3.2**2 - 0.2**2) * draw
        known = theirs(sampling.sample_heun, known, SIGMAS[top : low + 1])
    agree("restart", "k-diffusion sample_heun", found, theirs(sampling.sample_heun, known, SIGMAS[low:]))
