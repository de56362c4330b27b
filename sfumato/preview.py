"""What a picture on its way looks like: estimates shown without the work of a large decoder."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from sfumato.codec import Codec

SMALL = 20_000_000
"""Decoders of at most so many parameters are quick enough to be asked for every preview."""

SIDE, PATCHES, EACH = 128, (1, 2, 4, 8), 3
"""The pictures that a linear map is fitted on: how large, of how many patches of colour a side, how many of each."""


class Previewer:
    """Shows latents: by a ``tiny`` decoder, by the codec's own where that is small, else by a linear map.

    The map takes the channels of a latent's every place to a colour. It is fitted once, when it is first needed, on
    what the codec's encoder makes of patches of colour; its pictures are as small as the latent.
    """

    def __init__(self, codec: Codec, tiny: Codec | None = None) -> None:
        """Show latents of ``codec``; ``tiny`` is a small codec of the same latents (TAESD and its kin)."""
        module = getattr(codec, "autoencoder", None)
        large = isinstance(module, nn.Module) and sum(p.numel() for p in module.parameters()) > SMALL
        self.codec, self.decoder = codec, tiny or (None if large else codec)
        self._map: Tensor | None = None

    def __call__(self, latent: Tensor) -> NDArray[np.uint8]:
        """The first row of ``latent`` (B, C, h, w) as a picture, uint8 (H, W, 3)."""
        with torch.inference_mode():
            row = latent[:1].detach()
            if self.decoder is not None:
                pixels = self.decoder.decode(row)
            else:
                if self._map is None:
                    self._map = fitted(self.codec, row.device)
                pixels = coloured(row, self._map)
            told = (pixels[0].float().clamp(-1, 1) * 127.5 + 127.5).round().to(torch.uint8)
            shown: NDArray[np.uint8] = told.permute(1, 2, 0).cpu().numpy()
            return shown


def fitted(codec: Codec, device: torch.device | str = "cpu") -> Tensor:
    """The map (C + 1, 3) from a latent's channels, and one, to colours in [-1, 1]: the best in least squares."""
    draw = torch.Generator().manual_seed(0)
    # A third of the colours are as full as can be, white and black among them.
    patches = [(3.2 * torch.rand(EACH, 3, n, n, generator=draw) - 1.6).clamp(-1, 1) for n in PATCHES]
    pixels = torch.cat([F.interpolate(p, size=(SIDE, SIDE)) for p in patches]).to(device)
    latent = codec.encode(pixels).to("cpu", torch.float64)
    colours = F.adaptive_avg_pool2d(pixels.to("cpu", torch.float64), (latent.shape[-2], latent.shape[-1]))
    values = _with_one(latent)
    wanted = colours.movedim(1, -1).reshape(-1, 3)
    # Directions in which latents hardly differ would be given weights by rounding alone.
    found: Tensor = torch.linalg.lstsq(values, wanted, rcond=1e-4, driver="gelsd").solution
    return found


def coloured(latent: Tensor, by: Tensor) -> Tensor:
    """The colours (B, 3, h, w) of ``latent`` (B, C, h, w) by a map (C + 1, 3)."""
    count, _, height, width = latent.shape
    return (_with_one(latent.to("cpu", torch.float64)) @ by).view(count, height, width, 3).movedim(-1, 1)


def _with_one(latent: Tensor) -> Tensor:
    places = latent.movedim(1, -1).reshape(-1, latent.shape[1])
    return torch.cat((places, torch.ones_like(places[:, :1])), dim=1)
