"""The likelihood by the probability-flow ODE against densities in closed form."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sfumato.errors import InvalidRequest
from sfumato.evaluate.likelihood import bits_per_dimension, dequantise, log_likelihood
from sfumato.families.gaussian import Mixture, denoise_of, mixture
from sfumato.process.estimate import Estimate
from sfumato.process.level import Level
from sfumato.process.schedule import Cosine, Exploding, Flow, Schedule, from_betas, linear, scaled_linear

MEANS = torch.tensor([[-1.0, 0.5], [1.0, 0.3], [0.2, -0.9]], dtype=torch.float64)
COVS = torch.tensor(
    [[[0.2, 0.05], [0.05, 0.1]], [[0.05, 0.0], [0.0, 0.3]], [[0.1, -0.04], [-0.04, 0.08]]],
    dtype=torch.float64,
)
WEIGHTS = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
SCHEDULES: dict[str, Schedule] = {
    "cosine": Cosine(),
    "table": linear(),
    "stable diffusion": scaled_linear(),
    "zero terminal ratio": from_betas([0.02] * 199 + [1.0]),
    "flow": Flow(),
    "shifted flow": Flow(shift=3.0),
    "edm": Exploding(),
}
BITS = 2 * math.log(2)  # nats in a bit a value, of rows of two values


def model_on(schedule: Schedule, covs: Tensor = COVS):
    model = mixture(MEANS, covs, WEIGHTS, schedule=schedule)
    assert isinstance(model.denoiser.network, Mixture)
    return model, model.denoiser.network


@pytest.mark.parametrize("name", SCHEDULES)
def test_it_is_the_density_in_closed_form(name: str) -> None:
    """At the schedule's least level, to 1e-4 bits a value; where the end is pure noise the prior needs no telling."""
    schedule = SCHEDULES[name]
    model, network = model_on(schedule)
    x0 = network.sample_exact(12, seed=1)
    low, high = schedule.level(schedule.t_min), schedule.level(schedule.t_max)
    exact = network.log_density(low.alpha * x0, low) + 2 * math.log(low.alpha)
    prior = None if high.alpha == 0 else network.log_density
    found = log_likelihood(denoise_of(model), x0, schedule, prior=prior)
    assert found.dtype == torch.float64
    assert float((found - exact).abs().max()) / BITS < 1e-4
    assert float(exact.std()) > 0.5


@pytest.mark.parametrize(
    "schedule", [Cosine(t_min=1e-4), Flow(t_min=1e-4), Exploding(t_min=1e-4)], ids=lambda s: type(s).__name__
)
def test_towards_no_noise_it_is_the_density_of_the_data(schedule: Schedule) -> None:
    model, network = model_on(schedule)
    x0 = network.sample_exact(12, seed=2)
    found = log_likelihood(denoise_of(model), x0, schedule, steps=60, prior=network.log_density)
    assert float((found - network.log_density(x0)).abs().max()) / BITS < 1e-4


def test_the_usual_prior_is_that_of_data_of_unit_variance() -> None:
    """Exact for standard normal data on any process, however little noise it ends with."""
    for schedule in (linear(200), Exploding(t_max=5.0), Flow(t_max=0.7)):
        model = mixture(torch.zeros(1, 3), torch.eye(3)[None], torch.ones(1), schedule=schedule)
        x0 = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
        low = schedule.level(schedule.t_min)
        spread = 1 + low.ratio**2
        exact = -0.5 * x0.square().sum(1) / spread - 1.5 * math.log(2 * math.pi * spread)
        found = log_likelihood(denoise_of(model), x0, schedule, steps=20)
        torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-4)


def test_the_error_falls_with_the_fourth_power_of_the_steps() -> None:
    schedule = Flow()
    model, network = model_on(schedule)
    x0 = network.sample_exact(20, seed=4)
    low = schedule.level(schedule.t_min)
    exact = network.log_density(low.alpha * x0, low) + 2 * math.log(low.alpha)
    errors = [
        float((log_likelihood(denoise_of(model), x0, schedule, steps=n) - exact).square().mean().sqrt())
        for n in (25, 50)
    ]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(4, abs=0.4)


def test_hutchinsons_estimate_is_unbiased_and_its_spread_falls() -> None:
    count, schedule = 400, Cosine()
    model, network = model_on(schedule)
    x0 = network.sample_exact(1, seed=5)
    exact = log_likelihood(denoise_of(model), x0, schedule, steps=20)
    spreads = []
    for probes in (1, 4):
        found = log_likelihood(denoise_of(model), x0.expand(count, 2), schedule, steps=20, probes=probes)
        spreads.append(float(found.std()))
        assert abs(float(found.mean() - exact)) < 3 * spreads[-1] / math.sqrt(count)
    assert spreads[0] > 0.05
    assert spreads[1] == pytest.approx(spreads[0] / 2, rel=0.15)


