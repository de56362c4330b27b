"""The denoiser: rows alone, doors, clocks, and EDM's preconditioning as the paper's table has it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from sfumato.condition import Cond
from sfumato.denoiser import CLOCKS, Denoiser, columns, row_levels, step_divergence
from sfumato.errors import InvalidRequest, UnknownName
from sfumato.process.level import CLEAN, Level
from sfumato.process.prediction import edm, prediction
from sfumato.process.schedule import Cosine, Exploding, Flow, scaled_linear

SIGMAS = [0.002, 0.1, 0.5, 1.0, 7.3, 80.0]


class Recorder(nn.Module):
    """A network with one weight that keeps what it was given; its output is a fixed function of all of it."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.7, dtype=dtype))
        self.x, self.clock, self.doors = torch.empty(0), torch.empty(0), dict[str, Tensor]()

    def forward(self, x: Tensor, clock: Tensor, **doors: Tensor) -> Tensor:
        self.x, self.clock, self.doors = x, clock, doors
        steer = clock.reshape(len(x), -1).sum(1) + sum(
            d.view(len(x), -1).float().sum(1) for d in doors.values()
        )
        return (self.weight * x.sin()[:, :2] + steer.to(x.dtype).view(-1, 1, 1, 1)).to(x.dtype)


def rows(count: int, seed: int = 0) -> Tensor:
    make = torch.Generator().manual_seed(seed)
    return torch.randn(count, 2, 3, 3, dtype=torch.float64, generator=make)


@pytest.mark.parametrize("std", [0.5, 1.0, 0.08])
def test_edm_is_the_papers_preconditioning(std: float) -> None:
    """Karras et al. 2022, table 1: D(x; s) = c_skip x + c_out F(c_in x; c_noise)."""
    network = Recorder()
    denoiser = Denoiser(
        network,
        Exploding(),
        edm(std),
        clock="log_sigma",
        scale=lambda at: 1 / (at.sigma**2 + std**2).sqrt(),  # type: ignore[attr-defined]
    )
    x = rows(len(SIGMAS)) * torch.tensor(SIGMAS).view(-1, 1, 1, 1)
    at = row_levels([Exploding().level(s) for s in SIGMAS])
    found = denoiser(x, at, Cond()).x0
    for k, sigma in enumerate(SIGMAS):
        c_skip = std**2 / (sigma**2 + std**2)
        c_out = sigma * std / math.sqrt(sigma**2 + std**2)
        c_in = 1 / math.sqrt(std**2 + sigma**2)
        c_noise = math.log(sigma) / 4
        raw = network.weight * (c_in * x[k]).sin() + c_noise
        assert torch.allclose(found[k], c_skip * x[k] + c_out * raw, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("std", [0.5, 1.0])
def test_the_edm_loss_is_the_papers_weighted_loss(std: float) -> None:
    """Equation 8 with lambda = 1 / c_out^2 is the plain loss on F, so both must be the same numbers."""
    denoiser = Denoiser(
        Recorder(),
        Exploding(),
        edm(std),
        clock="log_sigma",
        scale=lambda at: 1 / (at.sigma**2 + std**2).sqrt(),  # type: ignore[attr-defined]
    )
    x0, eps = std * rows(len(SIGMAS), 1), rows(len(SIGMAS), 2)
    at = row_levels([Exploding().level(s) for s in SIGMAS])
    sigma = torch.tensor(SIGMAS, dtype=torch.float64)
    clean = denoiser(x0 + sigma.view(-1, 1, 1, 1) * eps, at, Cond()).x0
    weight = (sigma**2 + std**2) / (sigma * std) ** 2
    wanted = weight * (clean - x0).square().flatten(1).mean(1)
    assert torch.allclose(denoiser.loss(x0, eps, at, Cond()), wanted, rtol=1e-7)


@pytest.mark.parametrize("kind", ["eps", "x0", "v", "flow", "edm"])
def test_rows_are_independent_and_lie_on_their_line(kind: str) -> None:
    schedule = {"edm": Exploding(), "flow": Flow(), "v": Cosine()}.get(kind, Cosine())
    denoiser = Denoiser(Recorder(), schedule, prediction(kind))
    levels = [schedule.level(t) for t in (0.1, 0.4, 0.9)]
    x = rows(3)
    cond = Cond(vector=torch.arange(6.0, dtype=torch.float64).view(3, 2), label=torch.tensor([3, 1, 2]))
    whole = denoiser(x, row_levels(levels), cond)
    for k, level in enumerate(levels):
        alone = denoiser(x[k : k + 1], row_levels([level]), cond.row(k))
        assert torch.allclose(whole.x0[k : k + 1], alone.x0, rtol=1e-12)
        assert torch.allclose(whole.eps[k : k + 1], alone.eps, rtol=1e-12)
        assert torch.allclose(level.alpha * alone.x0 + level.sigma * alone.eps, x[k : k + 1], rtol=1e-9)


def test_the_channels_door_is_laid_beside_x_and_is_not_scaled_by_it() -> None:
    network = Recorder()
    denoiser = Denoiser(network, Flow(), prediction("flow"), scale=lambda at: 0.5 * torch.ones_like(at.t))  # type: ignore[call-overload]
    x, beside = rows(2), rows(2, 5)
    out = denoiser.output(x, row_levels([Flow().level(0.5)] * 2), Cond(channels=beside))
    assert torch.equal(network.x, torch.cat((0.5 * x, beside), dim=1))
    assert network.doors == {}
    assert out.shape == x.shape


def test_doors_come_in_the_networks_dtype_and_go_out_in_that_of_x() -> None:
    network = Recorder(torch.bfloat16)
    denoiser = Denoiser(network, Flow(), prediction("flow"))
    cond = Cond(
        tokens=torch.ones(2, 4, 3), mask=torch.ones(2, 4, dtype=torch.bool), label=torch.tensor([1, 2])
    )
    found = denoiser(rows(2).float(), row_levels([Flow().level(0.5)] * 2), cond)
    assert network.x.dtype == network.doors["tokens"].dtype == torch.bfloat16
    assert network.x.is_contiguous(memory_format=torch.channels_last)
    assert (network.doors["mask"].dtype, network.doors["label"].dtype) == (torch.bool, torch.int64)
    assert found.x0.dtype == torch.float32


def test_clocks() -> None:
    flow = row_levels([Flow().level(t) for t in (0.25, 1.0)])
    assert CLOCKS["t"](flow).tolist() == [0.25, 1.0]
    assert CLOCKS["thousand"](flow).tolist() == [250.0, 1000.0]
    assert CLOCKS["level"](flow).tolist() == [[0.75, 0.25], [0.0, 1.0]]
    far = row_levels([Exploding().level(math.e**4), Exploding().level(1.0)])
    assert CLOCKS["log_sigma"](far).tolist() == pytest.approx([1.0, 0.0])
    table = row_levels([scaled_linear().level(t) for t in (0.0, 999.0)])
    assert CLOCKS["t"](table).tolist() == [0.0, 999.0]


def test_an_unknown_clock_is_told_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match=r"clock 'thousends'.*'thousand'"):
        Denoiser(Recorder(), Flow(), prediction("flow"), clock="thousends")


