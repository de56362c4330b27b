"""Decoding in strips: a decoder's own values, with no more than a strip of a feature map at work at a time.

Decoders of autoencoders normalise over the whole picture, so windows that are decoded apart and blended give other
colours. Here every layer is finished for the whole picture before the next begins: maps lie whole in a store, which may
be other memory than the network's, strips of rows are taken from it with the rows that a convolution looks at around
them, and the sums that norms need are gathered over all strips. What comes out is what the decoder gives, but for the
order in which sums are rounded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.nn.resnet import Double, ResBlock

Take = Callable[[Tensor], Tensor]
"""A layer on some rows of a map; rows beside a cut are wrong by as many as its convolutions reach."""


class Strips:
    """Runs layers over a map of the store ``keep`` by strips of ``rows`` rows on the network's device."""

    def __init__(self, rows: int, device: torch.device, keep: torch.device) -> None:
        """Take ``rows`` rows at a time to ``device``; maps stay on ``keep``."""
        self.rows, self.device, self.keep = rows, device, keep

    def cuts(self, height: int, reach: int = 1) -> Iterator[tuple[int, int, int, int]]:
        """Each strip's first row and the one after its last, and both with ``reach`` rows around where there are."""
        for first in range(0, height, self.rows):
            last = min(first + self.rows, height)
            yield first, last, max(0, first - reach), min(height, last + reach)

    def over(self, x: Tensor, layer: Take, *, scale: int = 1, reach: int = 1) -> Tensor:
        """``layer`` of every strip of ``x`` (B, C, H, W): (B, C', scale H, scale W).

        ``layer`` may look ``reach`` rows up and down, as that many 3 x 3 convolutions do, after which there are
        ``scale`` times as many.
        """
        out: Tensor | None = None
        for first, last, low, high in self.cuts(x.shape[2], reach):
            done = layer(x[:, :, low:high].to(self.device))
            done = done[:, :, scale * (first - low) : done.shape[2] - scale * (high - last)]
            if out is None:
                out = self.map(done, scale * x.shape[2])
            out[:, :, scale * first : scale * last] = done.to(self.keep)
        assert out is not None
        return out

    def map(self, like: Tensor, height: int) -> Tensor:
        """A map of ``height`` rows for strips like this one, its channels side by side as convolutions read them."""
        count, channels, _, width = like.shape
        size = (count, channels, height, width)
        return torch.empty(size, dtype=like.dtype, device=self.keep, memory_format=torch.channels_last)

    def norm(self, x: Tensor, layer: nn.GroupNorm) -> Take:
        """``layer`` (a group norm with SiLU) of rows of the whole map ``x``, whose mean and deviation are found now."""
        count, groups = x.shape[0], layer.num_groups
        wide = torch.float64 if x.dtype == torch.float64 else torch.float32
        sums = torch.zeros(2, count, groups, dtype=torch.float64)
        for first, last, _, _ in self.cuts(x.shape[2]):
            part = x[:, :, first:last].to(self.device, wide).reshape(count, groups, -1)
            mean = part.mean(2)
            # About the strip's own mean, so that squares of large values do not swallow small deviations.
            square = (part - mean[..., None]).square().mean(2) + mean.square()
            sums += part.shape[2] * torch.stack((mean, square)).to("cpu", torch.float64)
        mean, square = sums / (x[0].numel() // groups)
        root = (square - mean.square()).clamp_min(0).add(layer.eps).rsqrt()
        each = x.shape[1] // groups
        factor = root.repeat_interleave(each, 1).to(self.device, wide) * layer.weight.to(wide)
        offset = layer.bias.to(wide) - mean.repeat_interleave(each, 1).to(self.device, wide) * factor

        def take(rows: Tensor) -> Tensor:
            normed = torch.addcmul(offset[:, :, None, None], rows.to(wide), factor[:, :, None, None])
            return F.silu(normed, inplace=True).to(rows.dtype)

        return take

    def block(self, x: Tensor, layer: ResBlock) -> Tensor:
        """A residual block without a clock; ``x`` may be written over."""
        norm1 = self.norm(x, layer.norm1)
        h = self.over(x, lambda rows: layer.conv1(norm1(rows)))
        norm2 = self.norm(h, layer.norm2)
        # Rows of x are read once, by the shortcut, so the sum takes their place where it is as wide.
        out = x if layer.short is None else self.map(h, h.shape[2])
        for first, last, low, high in self.cuts(x.shape[2]):
            done = layer.conv2(norm2(h[:, :, low:high].to(self.device)))
            done = done[:, :, first - low : done.shape[2] - (high - last)]
            rows = x[:, :, first:last].to(self.device)
            rest = rows if layer.short is None else layer.short(rows)
            out[:, :, first:last] = (rest + done).to(self.keep)
        return out


def decoded(
    x: Tensor,
    layers: nn.ModuleList,
    norm: nn.GroupNorm,
    leave: nn.Conv2d,
    *,
    rows: int,
    keep: torch.device | None = None,
) -> Tensor:
    """The end of a decoder: ``leave(norm(layers(x)))`` in strips of ``rows`` rows, with the maps on ``keep``.

    ``layers`` are ResBlocks without a clock and Doubles; ``x`` (B, C, H, W) is on the device of the network, and so is
    what is returned.
    """
    strips = Strips(rows, x.device, keep or x.device)
    h = x.to(strips.keep, memory_format=torch.channels_last, copy=True)
    for layer in layers:
        if isinstance(layer, ResBlock):
            h = strips.block(h, layer)
        elif isinstance(layer, Double):
            h = strips.over(h, layer, scale=2)
        else:
            raise TypeError(f"a decoder in strips knows no layer {type(layer).__name__}")
    last = strips.norm(h, norm)
    return strips.over(h, lambda part: leave(last(part))).to(x.device)
