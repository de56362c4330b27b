"""The objective of an autoencoder: absolute and perceptual error, KL, and equivariance of the latent.

Equivariance (Kouzelis et al. 2025, equation 5): shrunken or turned latents must decode to shrunken or turned
pictures, which makes the latent space smoother and the diffusion model on it quicker to learn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sfumato.nn.autoencoder import Autoencoder, draw, kl_to_normal
from sfumato.train.augment import compose, jitter
from sfumato.train.loop import Loss


@dataclass(frozen=True, kw_only=True)
class CodecWeights:
    """How much each term of the codec's loss counts, and how often the latent is transformed."""

    kl: float = 1.5e-3
    perceptual: float = 0.15
    edges: float = 0.5
    equivariance: float = 0.3


Perceptual = Callable[[Tensor, Tensor], Tensor]


class CodecObjective:
    """Reconstruct cut-out pictures on coloured backgrounds."""

    def __init__(
        self,
        module: Autoencoder,
        pictures: Tensor,
        colours: Tensor,
        weights: CodecWeights,
        perceptual: Perceptual | None,
    ) -> None:
        """Train ``module`` on ``pictures`` (N, 4, H, W) uint8 laid on ``colours`` (K, 3) uint8.

        ``perceptual(a, b)`` compares two batches of pictures in [-1, 1] and returns one number.
        """
        self.module, self.pictures, self.colours = module, pictures, colours
        self.weights, self.perceptual = weights, perceptual

    def loss(self, step: int, size: int, generator: torch.Generator) -> Loss:
        """The loss of ``size`` random pictures."""
        rows = torch.randint(len(self.pictures), (size,), generator=generator)
        ground = self.colours[torch.randint(len(self.colours), (size,), generator=generator)]
        theta = jitter(size, generator, most=0.25, flip=torch.ones(size, dtype=torch.bool))
        weight = next(self.module.parameters())
        dtype, device = weight.dtype, weight.device
        target = compose(self.pictures[rows], ground, theta).to(device)
        x = target.to(dtype).contiguous(memory_format=torch.channels_last)
        mean, logvar = (m.to(torch.float32) for m in self.module.moments(x))
        latent = draw(mean, logvar, torch.randn(mean.shape, generator=generator).to(device))
        if torch.rand((), generator=generator) < self.weights.equivariance:
            latent, target = self.transform(latent, target, generator)
        out = self.module.decode(latent.to(dtype).contiguous(memory_format=torch.channels_last))
        out = out.to(torch.float32)
        absolute, edges = (out - target).abs().mean(), edge_error(out, target)
        kl = kl_to_normal(mean, logvar)
        value = absolute + self.weights.edges * edges + self.weights.kl * kl
        figures = {"absolute": absolute.detach(), "edges": edges.detach(), "kl": kl.detach()}
        if self.perceptual is not None:
            distance = self.perceptual(*crop(out, target, 64, generator))
            value = value + self.weights.perceptual * distance
            figures["perceptual"] = distance.detach()
        return Loss(value=value, figures=figures)

    def transform(self, latent: Tensor, target: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Shrink or turn latents and pictures alike."""
        if torch.rand((), generator=generator) < 0.5:
            turns = int(torch.randint(1, 4, (), generator=generator))
            return latent.rot90(turns, (2, 3)), target.rot90(turns, (2, 3))
        side = int(torch.randint(latent.shape[-1] // 2, latent.shape[-1], (), generator=generator))
        factor = self.module.config.factor
        return (
            F.interpolate(latent, size=(side, side), mode="bilinear", antialias=True, align_corners=False),
            F.interpolate(
                target, size=(side * factor,) * 2, mode="bilinear", antialias=True, align_corners=False
            ),
        )


def crop(a: Tensor, b: Tensor, side: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The same random square of both pictures, at most ``side`` wide."""
    height, width = a.shape[-2:]
    top = int(torch.randint(max(1, height - side + 1), (), generator=generator))
    left = int(torch.randint(max(1, width - side + 1), (), generator=generator))
    place = (..., slice(top, top + side), slice(left, left + side))
    return a[place], b[place]


def edge_error(a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute error of horizontal and vertical differences: keeps lines sharp."""
    difference = a - b
    across = (difference[..., 1:] - difference[..., :-1]).abs().mean()
    down = (difference[..., 1:, :] - difference[..., :-1, :]).abs().mean()
    return across + down
