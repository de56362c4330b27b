from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from sfumato.condition import Cond
from sfumato.denoiser import columns, row_levels
from sfumato.engine.run import run
from sfumato.errors import InvalidRequest, UnknownName
from sfumato.families.gaussian import Mixture, mixture, sample
from sfumato.noise import Stream
from sfumato.process.estimate import Estimate
from sfumato.process.grid import make_grid
from sfumato.process.level import CLEAN, Level
from sfumato.process.schedule import Cosine, Exploding, Flow, scaled_linear
from sfumato.samplers import SAMPLERS
from sfumato.tasks.text2image import Text2Image

MEANS = torch.tensor([[-1.0, 0.5], [1.0, 0.3], [0.2, -0.9]], dtype=torch.float64)
COVS = torch.tensor(
    [[[0.2, 0.05], [0.05, 0.1]], [[0.05, 0.0], [0.0, 0.3]], [[0.1, -0.04], [-0.04, 0.08]]],
    dtype=torch.float64,
)
WEIGHTS = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
LEVELS = [
    Cosine().level(0.3),
    Flow().level(0.8),
    Exploding().level(2.0),
    Level(0.0, 0.7, 1.9),
    Level(1.0, 0.0, 1.0),
]


def network(**options) -> Mixture:
    found = mixture(MEANS, COVS, WEIGHTS, **options).denoiser.network
    assert isinstance(found, Mixture)
    return found


