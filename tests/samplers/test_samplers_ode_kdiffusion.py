"""Whole deterministic trajectories against k-diffusion's, on its levels (alpha = 1)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from sfumato.engine.run import run
from sfumato.process.estimate import Estimate
from sfumato.process.level import Level
from sfumato.samplers import SAMPLERS, sampler
from tests.peers.kdiffusion import sampling
from tests.samplers.peers_ode import NO_PEER, PEERS, agree, network, start

SIGMAS = [14.6, 9.1, 5.5, 3.2, 1.8, 0.9, 0.45, 0.2, 0.08, 0.03, 0.0]
GRIDS = {"whole": SIGMAS, "to the least": SIGMAS[:-1], "part": SIGMAS[3:7], "one step": [5.0, 0.0]}


def x0_of(x: Tensor, sigma: float) -> Tensor:
    """The denoised picture that both sides are told."""
    return x - sigma * network(x / math.hypot(1, sigma), 300 * math.log(sigma))


def ours(text: str, x: Tensor, sigmas: Sequence[float], asked: list[float] | None = None) -> Tensor:
    async def denoise(x: Tensor, at: Level) -> Estimate:
        if asked is not None:
            asked.append(at.sigma)
        x0 = x0_of(x, at.sigma)
        return Estimate(at, x0, (x - x0) / at.sigma)

    return run(sampler(text).walk(x, [Level(s, 1.0, s) for s in sigmas], denoise, None))  # type: ignore[arg-type]


def model(x: Tensor, sigma: Tensor) -> Tensor:
    return x0_of(x, float(sigma[0]))


def theirs(function: Any, x: Tensor, sigmas: Sequence[float], **options: Any) -> Tensor:
    return function(model, x, torch.tensor(sigmas, dtype=torch.float64), disable=True, **options)


def test_every_deterministic_sampler_has_a_peer_or_a_reason() -> None:
    names = {name for name, s in SAMPLERS.items() if not s.stochastic}
    assert names | {"invert"} == PEERS.keys() | NO_PEER.keys()
    assert not PEERS.keys() & NO_PEER.keys()


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize(
    ("name", "peer"),
    [
        ("ddim", "sample_euler"),
        ("euler", "sample_euler"),
        ("heun", "sample_heun"),
        ("dpm2", "sample_dpm_2"),
        ("dpmpp_2m", "sample_dpmpp_2m"),
        ("lms", "sample_lms"),
    ],
)
def test_the_same_name_ends_at_the_same_place(name: str, peer: str, grid: str) -> None:
    sigmas = GRIDS[grid]
    x = start(sigmas[0])
    agree(name, f"k-diffusion {peer}", ours(name, x, sigmas), theirs(getattr(sampling, peer), x, sigmas))


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_lms_of_every_order(order: int) -> None:
    """Theirs integrates numerically to 1e-4; of polynomials that is exact."""
    x = start(SIGMAS[0])
    found = theirs(sampling.sample_lms, x, SIGMAS, order=order)
    agree("lms", "k-diffusion sample_lms", ours(f"lms(order={order})", x, SIGMAS), found)


@pytest.fixture
def in_float64() -> Iterator[None]:
    """Their adaptive sampler makes its own tensors."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("in_float64")
@pytest.mark.parametrize(
    "options",
    [
        {"order": 3},
        {"order": 2},
        {"order": 3, "rtol": 0.01, "atol": 0.001, "h_init": 2.0},
        {"order": 2, "rtol": 0.01, "pcoeff": 0.2, "icoeff": 0.7, "dcoeff": 0.1, "accept_safety": 0.9},
    ],
    ids=str,
)
def test_the_adaptive_sampler_takes_and_refuses_the_same_steps(options: dict[str, float]) -> None:
    """Theirs asks again for the estimate of a step it has refused; ours keeps it."""
    x = start(14.6)
    found, info = sampling.sample_dpm_adaptive(
        model, x, 0.03, 14.6, disable=True, return_info=True, **options
    )
    text = f"dpm_adaptive({', '.join(f'{k}={v}' for k, v in options.items())})"
    asked: list[float] = []
    agree("dpm_adaptive", "k-diffusion sample_dpm_adaptive", ours(text, x, [14.6, 0.03], asked), found)
    assert len(asked) == info["nfe"] - info["n_reject"]
    if options.get("h_init"):
        assert info["n_reject"] > 0  # otherwise the test would not see what it is for
