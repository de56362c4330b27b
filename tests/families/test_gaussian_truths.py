"""Further truths of the mixture: its flow, its posterior under an observation, its denoiser as a plain function."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import sfumato
from sfumato.engine.run import run
from sfumato.errors import InvalidRequest
from sfumato.families.gaussian import Mixture, denoise_of, mixture
from sfumato.process.estimate import Estimate
from sfumato.process.level import CLEAN, Level
from sfumato.process.schedule import Cosine, Exploding, Flow, Schedule, scaled_linear
from sfumato.samplers import SAMPLERS

MEANS = torch.tensor([[-1.0, 0.5], [1.0, 0.3], [0.2, -0.9]], dtype=torch.float64)
COVS = torch.tensor(
    [[[0.2, 0.05], [0.05, 0.1]], [[0.05, 0.0], [0.0, 0.3]], [[0.1, -0.04], [-0.04, 0.08]]],
    dtype=torch.float64,
)
WEIGHTS = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
A = torch.tensor([[0.8, -0.5]], dtype=torch.float64)
Y = torch.tensor([0.6], dtype=torch.float64)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def model_of(**options):
    model = mixture(MEANS, COVS, WEIGHTS, **options)
    assert isinstance(model.denoiser.network, Mixture)
    return model, model.denoiser.network


@pytest.mark.parametrize(
    "schedule", [Flow(), Cosine(), Exploding(), scaled_linear()], ids=lambda s: type(s).__name__
)
@pytest.mark.parametrize("label", [0, 2])
def test_the_flow_is_where_a_fine_walk_ends(schedule: Schedule, label: int) -> None:
    model, network = model_of(schedule=schedule)
    plain = denoise_of(model, model.conditioner([str(label)]))

    async def denoise(x: Tensor, at: Level) -> Estimate:
        return plain(x, at)

    grid = [schedule.at(-2.0 + 6.0 * i / 200) for i in range(201)]
    x = grid[0].sigma * normal(4, 2, seed=1)
    end = run(SAMPLERS["heun"].walk(x, grid, denoise, lambda *_: pytest.fail("drew")))
    carried = network.flow_map(x, grid[0], grid[-1], label)
    assert float((carried - x * grid[-1].alpha).abs().max()) > 0.3
    torch.testing.assert_close(carried, end, rtol=1e-3, atol=1e-3)


def test_the_flow_goes_back_goes_on_and_carries_the_law() -> None:
    """There and back is nothing, two parts are the whole, and draws of one level become draws of the other."""
    _, network = model_of()
    a, b, c = Level(1.0, 0.0, 1.0), Flow().level(0.6), CLEAN
    x = normal(6, 2, seed=2)
    for label in range(3):
        at_b = network.flow_map(x, a, b, label)
        torch.testing.assert_close(network.flow_map(at_b, b, a, label), x, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(
            network.flow_map(at_b, b, c, label), network.flow_map(x, a, c, label), rtol=1e-10, atol=1e-10
        )
        # The change of variables: densities differ by the determinant of a linear map.
        slope = torch.func.jacrev(lambda v, k=label: network.flow_map(v[None], a, c, k)[0])(x[0])
        before, after = (
            network.log_density(v, at, label) for v, at in ((x, a), (network.flow_map(x, a, c, label), c))
        )
        torch.testing.assert_close(before, after + slope.det().abs().log())


@pytest.mark.parametrize("noise", [0.2, 1.5])
def test_the_law_given_an_observation_is_bayes_rule(noise: float) -> None:
    """log p(x0 | y) differs from log p(x0) + log p(y | x0) by one number, the same everywhere."""
    _, network = model_of()
    given = network.conditioned(A, Y, noise)
    x0 = normal(50, 2, seed=3)
    likelihood = -0.5 * ((Y - x0 @ A.T) / noise).square().sum(1) - math.log(noise)
    gap = given.log_density(x0) - network.log_density(x0) - likelihood
    assert float(gap.max() - gap.min()) < 1e-9
    # And that number is the evidence: y under the mixture seen through the operator.
    spread = torch.einsum("mi,kij,nj->kmn", A, COVS, A)[:, 0, 0] + noise**2
    evidence = (WEIGHTS * (-0.5 * (Y - MEANS @ A[0]).square() / spread).exp() / spread.sqrt()).sum().log()
    torch.testing.assert_close(gap.mean(), -evidence, rtol=1e-9, atol=1e-9)


def test_what_is_seen_without_noise_is_fixed() -> None:
    _, network = model_of()
    draws = network.conditioned(A, Y, 0.0).sample_exact(200, seed=4)
    torch.testing.assert_close(draws @ A.T, Y.expand(200, 1), rtol=1e-7, atol=1e-7)
    assert float(draws.std()) > 0.2


def test_observing_twice_is_observing_both_and_labels_stay() -> None:
    _, network = model_of()
    other, z = torch.tensor([[0.1, 1.0]], dtype=torch.float64), torch.tensor([-0.4], dtype=torch.float64)
    twice = network.conditioned(A, Y, 0.3).conditioned(other, z, 0.3)
    both = network.conditioned(torch.cat((A, other)), torch.cat((Y, z)), 0.3)
    x0 = normal(5, 2, seed=5)
    for label in (None, 0, 2):
        torch.testing.assert_close(twice.log_density(x0, label=label), both.log_density(x0, label=label))


def test_an_observation_far_from_a_component_keeps_its_place() -> None:
    far = mixture(torch.tensor([[0.0], [1e4]]), 1e-2 * torch.ones(2, 1, 1), torch.ones(2))
    one = torch.ones(1, 1)
    given = far.denoiser.network.conditioned(one, one[0] * 1e4, 0.1)
    assert given.logits[-1].exp().tolist() == pytest.approx([0, 1])
    assert float(given.means[1]) == pytest.approx(1e4)


def test_the_denoiser_as_a_function_is_the_models() -> None:
    model, network = model_of(schedule=Cosine(), names=("left", "right", "low"))
    at, x = Cosine().level(0.4), normal(3, 2, seed=6)
    clock = torch.tensor(at[1:], dtype=torch.float64).expand(3, 2)
    for cond, label in ((None, 3), (model.conditioner(["low"]), 2)):
        found = denoise_of(model, cond)(x.float(), at)
        x0, eps = network.posterior(x.float().double(), clock, torch.full((3,), label))
        assert found.x0.dtype == torch.float64
        torch.testing.assert_close(found.x0, x0)
        torch.testing.assert_close(found.eps, eps)
    rows = denoise_of(model, model.conditioner(["left", "right", ""]))(x, at)
    alone = denoise_of(model, model.conditioner(["right"]))(x, at)
    torch.testing.assert_close(rows.x0[1], alone.x0[1])


def test_the_function_is_what_sample_takes() -> None:
    """A walk of many steps ends where the flow does, from the noise of the same seeds."""
    model = sfumato.mixture(MEANS[:1], COVS[:1], torch.ones(1))
    grid = sfumato.grid("linspace", steps=200, schedule=Flow())
    options = {"shape": (2,), "grid": grid, "sampler": "heun", "dtype": torch.float64}
    ends = sfumato.sample(denoise_of(model), seeds=[1, 2, 3], **options)
    start = sfumato.sample(denoise_of(model), seeds=[1, 2, 3], **{**options, "grid": (grid[0], grid[0])})
    torch.testing.assert_close(
        model.denoiser.network.flow_map(start, grid[0], CLEAN), ends, rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize(
    "ask",
    [
        lambda model, net: net.flow_map(torch.zeros(1, 2), Flow().level(0.5), CLEAN),
        lambda model, net: net.flow_map(torch.zeros(1, 2), Flow().level(0.5), CLEAN, 3),
        lambda model, net: net.flow_map(torch.zeros(1, 3), Flow().level(0.5), CLEAN, 0),
        lambda model, net: mixture(
            torch.zeros(1, 2), torch.zeros(1, 2, 2), torch.ones(1)
        ).denoiser.network.flow_map(torch.zeros(1, 2), CLEAN, Flow().level(0.5)),
        lambda model, net: net.conditioned(A.T, Y, 0.1),
        lambda model, net: net.conditioned(A, torch.zeros(2), 0.1),
        lambda model, net: net.conditioned(A, Y, -0.1),
        lambda model, net: net.conditioned(A, Y, math.nan),
        lambda model, net: net.conditioned(torch.zeros(1, 2), Y, 0.0),
        lambda model, net: net.log_density(torch.zeros(4, 3)),
        lambda model, net: denoise_of(model)(torch.zeros(2), Flow().level(0.5)),
        lambda model, net: denoise_of(model)(torch.zeros(1, 2, dtype=torch.long), Flow().level(0.5)),
        lambda model, net: denoise_of(model)(torch.zeros(2, 2), Level(*torch.ones(3, 2))),
        lambda model, net: denoise_of(model, model.conditioner(["0", "1"]))(torch.zeros(3, 2), CLEAN),
    ],
)
def test_what_has_no_truth_is_refused(ask) -> None:
    with pytest.raises(InvalidRequest):
        ask(*model_of())
