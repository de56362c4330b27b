"""The autoencoder of latent diffusion (Rombach et al. 2022, appendix G.1), as Stable Diffusion and FLUX have it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sfumato.nn.attention import SpatialAttention
from sfumato.nn.resnet import Double, GroupNormSiLU, Halve, ResBlock
from sfumato.nn.strips import decoded

EPS = 1e-6


@dataclass(frozen=True, kw_only=True)
class VaeConfig:
    """The numbers that make a Vae; ``widths`` go from the finest level to the coarsest.

    ``quant`` is whether 1 x 1 convolutions lie between both halves and the latent (not in Stable Diffusion 3's and
    FLUX's).
    """

    pixels: int = 3
    latent: int = 4
    widths: tuple[int, ...] = (128, 256, 512, 512)
    blocks: int = 2
    groups: int = 32
    quant: bool = True

    @property
    def factor(self) -> int:
        """How many times smaller the latent's sides are."""
        return int(2 ** (len(self.widths) - 1))


class VaeEncoder(nn.Module):
    """Pixels (B, C, H, W) -> mean and log-variance of the latent, (B, 2 latent, H/f, W/f)."""

    def __init__(self, config: VaeConfig) -> None:
        """Build the encoder of ``config``."""
        super().__init__()
        widths, groups = config.widths, config.groups
        self.enter = nn.Conv2d(config.pixels, widths[0], 3, padding=1)
        self.down = nn.ModuleList()
        width = widths[0]
        for level, wanted in enumerate(widths):
            for _ in range(config.blocks):
                self.down.append(ResBlock(width, wanted, groups=groups, eps=EPS))
                width = wanted
            if level < len(widths) - 1:
                self.down.append(Halve(width, pad=0))
        self.middle = Middle(width, groups)
        self.norm = GroupNormSiLU(groups, width, EPS)
        self.leave = nn.Conv2d(width, 2 * config.latent, 3, padding=1)

    def forward(self, pixels: Tensor) -> Tensor:
        """Map pixels in [-1, 1] to the latent's moments."""
        h = self.enter(pixels)
        for layer in self.down:
            h = layer(h)
        out: Tensor = self.leave(self.norm(self.middle(h)))
        return out


class VaeDecoder(nn.Module):
    """Latent (B, latent, h, w) -> pixels (B, C, f h, f w)."""

    def __init__(self, config: VaeConfig) -> None:
        """Build the decoder of ``config``."""
        super().__init__()
        widths, groups = config.widths, config.groups
        width = widths[-1]
        self.enter = nn.Conv2d(config.latent, width, 3, padding=1)
        self.middle = Middle(width, groups)
        self.up = nn.ModuleList()
        for level in reversed(range(len(widths))):
            for _ in range(config.blocks + 1):
                self.up.append(ResBlock(width, widths[level], groups=groups, eps=EPS))
                width = widths[level]
            if level:
                self.up.append(Double(width))
        self.norm = GroupNormSiLU(groups, width, EPS)
        self.leave = nn.Conv2d(width, config.pixels, 3, padding=1)

    def in_strips(self, latent: Tensor, rows: int, keep: torch.device | None = None) -> Tensor:
        """``forward`` with no more than ``rows`` rows of a map at work at a time (nn.strips); for inference."""
        h = self.middle(self.enter(latent))
        return decoded(h, self.up, self.norm, self.leave, rows=rows, keep=keep)

    def forward(self, latent: Tensor) -> Tensor:
        """Map a latent to pixels in about [-1, 1]."""
        h = self.middle(self.enter(latent))
        for layer in self.up:
            h = layer(h)
        out: Tensor = self.leave(self.norm(h))
        return out


class Middle(nn.Module):
    """Residual block, attention with one head, residual block."""

    def __init__(self, width: int, groups: int) -> None:
        """Build the three for ``width`` channels."""
        super().__init__()
        self.before = ResBlock(width, width, groups=groups, eps=EPS)
        self.look = SpatialAttention(width, 1, groups=groups, eps=EPS)
        self.after = ResBlock(width, width, groups=groups, eps=EPS)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        out: Tensor = self.after(self.look(self.before(x)))
        return out


class Vae(nn.Module):
    """Encoder and decoder with a Gaussian posterior between."""

    def __init__(self, config: VaeConfig) -> None:
        """Build both halves of ``config``."""
        super().__init__()
        self.config = config
        self.encoder = VaeEncoder(config)
        self.decoder = VaeDecoder(config)
        self.into = nn.Conv2d(2 * config.latent, 2 * config.latent, 1) if config.quant else nn.Identity()
        self.out_of = nn.Conv2d(config.latent, config.latent, 1) if config.quant else nn.Identity()

    def moments(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the latent of ``pixels`` (B, C, H, W) in [-1, 1], each (B, latent, H/f, W/f)."""
        mean, logvar = self.into(self.encoder(pixels)).chunk(2, dim=1)
        return mean, logvar.clamp(-30, 20)

    def decode(self, latent: Tensor) -> Tensor:
        """Pixels (B, C, f h, f w) of ``latent`` (B, latent, h, w), about [-1, 1]."""
        out: Tensor = self.decoder(self.out_of(latent))
        return out

    def decode_in_strips(self, latent: Tensor, rows: int, keep: torch.device | None = None) -> Tensor:
        """``decode`` in strips of ``rows`` rows, maps on the device ``keep``; for inference."""
        return self.decoder.in_strips(self.out_of(latent), rows, keep)
