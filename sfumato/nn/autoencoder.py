"""A small convolutional variational autoencoder for pictures (Kingma & Welling 2014; Rombach et al. 2022).

Pixels are first folded into channels (``fold`` x ``fold`` of them), so that no convolution runs at full
resolution; each level below halves the sides once more. With fold 2 and three widths the latent's sides are
8 times smaller than the picture's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.nn.resnet import Double, GroupNormSiLU, Halve, ResBlock
from sfumato.nn.strips import decoded


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig:
    """The numbers that make an Autoencoder; ``widths`` are given from the finest level to the coarsest."""

    pixels: int = 3
    latent: int = 8
    fold: int = 2
    encoder: tuple[int, ...] = (64, 128, 192)
    decoder: tuple[int, ...] = (64, 128, 192)
    encoder_blocks: int = 1
    decoder_blocks: int = 2
    groups: int = 16

    @property
    def factor(self) -> int:
        """How many times smaller the latent's sides are."""
        return int(self.fold * 2 ** (len(self.encoder) - 1))


class Encoder(nn.Module):
    """Pixels (B, C, H, W) -> mean and log-variance of the latent, (B, 2 latent, H/f, W/f)."""

    def __init__(self, config: AutoencoderConfig) -> None:
        """Build the encoder of ``config``."""
        super().__init__()
        widths, groups = config.encoder, config.groups
        self.fold = config.fold
        self.enter = nn.Conv2d(config.pixels * config.fold**2, widths[0], 3, padding=1)
        layers: list[nn.Module] = []
        for level, width in enumerate(widths):
            if level:
                layers.append(Halve(widths[level - 1], width))
            layers += [ResBlock(width, width, groups=groups) for _ in range(config.encoder_blocks)]
        layers.append(ResBlock(widths[-1], widths[-1], groups=groups))
        self.layers = nn.ModuleList(layers)
        self.norm = GroupNormSiLU(groups, widths[-1])
        self.leave = nn.Conv2d(widths[-1], 2 * config.latent, 3, padding=1)

    def forward(self, pixels: Tensor) -> Tensor:
        """Map pixels in [-1, 1] to the latent's moments."""
        h = self.enter(F.pixel_unshuffle(pixels, self.fold))
        for layer in self.layers:
            h = layer(h)
        out: Tensor = self.leave(self.norm(h))
        return out


class Decoder(nn.Module):
    """Latent (B, latent, h, w) -> pixels (B, C, f h, f w)."""

    def __init__(self, config: AutoencoderConfig) -> None:
        """Build the decoder of ``config``."""
        super().__init__()
        widths, groups = config.decoder, config.groups
        self.fold = config.fold
        self.enter = nn.Conv2d(config.latent, widths[-1], 3, padding=1)
        layers: list[nn.Module] = [ResBlock(widths[-1], widths[-1], groups=groups)]
        for level in reversed(range(len(widths))):
            width = widths[level]
            layers += [ResBlock(width, width, groups=groups) for _ in range(config.decoder_blocks)]
            if level:
                layers.append(Double(width, widths[level - 1]))
        self.layers = nn.ModuleList(layers)
        self.norm = GroupNormSiLU(groups, widths[0])
        self.leave = nn.Conv2d(widths[0], config.pixels * config.fold**2, 3, padding=1)

    def forward(self, latent: Tensor) -> Tensor:
        """Map a latent to pixels in about [-1, 1]."""
        h = self.enter(latent)
        for layer in self.layers:
            h = layer(h)
        return F.pixel_shuffle(self.leave(self.norm(h)), self.fold)

    def in_strips(self, latent: Tensor, rows: int, keep: torch.device | None = None) -> Tensor:
        """``forward`` with no more than ``rows`` rows of a map at work at a time (nn.strips); for inference."""
        h = decoded(self.enter(latent), self.layers, self.norm, self.leave, rows=rows, keep=keep)
        return F.pixel_shuffle(h, self.fold)


class Autoencoder(nn.Module):
    """Encoder and decoder with a Gaussian posterior between."""

    def __init__(self, config: AutoencoderConfig) -> None:
        """Build both halves of ``config``."""
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    def moments(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the latent of ``pixels`` (B, C, H, W), each (B, latent, H/f, W/f)."""
        mean, logvar = self.encoder(pixels).chunk(2, dim=1)
        return mean, logvar.clamp(-20, 10)

    def decode(self, latent: Tensor) -> Tensor:
        """Pixels of ``latent`` (B, latent, h, w)."""
        out: Tensor = self.decoder(latent)
        return out

    def decode_in_strips(self, latent: Tensor, rows: int, keep: torch.device | None = None) -> Tensor:
        """``decode`` in strips of ``rows`` rows, maps on the device ``keep``; for inference."""
        return self.decoder.in_strips(latent, rows, keep)


def kl_to_normal(mean: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mean, e^logvar) || N(0, 1)) averaged over all values, in nats (Kingma & Welling 2014, app. B)."""
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()


def draw(mean: Tensor, logvar: Tensor, noise: Tensor) -> Tensor:
    """The posterior's sample ``mean + std * noise``."""
    return torch.addcmul(mean, (0.5 * logvar).exp(), noise)
