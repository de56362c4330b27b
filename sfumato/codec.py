"""Codecs: between pixels and what the diffusion runs on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

LARGE = 1536 * 1536
"""Pictures of more pixels are decoded in strips (see nn.strips)."""
ROWS = 64
"""The rows of a strip."""
NO_ROOM = "the picture was decoded in strips: the device has no memory for all of it"


class Codec(Protocol):
    """Pixels (B, 3, H, W) in [-1, 1] to latents and back; latents come normalised to about unit variance."""

    def encode(self, pixels: Tensor) -> Tensor:
        """The latent of ``pixels``, (B, C, h, w), float32 or float64."""
        ...

    def decode(self, latent: Tensor) -> Tensor:
        """Pixels in [-1, 1] of ``latent``, float32 or float64."""
        ...

    def shape(self, height: int, width: int) -> tuple[int, ...]:
        """The shape of one latent for a picture of this size."""
        ...


class Autoencoding(Protocol):
    """An autoencoder as a codec needs it: a module of sfumato.nn."""

    config: Any

    def moments(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the latent of ``pixels``."""
        ...

    def decode(self, latent: Tensor) -> Tensor:
        """Pixels of ``latent``."""
        ...


class Latent:
    """An autoencoder whose latent is normalised per channel: z = (mean of the posterior - mean) / std.

    Results are float32, or float64 where the autoencoder computes in that, on the device of what was given. In float16
    some autoencoders overflow on some pictures (Stable Diffusion XL's is known for it): the first time that happens
    this one is turned to float32 for good, the call is repeated, and ``notes`` says so.
    """

    def __init__(self, autoencoder: Autoencoding, mean: Tensor, std: Tensor) -> None:
        """Wrap ``autoencoder``; ``mean`` and ``std`` are (C,), measured on the training pictures, or (1,)."""
        self.autoencoder = autoencoder
        self.mean, self.std = mean.view(1, -1, 1, 1), std.view(1, -1, 1, 1)
        self.notes: list[str] = []

    def encode(self, pixels: Tensor) -> Tensor:
        """The normalised posterior mean, (B, C, H/f, W/f)."""
        raw = self._safe(lambda x: self.autoencoder.moments(x)[0], pixels, "encoding")
        return ((raw - self.mean.to(raw)) / self.std.to(raw)).to(pixels.device)

    def decode(self, latent: Tensor) -> Tensor:
        """Pixels, limited to [-1, 1]."""
        wide = latent.to(torch.promote_types(latent.dtype, _outer(self._weight.dtype)))
        raw = wide * self.std.to(wide) + self.mean.to(wide)
        return self._safe(self._decoder(raw), raw, "decoding").clamp(-1, 1).to(latent.device)

    def _decoder(self, latent: Tensor) -> Callable[[Tensor], Tensor]:
        """How a latent of this size is decoded: large ones, and those that are too large for the device, in strips.

        Not where somebody differentiates it: that needs all maps anyway.
        """
        strips = getattr(self.autoencoder, "decode_in_strips", None)
        if strips is None or (torch.is_grad_enabled() and latent.requires_grad):
            return self.autoencoder.decode

        def decode(x: Tensor) -> Tensor:
            keep = None
            if latent.shape[-2] * latent.shape[-1] * self.autoencoder.config.factor**2 <= LARGE:
                try:
                    return self.autoencoder.decode(x)
                except torch.OutOfMemoryError:
                    keep = torch.device("cpu")
                if NO_ROOM not in self.notes:
                    self.notes.append(NO_ROOM)
            # Not inside of the except clause, where the error's frames still hold the maps of the first attempt.
            return torch.cat([strips(row, ROWS, keep) for row in torch.split(x, 1)])

        return decode

    def shape(self, height: int, width: int) -> tuple[int, ...]:
        """The shape of one latent."""
        config = self.autoencoder.config
        return config.latent, height // config.factor, width // config.factor

    @property
    def _weight(self) -> Tensor:
        module = self.autoencoder
        assert isinstance(module, nn.Module)
        return next(module.parameters())

    def _safe(self, half: Callable[[Tensor], Tensor], x: Tensor, doing: str) -> Tensor:
        """``half`` of ``x`` in the autoencoder's dtype; in float32 from then on if float16 overflows."""
        out = half(self._inner(x))
        if self._weight.dtype == torch.float16 and x.isfinite().all() and not out.isfinite().all():
            module = self.autoencoder
            assert isinstance(module, nn.Module)
            module.to(torch.float32)
            self.notes.append(
                f"the autoencoder overflowed float16 in {doing} and runs in float32 from then on"
            )
            out = half(self._inner(x))
        return out.to(_outer(out.dtype))

    def _inner(self, x: Tensor) -> Tensor:
        return x.to(self._weight.device, self._weight.dtype).contiguous(memory_format=torch.channels_last)


def _outer(dtype: torch.dtype) -> torch.dtype:
    """The dtype of what comes out of a network that computes in ``dtype``: float32 at the least."""
    return torch.promote_types(dtype, torch.float32)


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
