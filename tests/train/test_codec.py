"""The codec's objective: each term against a peer or a picture whose value is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from sfumato.nn.autoencoder import Autoencoder, AutoencoderConfig, draw, kl_to_normal
from sfumato.train.codec import CodecObjective, CodecWeights, crop, edge_error

SMALL = AutoencoderConfig(latent=4, encoder=(8, 8), decoder=(8, 8), decoder_blocks=1, groups=4)


def objective(**weights: float) -> CodecObjective:
    torch.manual_seed(0)
    make = torch.Generator().manual_seed(1)
    pictures = torch.randint(256, (5, 4, 16, 16), dtype=torch.uint8, generator=make)
    colours = torch.tensor([[255, 255, 255], [16, 16, 18]], dtype=torch.uint8)
    return CodecObjective(Autoencoder(SMALL), pictures, colours, CodecWeights(**weights), None)


def test_kl_is_that_of_torch_distributions() -> None:
    make = torch.Generator().manual_seed(0)
    mean, logvar = 2 * torch.randn(3, 4, 5, 5, generator=make), 3 * torch.randn(3, 4, 5, 5, generator=make)
    wanted = kl_divergence(Normal(mean, (logvar / 2).exp()), Normal(0.0, 1.0)).mean()
    assert torch.allclose(kl_to_normal(mean, logvar), wanted, rtol=1e-5)
    assert kl_to_normal(torch.zeros(4), torch.zeros(4)) == 0


def test_samples_of_the_posterior_have_its_moments() -> None:
    noise = torch.randn(40_000, generator=torch.Generator().manual_seed(0))
    found = draw(torch.tensor(1.5), torch.tensor(-2.0), noise)
    assert float(found.mean()) == pytest.approx(1.5, abs=0.01)
    assert float(found.var().log()) == pytest.approx(-2.0, abs=0.03)
    assert torch.equal(draw(torch.tensor(1.5), torch.tensor(-2.0), torch.zeros(2)), torch.full((2,), 1.5))


def test_edge_error_of_known_pictures() -> None:
    flat = torch.zeros(2, 3, 8, 8)
    assert edge_error(flat, flat) == 0
    assert edge_error(flat + 0.7, flat) == 0  # a constant has no edges
    ramp = torch.arange(8.0).expand(2, 3, 8, 8) / 10
    assert float(edge_error(ramp, flat)) == pytest.approx(0.1)
    assert float(edge_error(ramp.mT, flat)) == pytest.approx(0.1)
    assert float(edge_error(ramp + ramp.mT, flat)) == pytest.approx(0.2)
    step = (torch.arange(8) >= 4).float().expand(2, 3, 8, 8)
    assert float(edge_error(step, flat)) == pytest.approx(1 / 7)  # one of seven differences is 1
    assert float(edge_error(step, 1 - step)) == pytest.approx(2 / 7)
    board = (torch.arange(8)[:, None] + torch.arange(8)) % 2 * torch.ones(1, 1, 8, 8)
    assert float(edge_error(board, torch.zeros_like(board))) == pytest.approx(2.0)


def test_a_transform_does_to_latents_what_it_does_to_pictures() -> None:
    """With the pixels themselves as latents, repeated to the picture's size, both must stay equal."""
    made = objective()
    phase = torch.rand(2, 4, 1, 1, generator=torch.Generator().manual_seed(2)) * 6
    latent = (phase + torch.arange(8.0) / 2).sin() + (phase + torch.arange(8.0).view(-1, 1) / 3).cos()
    factor = SMALL.factor
    assert factor == 4
    sides = set()
    for seed in range(40):
        target = latent.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
        small, big = made.transform(latent, target, torch.Generator().manual_seed(seed))
        assert big.shape[-2:] == (small.shape[-2] * factor, small.shape[-1] * factor)
        sides.add(small.shape[-1])
        if small.shape[-1] == 8:
            assert torch.equal(big, small.repeat_interleave(factor, 2).repeat_interleave(factor, 3))
            assert not torch.equal(small, latent)
        else:
            assert torch.allclose(small.mean((2, 3)), big.mean((2, 3)), atol=0.06)
            middle = torch.nn.functional.avg_pool2d(big, factor)
            assert float((middle - small).square().mean()) < 0.01 * float(small.square().mean())
    assert sides == {4, 5, 6, 7, 8}


@pytest.mark.parametrize("seed", range(6))
def test_a_transformed_latent_decodes_to_the_targets_size(seed: int) -> None:
    found = objective(equivariance=1.0).loss(0, 2, torch.Generator().manual_seed(seed))
    found.value.backward()
    assert set(found.figures) == {"absolute", "edges", "kl"}


def test_the_loss_is_the_sum_of_its_figures_by_weight() -> None:
    weights = {"kl": 0.25, "edges": 2.0, "perceptual": 3.0, "equivariance": 0.0}
    made = objective(**weights)
    seen: list[tuple[Tensor, Tensor]] = []

    def perceptual(a: Tensor, b: Tensor) -> Tensor:
        seen.append((a, b))
        return torch.tensor(0.5)

    made.perceptual = perceptual
    found = made.loss(0, 3, torch.Generator().manual_seed(0))
    figures = {name: float(value) for name, value in found.figures.items()}
    wanted = figures["absolute"] + 2 * figures["edges"] + 0.25 * figures["kl"] + 3 * 0.5
    assert float(found.value.detach()) == pytest.approx(wanted, rel=1e-5)
    ((a, b),) = seen
    assert a.shape == b.shape == (3, 3, 16, 16)
    assert a.requires_grad
    assert not b.requires_grad


def test_a_crop_is_the_same_square_of_both() -> None:
    picture = torch.arange(20.0 * 30).view(1, 1, 20, 30)
    corners = set()
    for seed in range(60):
        a, b = crop(picture, -picture, 8, torch.Generator().manual_seed(seed))
        assert a.shape == (1, 1, 8, 8)
        assert torch.equal(a, -b)
        corners.add(float(a[0, 0, 0, 0]))
        assert a[0, 0, 1, 0] - a[0, 0, 0, 0] == 30
    assert len(corners) > 40
    a, _ = crop(picture, picture, 64, torch.Generator().manual_seed(0))
    assert torch.equal(a, picture)
