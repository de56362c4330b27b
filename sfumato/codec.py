"""Codecs: between pixels and what the diffusion runs on."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from sfumato.nn.autoencoder import Autoencoder


class Codec(Protocol):
    """Pixels (B, 3, H, W) in [-1, 1] to latents and back; latents come normalised to about unit variance."""

    def encode(self, pixels: Tensor) -> Tensor:
        """The latent of ``pixels``, (B, C, h, w) float32."""
        ...

    def decode(self, latent: Tensor) -> Tensor:
        """Pixels in [-1, 1] of ``latent``, float32."""
        ...

    def shape(self, height: int, width: int) -> tuple[int, ...]:
        """The shape of one latent for a picture of this size."""
        ...


class Latent:
    """An autoencoder whose latent is normalised per channel: z = (mean of the posterior - mean) / std."""

    def __init__(self, autoencoder: Autoencoder, mean: Tensor, std: Tensor) -> None:
        """Wrap ``autoencoder``; ``mean`` and ``std`` are (C,), measured on the training pictures."""
        self.autoencoder = autoencoder
        self.mean, self.std = mean.view(1, -1, 1, 1), std.view(1, -1, 1, 1)

    def encode(self, pixels: Tensor) -> Tensor:
        """The normalised posterior mean, (B, C, H/f, W/f) float32."""
        mean, _ = self.autoencoder.moments(self._inner(pixels))
        return (mean.to(torch.float32) - self.mean) / self.std

    def decode(self, latent: Tensor) -> Tensor:
        """Pixels, limited to [-1, 1]."""
        raw = self.autoencoder.decode(self._inner(latent * self.std + self.mean))
        return raw.to(torch.float32).clamp(-1, 1)

    def shape(self, height: int, width: int) -> tuple[int, ...]:
        """The shape of one latent."""
        config = self.autoencoder.config
        return config.latent, height // config.factor, width // config.factor

    def _inner(self, x: Tensor) -> Tensor:
        weight = next(self.autoencoder.parameters())
        return x.to(weight.device, weight.dtype).contiguous(memory_format=torch.channels_last)


class Identity:
    """No codec: the diffusion runs on values of a fixed shape, which are their own pixels."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        """Rows of ``shape``."""
        self._shape = shape

    def encode(self, pixels: Tensor) -> Tensor:
        """The same values."""
        return pixels

    def decode(self, latent: Tensor) -> Tensor:
        """The same values."""
        return latent

    def shape(self, height: int, width: int) -> tuple[int, ...]:
        """The fixed shape."""
        return self._shape


class Pixels:
    """No autoencoder: the diffusion runs on the pixels themselves, of one size, grey or in colour."""

    def __init__(self, channels: int, height: int, width: int) -> None:
        """Pictures of ``channels`` (1 grey, 3 colour) and one size."""
        self._shape = (channels, height, width)

    def encode(self, pixels: Tensor) -> Tensor:
        """Pixels (B, 3, H, W) in [-1, 1], averaged over the colours if grey."""
        return pixels.mean(1, keepdim=True) if self._shape[0] == 1 else pixels

    def decode(self, latent: Tensor) -> Tensor:
        """Pixels (B, 3, H, W), limited to [-1, 1]; grey in all three colours."""
        return latent.expand(-1, 3, -1, -1).clamp(-1, 1)

    def shape(self, height: int, width: int) -> tuple[int, ...]:
        """The one shape."""
        return self._shape