def some(rows: int = 5) -> Tensor:
    return torch.randn(rows, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def on_a_plane(half: float = 9.0, cells: int = 400) -> tuple[Tensor, float]:
    """The centres of the cells of a square, and the area of one."""
    side = (torch.arange(cells, dtype=torch.float64) + 0.5) / cells * 2 * half - half
    return torch.cartesian_prod(side, side), (2 * half / cells) ** 2


@pytest.mark.parametrize("at", LEVELS[:3], ids=str)
@pytest.mark.parametrize("label", [None, 0, 2])
def test_a_density_integrates_to_one_with_the_moments_of_its_draws(at: Level, label: int | None) -> None:
    plane, area = on_a_plane()
    mass = network().log_density(plane, at, label).exp() * area
    assert float(mass.sum()) == pytest.approx(1, abs=1e-4)
    draws = network().sample_exact(20_000, at, seed=3, label=label)
    mean = (mass[:, None] * plane).sum(0)
    second = torch.einsum("n,ni,nj->ij", mass, plane, plane)
    products = torch.einsum("ni,nj->nij", draws, draws)
    assert ((draws.mean(0) - mean).abs() < 4 * draws.std(0) / math.sqrt(20_000)).all()
    assert ((products.mean(0) - second).abs() < 4 * products.std(0) / math.sqrt(20_000)).all()


@pytest.mark.parametrize("label", [None, 1])
def test_the_denoiser_is_the_posterior_mean_by_quadrature(label: int | None) -> None:
    """E[x0 | x] by Bayes' rule on a fine plane of x0: prior times the likelihood of x, summed."""
    plane, _ = on_a_plane(4.0)
    prior = network().log_density(plane, CLEAN, label)
    for at in LEVELS[:4]:
        for x in some(2):
            likelihood = -0.5 * ((x - at.alpha * plane) / at.sigma).square().sum(1)
            share = (prior + likelihood).softmax(0)
            expected = (share[:, None] * plane).sum(0)
            clock = torch.tensor([at[1:]], dtype=torch.float64)
            x0, eps = network().posterior(x[None], clock, torch.tensor([3 if label is None else label]))
            torch.testing.assert_close(x0[0], expected, rtol=1e-6, atol=1e-6)
            torch.testing.assert_close(at.alpha * x0[0] + at.sigma * eps[0], x, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("label", [None, 0, 1, 2])
def test_the_noise_is_the_score(label: int | None) -> None:
    """E[eps | x] = -sigma grad log p(x), by autograd, at any alpha and sigma, pure noise too."""
    for at in LEVELS:
        x = some().requires_grad_()
        (score,) = torch.autograd.grad(network().log_density(x, at, label).sum(), x)
        clock = torch.tensor([at[1:]], dtype=torch.float64).expand(5, 2)
        _, eps = network().posterior(x.detach(), clock, torch.full((5,), 3 if label is None else label))
        torch.testing.assert_close(eps, -at.sigma * score, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", ["eps", "x0", "v", "flow"])
def test_the_denoiser_gives_both_ends_whatever_the_network_says(kind: str) -> None:
    model = mixture(MEANS, COVS, WEIGHTS, kind=kind)
    at = row_levels(LEVELS[:4])
    label = torch.tensor([0, 3, 1, 3])
    x = some(4)
    found = model.denoiser(x, at, Cond(label=label))
    x0, eps = network().posterior(x, torch.stack((at.alpha, at.sigma), -1), label)  # type: ignore[call-overload]
    torch.testing.assert_close(found.x0, x0, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.eps, eps, rtol=1e-12, atol=1e-12)
    level = columns(at, x)
    torch.testing.assert_close(level.alpha * found.x0 + level.sigma * found.eps, x, rtol=1e-12, atol=1e-12)


def test_a_memorised_set_of_points_is_a_mixture_without_spread() -> None:
    """Covariances of 0: near the clean end the denoiser names the nearest point, and samplers end on points."""
    model = mixture(MEANS, torch.zeros(3, 2, 2), WEIGHTS)
    grid = make_grid("linspace", steps=30, schedule=model.denoiser.schedule)
    ends = run(sample(model, SAMPLERS["ddpm"].walk, grid, range(24)))
    to_points = (ends[:, None] - MEANS).norm(dim=-1)
    assert float(to_points.min(1).values.max()) < 1e-8
    assert set(to_points.argmin(1).tolist()) == {0, 1, 2}


def test_names_choose_components() -> None:
    model = mixture(MEANS, COVS, WEIGHTS, names=("left", "right", "low"))
    assert model.conditioner(["low", "", "left"]).named()["label"].tolist() == [2, 3, 0]
    with pytest.raises(UnknownName, match="right"):
        model.conditioner(["rihgt"])


@pytest.mark.parametrize(
    "schedule", [Flow(), Cosine(), Exploding(), scaled_linear()], ids=lambda s: type(s).__name__
)
def test_its_defaults_sample_its_components(schedule) -> None:
    """The mean and spread of each component by the sampler and the grid that the model suggests."""
    model = mixture(MEANS, COVS, WEIGHTS, schedule=schedule)
    grid = make_grid(model.defaults.grid, steps=4 * model.defaults.steps, schedule=schedule)
    for k in range(3):
        noise, cond = Stream(range(400), (2,), torch.float64), model.conditioner([str(k)] * 400)

        async def denoise(x: Tensor, at: Level, cond: Cond = cond) -> Estimate:
            found = model.denoiser(x, row_levels([at] * 400), cond)
            return Estimate(at, found.x0, found.eps)

        ends = run(SAMPLERS[model.defaults.sampler].walk(grid[0].sigma * noise.start(), grid, denoise, noise))
        error = COVS[k].diagonal().sqrt() / math.sqrt(400)
        assert ((ends.mean(0) - MEANS[k]).abs() < 4 * error).all()
        products = torch.einsum("ni,nj->nij", *[ends - MEANS[k]] * 2)
        assert ((products.mean(0) - COVS[k]).abs() < 4 * products.std(0) / math.sqrt(400)).all()


def test_pictures_of_a_mixture_by_text_to_image() -> None:
    """Two flat colours as components: the whole task runs, and each prompt makes its colour."""
    red, blue = (
        torch.tensor(c)[:, None, None].expand(3, 2, 2) for c in ([0.8, -0.8, -0.8], [-0.8, -0.8, 0.8])
    )
    model = mixture(
        torch.stack((red, blue)), 1e-4 * torch.eye(12).expand(2, 12, 12), torch.ones(2), names=("red", "blue")
    )
    for prompt, colour in (("red", [230, 26, 26]), ("blue", [26, 26, 230])):
        result = run(Text2Image(prompt=prompt, count=3, seed=7)(model))
        for picture in result.pixels:
            assert picture.shape == (2, 2, 3)
            assert np.abs(picture.astype(int) - colour).max() < 10


def test_the_hash_tells_mixtures_apart() -> None:
    one, same, other = (mixture(MEANS, COVS, WEIGHTS * w).hash for w in (1, 1, torch.tensor([1, 2, 1])))
    assert one == same != other


@pytest.mark.parametrize(
    "build",
    [
        lambda: mixture(MEANS, COVS[:2], WEIGHTS),
        lambda: mixture(MEANS, COVS, WEIGHTS[:2]),
        lambda: mixture(MEANS, COVS, torch.tensor([1.0, 0.0, 1.0])),
        lambda: mixture(MEANS, -COVS, WEIGHTS),
        lambda: mixture(MEANS, COVS + torch.tensor([[0.0, 0.1], [0.0, 0.0]]), WEIGHTS),
        lambda: mixture(MEANS, COVS, WEIGHTS, names=("a", "b")),
        lambda: mixture(MEANS, COVS, WEIGHTS, names=("a", "b", "a")),
        lambda: mixture(MEANS, COVS, WEIGHTS, names=("a", "b", "")),
        lambda: mixture(MEANS, COVS, WEIGHTS, kind="noise"),
    ],
)
def test_what_is_no_mixture_is_refused(build) -> None:
    with pytest.raises(InvalidRequest):
        build()
