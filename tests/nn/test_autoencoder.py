from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sfumato.nn.autoencoder import Autoencoder, AutoencoderConfig

SMALL = AutoencoderConfig(latent=4, encoder=(8, 8), decoder=(8, 16), decoder_blocks=1, groups=4)
CONFIGS = [
    SMALL,
    AutoencoderConfig(pixels=1, latent=2, fold=1, encoder=(8,), decoder=(8,), groups=2),
    AutoencoderConfig(fold=4, encoder=(8, 8, 8), decoder=(8, 8, 16), encoder_blocks=2, groups=4),
    AutoencoderConfig(pixels=4, fold=3, encoder=(8, 8), decoder=(16, 8), encoder_blocks=0, groups=4),
]
FACTORS = [4, 1, 16, 6]


def built(config: AutoencoderConfig) -> Autoencoder:
    torch.manual_seed(0)
    return Autoencoder(config).eval()


@pytest.mark.parametrize(("config", "factor"), list(zip(CONFIGS, FACTORS, strict=True)))
def test_the_factor_is_how_much_smaller_the_latent_is(config: AutoencoderConfig, factor: int) -> None:
    assert config.factor == factor
    model = built(config)
    pixels = torch.rand(2, config.pixels, 3 * factor, 2 * factor) * 2 - 1
    with torch.no_grad():
        mean, logvar = model.moments(pixels)
        assert mean.shape == logvar.shape == (2, config.latent, 3, 2)
        assert model.decode(mean).shape == pixels.shape


def test_the_shipped_numbers_make_an_eighth() -> None:
    assert AutoencoderConfig().factor == 8


@settings(max_examples=20, deadline=None)
@given(rows=st.integers(1, 3), height=st.integers(1, 9), width=st.integers(1, 9))
def test_any_multiple_of_the_factor_comes_back_in_its_size(rows: int, height: int, width: int) -> None:
    model, side = MODEL, SMALL.factor
    with torch.no_grad():
        mean, _ = model.moments(torch.zeros(rows, 3, height * side, width * side))
        assert mean.shape == (rows, SMALL.latent, height, width)
        assert model.decode(mean).shape == (rows, 3, height * side, width * side)


MODEL = built(SMALL)


def test_the_log_variance_stays_within_its_limits_whatever_the_weights() -> None:
    model = built(SMALL)
    with torch.no_grad():
        bias = model.encoder.leave.bias
        assert bias is not None
        bias[SMALL.latent :] = torch.tensor([1e4, -1e4, 3.0, torch.inf])
        bias[: SMALL.latent] = 1e4
        model.encoder.leave.weight.zero_()
        mean, logvar = model.moments(torch.zeros(1, 3, 8, 8))
    assert logvar[0, :, 0, 0].tolist() == [10, -20, 3, 10]
    assert (mean == 1e4).all()


def test_rows_do_not_touch_each_other() -> None:
    pixels = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        whole, _ = MODEL.moments(pixels)
        for k in range(3):
            alone, _ = MODEL.moments(pixels[k : k + 1])
            assert torch.allclose(whole[k : k + 1], alone, atol=1e-5)
            assert torch.allclose(MODEL.decode(whole)[k : k + 1], MODEL.decode(alone), atol=1e-5)


def two_pictures() -> Tensor:
    y, x = torch.meshgrid(torch.linspace(-1, 1, 16), torch.linspace(-1, 1, 16), indexing="ij")
    disc = torch.where(x * x + y * y < 0.4, 1.0, -1.0)
    return torch.stack((torch.stack((disc, -disc, x)), torch.stack((y, x, -disc))))


def test_it_learns_two_pictures_in_seconds() -> None:
    model, pictures = built(SMALL).train(), two_pictures()
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-3, fused=True)
    errors = []
    for _ in range(60):
        optimiser.zero_grad()
        error = (model.decode(model.moments(pictures)[0]) - pictures).square().mean()
        error.backward()
        optimiser.step()
        errors.append(error.item())
    assert errors[-1] < 0.2 * errors[0]
    # It tells the two apart: one decoded from the other's latent is far off.
    with torch.no_grad():
        swapped = model.decode(model.moments(pictures.flip(0))[0])
    assert float((swapped - pictures).square().mean()) > 4 * errors[-1]