def test_levels_become_columns() -> None:
    at = columns(Level(*torch.tensor([[0.1, 0.2], [0.9, 0.8], [0.3, 0.4]])), torch.zeros(2, 5, 4, 4))  # type: ignore[arg-type]
    assert [part.shape for part in at] == [(2, 1, 1, 1)] * 3  # type: ignore[attr-defined]


class Wide(nn.Module):
    """A network of twice the channels: the same plain function of x, and a learned half."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.7, 0.4], dtype=torch.float64))

    def forward(self, x: Tensor, clock: Tensor, **doors: Tensor) -> Tensor:
        return torch.cat((self.weight[0] * x.sin(), (self.weight[1] * x).tanh()), dim=1)


class Narrow(Wide):
    """The first half alone."""

    def forward(self, x: Tensor, clock: Tensor, **doors: Tensor) -> Tensor:
        return super().forward(x, clock, **doors)[:, : x.shape[1]]


TABLE = scaled_linear()
STEPS = [(900.0, 899.0), (400.0, 399.0), (400.0, 200.0), (1.0, 0.0)]


@pytest.mark.parametrize("kind", ["eps", "v", "x0"])
def test_a_learned_range_is_the_second_half_from_0_to_1(kind: str) -> None:
    x, at = rows(3), row_levels([TABLE.level(t) for t in (0.0, 500.0, 999.0)])
    wide = Denoiser(Wide(), TABLE, prediction(kind), learned_range=True)(x, at, Cond())
    narrow = Denoiser(Narrow(), TABLE, prediction(kind))(x, at, Cond())
    assert torch.equal(wide.x0, narrow.x0)
    assert torch.equal(wide.eps, narrow.eps)
    assert narrow.learned is None
    assert wide.learned is not None
    torch.testing.assert_close(2 * wide.learned - 1, (0.4 * x).tanh())


@pytest.mark.parametrize(("network", "learned"), [(Wide(), False), (Narrow(), True)])
def test_channels_that_do_not_fit_are_told(network: nn.Module, learned: bool) -> None:
    denoiser = Denoiser(network, TABLE, prediction("eps"), learned_range=learned)
    with pytest.raises(InvalidRequest, match="learned_range"):
        denoiser(rows(1), row_levels([TABLE.level(10)]), Cond())


def normal(
    at: Level, to: Level, x: Tensor, x0: Tensor, variance: Tensor | float | None
) -> torch.distributions.Normal:
    """q(x_to | x_at, x0) from the joint law of both levels, by Bayes; or with another variance."""
    link = at.alpha / to.alpha
    fresh = at.sigma**2 - link**2 * to.sigma**2
    precision = 1 / to.sigma**2 + link**2 / fresh
    mean = (to.alpha * x0 / to.sigma**2 + link * x / fresh) / precision
    return torch.distributions.Normal(mean, (1 / precision if variance is None else variance) ** 0.5)


@pytest.mark.parametrize(("high", "low"), STEPS)
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_divergence_of_a_step_is_that_of_its_two_gaussians(high: float, low: float, share: float) -> None:
    at, to = TABLE.level(high), TABLE.level(low)
    x0, guess, eps = rows(2, 1), rows(2, 2), rows(2, 3)
    x = at.alpha * x0 + at.sigma * eps
    true = normal(at, to, x, x0, None)
    least = float(true.scale.flatten()[0]) ** 2
    largest = at.sigma**2 - (at.alpha / to.alpha) ** 2 * to.sigma**2
    if high - low == 1:  # one index: the largest is beta itself
        assert largest == pytest.approx(1 - TABLE.signal[int(high)] / TABLE.signal[int(low)], rel=1e-9)
    sampled = normal(at, to, x, guess, largest**share * least ** (1 - share))
    wanted = torch.distributions.kl_divergence(true, sampled)
    levels = (columns(row_levels([level] * 2), x) for level in (at, to))
    found = step_divergence(x0 - guess, torch.full_like(x0, share), *levels)
    torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-12)


def test_the_last_step_has_no_variance_to_learn() -> None:
    learned = torch.zeros(1, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    levels = (columns(row_levels([level]), learned) for level in (TABLE.level(0), CLEAN))
    found = step_divergence(rows(1), learned, *levels)
    found.sum().backward()
    assert (float(found.abs().max()), float(learned.grad.abs().max())) == (0, 0)  # type: ignore[union-attr]


def test_variances_are_learned_without_moving_the_mean() -> None:
    """The gradient of the output proper is the simple loss's; that of the other half the divergence's, scaled."""
    denoiser = Denoiser(Wide(), TABLE, prediction("eps"), learned_range=True)
    x0, eps = rows(2, 1), rows(2, 2)
    at, to = (row_levels([TABLE.level(pair[i]) for pair in STEPS[:2]]) for i in (0, 1))
    weight = denoiser.network.weight

    def slopes(**options) -> Tensor:
        (found,) = torch.autograd.grad(denoiser.loss(x0, eps, at, Cond(), **options).sum(), [weight])
        return found

    simple, both, twice = slopes(), slopes(to=to), slopes(to=to, share=2.0)
    assert simple[1] == 0
    assert both[0] == simple[0]
    assert both[1] != 0
    assert twice[1] == pytest.approx(float(2 * both[1]))
    estimate = denoiser(columns(at, x0).alpha * x0 + columns(at, x0).sigma * eps, at, Cond())
    parts = step_divergence(x0 - estimate.x0, estimate.learned, columns(at, x0), columns(to, x0))
    added = denoiser.loss(x0, eps, at, Cond(), to=to) - denoiser.loss(x0, eps, at, Cond())
    torch.testing.assert_close(added, parts.flatten(1).mean(1))


def test_a_network_without_a_range_learns_no_variance() -> None:
    at = row_levels([TABLE.level(9)])
    with pytest.raises(InvalidRequest, match="learned range"):
        Denoiser(Narrow(), TABLE, prediction("eps")).loss(rows(1), rows(1), at, Cond(), to=at)


@pytest.mark.parametrize("schedule", [scaled_linear(), Cosine(), Flow()])
def test_edms_prediction_needs_its_process(schedule) -> None:
    with pytest.raises(InvalidRequest, match="'exploding'"):
        Denoiser(Narrow(), schedule, edm())
    assert Denoiser(Narrow(), Exploding(), edm(0.3)).prediction.kind == "edm"
