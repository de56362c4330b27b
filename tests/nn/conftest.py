"""diffusers' clocks with float64's digits, as ours have them; theirs compute sinusoids in float32 whatever they get."""

from __future__ import annotations

import math

import pytest
import torch
from diffusers.models.embeddings import Timesteps
from torch import Tensor


@pytest.fixture(autouse=True)
def exact_clocks(monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(self: Timesteps, timesteps: Tensor) -> Tensor:
        half = self.num_channels // 2
        index = torch.arange(half, dtype=torch.float64) / (half - self.downscale_freq_shift)
        angle = self.scale * timesteps[:, None].double() * torch.exp(-math.log(10000) * index)
        pair = (angle.cos(), angle.sin()) if self.flip_sin_to_cos else (angle.sin(), angle.cos())
        return torch.cat(pair, dim=-1)

    monkeypatch.setattr(Timesteps, "forward", forward)
