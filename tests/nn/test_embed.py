"""The clock's sinusoid against its definition and diffusers'."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from sfumato.nn.embed import MLP, sinusoid


def test_sinusoid_is_its_definition():
    clock, width = torch.tensor([0.0, 0.25, 999.0]), 8
    found = sinusoid(clock, width)
    for b, t in enumerate(clock.tolist()):
        for i in range(4):
            angle = t * 10000 ** (-i / 4)
            assert found[b, i].item() == pytest.approx(math.cos(angle), abs=1e-4)
            assert found[b, 4 + i].item() == pytest.approx(math.sin(angle), abs=1e-4)


@pytest.mark.parametrize("cos_first", [True, False])
@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_sinusoid_is_that_of_diffusers(cos_first, shift):
    embeddings = pytest.importorskip("diffusers.models.embeddings")
    clock = torch.tensor([0, 1, 17, 999])
    want = embeddings.get_timestep_embedding(clock, 64, flip_sin_to_cos=cos_first, downscale_freq_shift=shift)
    torch.testing.assert_close(sinusoid(clock, 64, cos_first=cos_first, shift=shift), want, rtol=0, atol=1e-6)


def test_sinusoid_is_float32_whatever_the_clock():
    for clock in (torch.tensor([3]), torch.tensor([3.0], dtype=torch.float64)):
        assert sinusoid(clock, 16).dtype == torch.float32


def test_mlp():
    mlp, x = MLP(4, 6).double(), torch.randn(3, 4, dtype=torch.float64)
    hidden = x @ mlp.first.weight.T + mlp.first.bias
    torch.testing.assert_close(mlp(x), F.silu(hidden) @ mlp.second.weight.T + mlp.second.bias)
