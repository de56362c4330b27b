"""Embeddings of scalars: the clock of a diffusion network and what is added to it."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def sinusoid(
    clock: Tensor,
    width: int,
    *,
    max_period: float = 10000.0,
    cos_first: bool = True,
    shift: float = 0.0,
    like: Tensor | None = None,
) -> Tensor:
    """Sinusoidal features of ``clock`` (B,) -> (B, width), float32 (Vaswani et al. 2017, section 3.5).

    With ``like`` they are of its dtype, rounded from float64: an angle of some thousands has few digits in float32.

    Frequencies are ``max_period ** (-i / (width/2 - shift))``, i = 0 .. width/2 - 1. ``cos_first`` puts the
    cosines before the sines, as Stable Diffusion does; DDPM's CIFAR-10 network has sines first and shift 1.
    """
    half = width // 2
    dtype = torch.float32 if like is None else torch.float64
    index = torch.arange(half, dtype=dtype, device=clock.device)
    frequency = torch.exp(-math.log(max_period) * index / (half - shift))
    angle = clock.to(dtype)[:, None] * frequency[None]
    pair = (angle.cos(), angle.sin()) if cos_first else (angle.sin(), angle.cos())
    return torch.cat(pair, dim=1).to(dtype if like is None else like.dtype)


class MLP(nn.Module):
    """Two linear layers with SiLU between: (B, inner) -> (B, outer)."""

    def __init__(self, inner: int, outer: int) -> None:
        """Build the layers ``inner -> outer -> outer``."""
        super().__init__()
        self.first = nn.Linear(inner, outer)
        self.second = nn.Linear(outer, outer)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` (B, inner) to (B, outer)."""
        out: Tensor = self.second(nn.functional.silu(self.first(x)))
        return out
