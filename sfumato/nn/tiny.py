"""A tiny autoencoder of the shape of TAESD (Boer Bohan, github.com/madebyollin/taesd): previews in milliseconds."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LIMIT = 3.0


@dataclass(frozen=True, kw_only=True)
class TinyConfig:
    """The numbers that make a TinyVae."""

    pixels: int = 3
    latent: int = 4
    width: int = 64
    blocks: tuple[int, ...] = (1, 3, 3, 3)

    @property
    def factor(self) -> int:
        """How many times smaller the latent's sides are."""
        return int(2 ** (len(self.blocks) - 1))


class TinyBlock(nn.Module):
    """Three 3 x 3 convolutions around a shortcut, ReLU after all."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.conv3 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        h = self.conv3(F.relu(self.conv2(F.relu(self.conv1(x)))))
        return F.relu(x + h)


class TinyDouble(nn.Module):
    """Double both sides by nearest neighbours, then a 3 x 3 convolution without bias."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, 2H, 2W)."""
        out: Tensor = self.conv(F.interpolate(x, scale_factor=2.0))
        return out


class TinyVae(nn.Module):
    """Both halves; the latent is the big autoencoder's, times its scale."""

    def __init__(self, config: TinyConfig) -> None:
        """Build the network of ``config``."""
        super().__init__()
        self.config = config
        width, blocks = config.width, config.blocks
        down: list[nn.Module] = [nn.Conv2d(config.pixels, width, 3, padding=1)]
        for level, count in enumerate(blocks):
            if level:
                down.append(nn.Conv2d(width, width, 3, stride=2, padding=1, bias=False))
            down += [TinyBlock(width) for _ in range(count)]
        self.down = nn.Sequential(*down, nn.Conv2d(width, config.latent, 3, padding=1))
        self.enter = nn.Conv2d(config.latent, width, 3, padding=1)
        up: list[nn.Module] = []
        for level, count in reversed(list(enumerate(blocks))):
            up += [TinyBlock(width) for _ in range(count)]
            if level:
                up.append(TinyDouble(width))
        self.up = nn.Sequential(*up)
        self.leave = nn.Conv2d(width, config.pixels, 3, padding=1)

    def encode(self, pixels: Tensor) -> Tensor:
        """The latent (B, latent, H/f, W/f) of ``pixels`` (B, C, H, W) in [-1, 1]."""
        latent: Tensor = self.down((pixels + 1) / 2)
        return latent

    def moments(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """The latent of ``pixels`` as the mean of a posterior, and its log-variance, as low as autoencoders have it."""
        latent = self.encode(pixels)
        return latent, torch.full_like(latent, -30.0)

    def decode(self, latent: Tensor) -> Tensor:
        """Pixels (B, C, f h, f w), about [-1, 1], of ``latent`` (B, latent, h, w)."""
        h = F.relu(self.enter(torch.tanh(latent / LIMIT) * LIMIT))
        out: Tensor = self.leave(self.up(h)) * 2 - 1
        return out
