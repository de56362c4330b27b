"""Decoding in strips gives what decoding gives: every way to cut, both autoencoders, a device without memory."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import sfumato.codec
from sfumato.codec import Latent
from sfumato.nn.autoencoder import Autoencoder, AutoencoderConfig
from sfumato.nn.vae import Vae, VaeConfig


def redrawn(net: nn.Module) -> nn.Module:
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in net.parameters():
            values = 0.3 * torch.randn(value.shape, generator=draw, dtype=torch.float64)
            value.copy_(values + (value.ndim == 1))
    return net.double().eval()


NETS = {
    "vae": redrawn(Vae(VaeConfig(latent=4, widths=(8, 8, 16), blocks=1, groups=4))),
    "autoencoder": redrawn(
        Autoencoder(AutoencoderConfig(latent=4, encoder=(8, 16), decoder=(8, 16), groups=4))
    ),
}


@pytest.mark.parametrize("name", NETS)
@settings(max_examples=25, deadline=None)
@given(rows=st.integers(1, 40), height=st.integers(1, 9), width=st.integers(1, 6), count=st.integers(1, 2))
def test_any_strips_give_the_whole(name: str, rows: int, height: int, width: int, count: int) -> None:
    net = NETS[name]
    draw = torch.Generator().manual_seed(height * 100 + width)
    latent = 3 + torch.randn(count, 4, height, width, generator=draw, dtype=torch.float64)
    with torch.inference_mode():
        whole, strips = net.decode(latent), net.decode_in_strips(latent, rows)
    assert strips.shape == whole.shape
    assert float((strips - whole).abs().max()) <= 1e-9 * float(whole.abs().max())


def test_in_float32_they_agree_to_its_rounding() -> None:
    net = redrawn(Vae(VaeConfig(latent=4, widths=(8, 8, 16), blocks=1, groups=4))).float()
    latent = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        whole, strips = net.decode(latent).double(), net.decode_in_strips(latent, 5).double()
    assert float((strips - whole).abs().max() / whole.square().mean().sqrt()) < 1e-5


def test_in_bfloat16_strips_are_as_near_to_the_truth_as_the_whole() -> None:
    exact = redrawn(Vae(VaeConfig(latent=4, widths=(8, 8, 16), blocks=1, groups=4)))
    latent = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0)).bfloat16()
    with torch.inference_mode():
        truth = exact.double().decode(latent.double())
        half = exact.bfloat16()
        far = [
            float((made.double() - truth).square().mean().sqrt())
            for made in (half.decode_in_strips(latent, 5), half.decode(latent))
        ]
    assert far[0] < 1.2 * far[1]


def codec() -> Latent:
    return Latent(NETS["vae"], torch.zeros(1), torch.ones(1))  # type: ignore[arg-type]


def test_large_latents_go_in_strips_and_small_ones_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(sfumato.codec, "LARGE", 32 * 32)
    monkeypatch.setattr(
        NETS["vae"],
        "decode_in_strips",
        lambda x, rows, keep=None: seen.append(x.shape) or NETS["vae"].decode(x),
    )
    with torch.inference_mode():
        codec().decode(torch.zeros(2, 4, 8, 8))
        assert seen == []
        codec().decode(torch.zeros(2, 4, 8, 9))
        assert seen == [(1, 4, 8, 9)] * 2


def test_a_device_without_memory_decodes_in_strips_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """And what the first attempt held is free by then; told once, however many pictures are decoded."""
    latent = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    held: list[weakref.ref[torch.Tensor]] = []
    strips = NETS["vae"].decode_in_strips

    def full(x: torch.Tensor) -> torch.Tensor:
        first_maps = torch.zeros(9)
        held.append(weakref.ref(first_maps))
        raise torch.OutOfMemoryError("no memory")

    def later(*given: Any) -> torch.Tensor:
        assert held[-1]() is None
        return strips(*given)

    with torch.inference_mode():
        wanted = codec().decode(latent)
        monkeypatch.setattr(NETS["vae"], "decode", full)
        monkeypatch.setattr(NETS["vae"], "decode_in_strips", later)
        short = codec()
        for _ in range(2):
            assert torch.allclose(short.decode(latent), wanted, atol=1e-9)
    assert short.notes == [sfumato.codec.NO_ROOM]


def test_what_is_differentiated_is_decoded_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sfumato.codec, "LARGE", 1)
    latent = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    latent.requires_grad_()
    codec().decode(latent).sum().backward()
    assert float(latent.grad.abs().sum()) > 0  # type: ignore[union-attr]
