"""The denoiser's objective: its least value is the one that the closed form says, and judging is repeatable."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from sfumato.condition import Cond
from sfumato.denoiser import Denoiser, columns
from sfumato.process.prediction import prediction
from sfumato.process.schedule import Cosine, Exploding, Flow, Schedule
from sfumato.train.denoise import DenoiseObjective, Times, by_bin, levels, validation
from sfumato.train.pool import Pool

KINDS = ["eps", "x0", "v", "flow", "edm"]


def schedule_of(kind: str) -> Schedule:
    return Exploding() if kind == "edm" else Cosine() if kind == "v" else Flow()


class Oracle(nn.Module):
    """The best network for data N(0, std^2): E[x0 | x] and E[eps | x] are multiples of x."""

    def __init__(self, kind: str, std: float) -> None:
        super().__init__()
        self.kind, self.std = prediction(kind), std

    def forward(self, x: Tensor, clock: Tensor, **doors: Tensor) -> Tensor:
        alpha, sigma = (c.view(-1, 1, 1, 1) for c in clock.unbind(-1))
        variance = (alpha * self.std) ** 2 + sigma**2
        from sfumato.process.level import Level

        at = Level(sigma, alpha, sigma)  # type: ignore[arg-type]
        return self.kind.target(alpha * self.std**2 / variance * x, sigma / variance * x, at)


def pool(std: float, count: int = 64, mean: float = 0.0) -> Pool:
    make = torch.Generator().manual_seed(0)
    return Pool(
        latent=(mean + std * torch.randn(count, 2, 8, 8, generator=make)).half(),
        states=torch.zeros(count, 3).half(),
        start=torch.arange(count + 1),
        pooled=torch.zeros(count, 3).half(),
        weight=torch.ones(count),
        empty_states=torch.zeros(1, 3).half(),
        empty_pooled=torch.zeros(3).half(),
    )


def oracle(kind: str, std: float) -> Denoiser:
    return Denoiser(Oracle(kind, std), schedule_of(kind), prediction(kind), clock="level")


@pytest.mark.parametrize("kind", KINDS)
def test_a_perfect_denoiser_of_constant_data_has_no_loss(kind: str) -> None:
    """All data is 0: x is sigma eps, and x0 and eps are known for certain."""
    found = DenoiseObjective(oracle(kind, 0.0), pool(0.0), Times()).loss(
        0, 64, torch.Generator().manual_seed(1)
    )
    assert float(found.value) < 1e-9
    assert float(validation(oracle(kind, 0.0), pool(0.0)).max()) < 1e-9


@pytest.mark.parametrize("t", [0.02, 0.3, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("std", [0.3, 1.0])
def test_the_least_flow_loss_of_a_gaussian_is_its_conditional_variance(t: float, std: float) -> None:
    """Var(eps - x0 | (1 - t) x0 + t eps) = std^2 / ((1 - t)^2 std^2 + t^2), by Gauss's regression."""
    x0 = std * torch.randn(4000, 1, 4, 4, generator=torch.Generator().manual_seed(2))
    eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(3))
    denoiser = oracle("flow", std)
    at = levels(denoiser, torch.full((4000,), t))
    found = float(denoiser.loss(x0, eps, at, Cond()).mean())
    least = std**2 / (((1 - t) * std) ** 2 + t**2)
    assert found == pytest.approx(least, rel=5 * math.sqrt(2 / 64_000))


def test_no_other_multiple_of_x_does_better_than_the_oracle() -> None:
    data, times = pool(0.7), Times()

    def loss(std: float) -> float:
        objective = DenoiseObjective(oracle("flow", std), data, times)
        return float(objective.loss(0, 2000, torch.Generator().manual_seed(1)).value)

    best = loss(0.7)
    assert all(best < loss(std) for std in (0.4, 0.6, 0.8, 1.2))