def test_probes_belong_to_their_row() -> None:
    model, network = model_on(Flow())
    x0 = network.sample_exact(3, seed=6)
    together, again = (
        log_likelihood(denoise_of(model), x0, Flow(), steps=6, probes=5, seeds=[5, 6, 7]) for _ in range(2)
    )
    assert torch.equal(together, again)
    for i in range(3):
        alone = log_likelihood(denoise_of(model), x0[i : i + 1], Flow(), steps=6, probes=5, seeds=[5 + i])
        torch.testing.assert_close(alone[0], together[i], rtol=1e-12, atol=1e-12)
    other = log_likelihood(denoise_of(model), x0, Flow(), steps=6, probes=5, seeds=[8, 6, 7])
    assert other[0] != together[0]
    assert other[1] == together[1]


def test_pictures_of_a_model_by_its_verbs_in_float32() -> None:
    """Rows (3, 2, 2), one component by its prompt, through the engine; a Gaussian's density by its formula."""
    roots = 0.3 * torch.randn(2, 12, 12, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    covs = roots @ roots.mT + 0.05 * torch.eye(12, dtype=torch.float64)
    means = torch.stack((torch.full((3, 2, 2), 0.4), torch.full((3, 2, 2), -0.3)))
    model = mixture(means, covs, torch.ones(2), names=("light", "dark"))
    want = model.conditioner(["light"])

    async def denoise(x: Tensor, at: Level) -> Estimate:
        return (await model.denoise(x, at, want, grad=True))[0]

    x0 = means[:1] + 0.2
    found = log_likelihood(denoise, x0.float(), Flow(), steps=15)
    law = torch.distributions.MultivariateNormal(means[0].double().flatten(), covs[0])
    exact = law.log_prob(x0.double().flatten(1))
    assert float((found - exact).abs().max()) / (12 * math.log(2)) < 1e-3


def test_uniform_pixels_cost_their_bits() -> None:
    for bits in (1, 5, 8):
        levels = 2**bits
        density = torch.full((2,), 6 * math.log((levels - 1) / 2 / levels), dtype=torch.float64)
        assert bits_per_dimension(density, 6, bits=bits).tolist() == pytest.approx([bits] * 2)


def test_a_density_of_steps_costs_the_entropy_of_its_pixels() -> None:
    """Theis et al. 2016: equality for densities that are flat over each value's interval."""
    chances = torch.tensor([0.5, 0.25, 0.125, 0.125], dtype=torch.float64)
    pixels = torch.multinomial(chances, 4000, replacement=True, generator=torch.Generator().manual_seed(8))
    x = dequantise(pixels.to(torch.uint8)[:, None], range(4000)).double()
    value = ((x + 1) * 127.5).round().long()
    assert torch.equal(value[:, 0], pixels)
    cost = bits_per_dimension((chances[value[:, 0]] * 127.5).log(), 1)
    entropy = 1.75
    assert abs(float(cost.mean()) - entropy) < 3 * float(cost.std()) / math.sqrt(4000)


def test_dequantised_pixels_are_uniform_and_belong_to_their_row() -> None:
    pixels = torch.randint(256, (2, 3, 40, 40), generator=torch.Generator().manual_seed(9)).to(torch.uint8)
    x = dequantise(pixels)
    assert x.dtype == torch.float32
    off = ((x.double() + 1) * 127.5 - pixels.double()).flatten()
    assert float(off.min()) >= -0.5001
    assert float(off.max()) <= 0.5001
    ordered = off.sort().values + 0.5
    steps = torch.arange(1, len(ordered) + 1) / len(ordered)
    assert float((ordered - steps).abs().max()) < 1.95 / math.sqrt(len(ordered))
    assert torch.equal(dequantise(pixels[1:], [1]), x[1:])


def constant(x: Tensor, at: Level) -> Estimate:
    return Estimate(at, torch.zeros_like(x), torch.zeros_like(x))


@pytest.mark.parametrize(
    "build",
    [
        lambda x0: log_likelihood(constant, x0, Flow()),
        lambda x0: log_likelihood(lambda x, at: Estimate(at, x[:, :1], x[:, :1]), x0, Flow()),
        lambda x0: log_likelihood(denoise_of(model_on(Flow())[0]), x0, Flow(), steps=0),
        lambda x0: log_likelihood(denoise_of(model_on(Flow())[0]), x0, Flow(), probes=-1),
        lambda x0: log_likelihood(denoise_of(model_on(Flow())[0]), x0, Flow(), probes=1, seeds=[1]),
        lambda x0: log_likelihood(denoise_of(model_on(Flow())[0]), x0[0], Flow()),
        lambda x0: bits_per_dimension(x0, 0),
        lambda x0: bits_per_dimension(x0, 1, bits=0),
        lambda x0: dequantise(x0),
        lambda x0: dequantise(x0.to(torch.uint8), [1]),
    ],
)
def test_what_has_no_likelihood_is_refused(build) -> None:
    with pytest.raises(InvalidRequest):
        build(torch.zeros(2, 2, dtype=torch.float64))