@pytest.mark.parametrize("kind", KINDS)
def test_the_estimate_from_the_target_is_the_pair_that_made_it(kind: str) -> None:
    schedule, which = schedule_of(kind), prediction(kind)
    denoiser = Denoiser(nn.Identity(), schedule, which)
    x0, eps = (torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(s)) for s in (4, 5))
    at = columns(levels(denoiser, torch.tensor([0.1, 0.5, 0.9])), x0)
    found = which.estimate(at.alpha * x0 + at.sigma * eps, which.target(x0, eps, at), at)
    assert torch.allclose(found.x0, x0, atol=2e-5)
    assert torch.allclose(found.eps, eps, atol=2e-5)


def test_bins_are_means_and_empty_ones_are_told() -> None:
    t = torch.tensor([0.0, 0.05, 0.1, 0.999, 1.0, 0.55])
    values = torch.tensor([1.0, 3.0, 5.0, 7.0, 9.0, 11.0])
    found = by_bin(values, t)
    wanted = [2, 5, None, None, None, 11, None, None, None, 8]
    assert [None if math.isnan(v) else v for v in found.tolist()] == wanted


def test_bins_add_up_to_the_loss_of_the_batch() -> None:
    objective = DenoiseObjective(oracle("flow", 0.5), pool(1.0), Times())
    found = objective.loss(0, 500, torch.Generator().manual_seed(6))
    t, make = None, torch.Generator().manual_seed(6)
    objective.pool.draw(500, make)
    t = objective.times.draw(500, make)
    counts = torch.bincount((t * 10).long().clamp(max=9), minlength=10)
    assert float((found.figures["bins"].nan_to_num() * counts).sum() / 500) == pytest.approx(
        float(found.value), rel=1e-5
    )


@pytest.mark.parametrize(
    "times", [Times(), Times(mean=0.5, uniform=0.0), Times(std=0.5, uniform=1.0)], ids=str
)
def test_times_follow_their_law(times: Times) -> None:
    """Kolmogorov-Smirnov against the mixture's distribution function; 1.95 / sqrt(n) is one in a thousand."""
    count = 20_000
    t = times.draw(count, torch.Generator().manual_seed(8)).sort().values.double()
    assert 0 < float(t[0]) <= float(t[-1]) <= 1
    normal = torch.distributions.Normal(times.mean, times.std).cdf(torch.logit(t, eps=1e-12))
    law = times.uniform * t + (1 - times.uniform) * normal
    steps = torch.arange(1, count + 1).double() / count
    assert float((law - steps).abs().max()) < 1.95 / math.sqrt(count) + 1 / count


def test_judging_is_the_same_twice_and_sees_the_weights() -> None:
    data = pool(1.0)
    one, two = (validation(oracle("flow", 1.0), data) for _ in range(2))
    assert torch.equal(one, two)
    assert one.shape == (10,)
    torch.manual_seed(99)  # the state of the global generator is of no matter
    assert torch.equal(one, validation(oracle("flow", 1.0), data))
    assert not torch.equal(one, validation(oracle("flow", 0.9), data))
    middle = (torch.arange(10) + 0.5) / 10
    least = 1 / ((1 - middle) ** 2 + middle**2)
    assert torch.allclose(one, least, rtol=0.1)


class Doors(nn.Module):
    """Remembers the conditions it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, Tensor] = {}

    def forward(self, x: Tensor, clock: Tensor, **doors: Tensor) -> Tensor:
        self.seen = doors
        return x


@pytest.mark.parametrize("drop", [0.0, 0.1, 1.0])
def test_conditions_are_dropped_for_their_share_of_the_rows(drop: float) -> None:
    data = pool(1.0)
    data = Pool(**{**vars(data), "pooled": data.pooled + 1})
    net = Doors()
    objective = DenoiseObjective(Denoiser(net, Flow(), prediction("flow")), data, Times(), drop=drop)
    objective.loss(0, 2000, torch.Generator().manual_seed(1))
    empty = int((net.seen["vector"] == 0).all(1).sum())
    assert abs(empty - 2000 * drop) <= 4 * math.sqrt(2000 * drop * (1 - drop))
