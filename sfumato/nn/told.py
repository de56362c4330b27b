"""What a network's layers are told for a call (see sfumato.manner), and how attention and convolutions follow it.

Everything here is called only where something was told: a call without a manner and regions takes the usual way.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sfumato.manner import FLAT, Manner
from sfumato.nn.attend import attend

EPS = 1e-5


@dataclass(frozen=True, eq=False)
class Told:
    """The manner of a call, and the regions of its rows: ``regions`` (B, R, H, W) and ``owner`` (B, S) as in Cond.

    ``counts`` (B, S) is True at the tokens of a text that count, or how often each does, where text and picture are
    one row; None where all count once.
    """

    manner: Manner
    regions: Tensor | None = None
    owner: Tensor | None = None
    counts: Tensor | None = None

    def at(self, number: int, sides: tuple[int, int]) -> Place:
        """What the attention layer of this ``number`` is told, over a picture of ``sides`` places."""
        return Place(self, number, sides)

    @property
    def wrap(self) -> tuple[bool, bool] | None:
        """The axes over which convolutions go on from the other edge; None for none."""
        return self.manner.wrap if any(self.manner.wrap) else None


def told_of(
    manner: Manner | None, regions: Tensor | None, owner: Tensor | None, counts: Tensor | None = None
) -> Told | None:
    """What a network passes to its layers; None where nothing is other than usual."""
    if manner is None and regions is None and counts is None:
        return None
    return Told(manner or Manner(), regions, owner, counts)


@dataclass(frozen=True, eq=False)
class Place:
    """What one attention layer is told. Rows of tokens are text first, ``text`` of them, then the picture's places."""

    told: Told
    number: int
    sides: tuple[int, int]

    @property
    def skipped(self) -> bool:
        """Whether the layer hands on what it is given."""
        return self.number in self.told.manner.skip

    def blurred(self, query: Tensor, text: int = 0) -> Tensor:
        """``query`` (B, L, ...) as projected, before any norm, blurred over the picture if this layer is to smooth.

        (Hong 2024.) The Gaussian is cut at three deviations and at the picture's size, and
        reflected at the edges, as in the author's code; from FLAT on it is the mean of all places.
        """
        manner = self.told.manner
        if self.number not in manner.smooth:
            return query
        end = text + self.sides[0] * self.sides[1]
        rows = query[:, text:end].flatten(2)
        if manner.blur >= FLAT:
            rows = rows.mean(1, keepdim=True).expand_as(rows)
        else:
            maps = rows.transpose(1, 2).reshape(len(rows), -1, *self.sides)
            for axis in (2, 3):
                maps = _smooth(maps, manner.blur, axis)
            rows = maps.flatten(2).transpose(1, 2)
        rows = rows.reshape(*rows.shape[:2], *query.shape[2:])
        return torch.cat((query[:, :text], rows, query[:, end:]), dim=1)

    def aligned(self, query: Tensor, key: Tensor, text: int = 0) -> tuple[Tensor, Tensor]:
        """Queries and keys (B, L, H, d) of the first half of the rows with mean and deviation of the second's.

        (Huang & Belongie 2017, equation 8, over the picture's places; Hertz et al. 2024, section 3.2.)
        """
        manner = self.told.manner
        if self.number not in manner.share or not manner.align:
            return query, key
        return _adapted(query, text), _adapted(key, text)

    def look(self, query: Tensor, key: Tensor, value: Tensor, text: int = 0) -> Tensor:
        """Attention of a row of tokens on itself, (B, L, H, d) each, to (B, L, H d)."""
        manner = self.told.manner
        mask = self._joint(query.shape[1], text) if text else None
        if self.number in manner.identity:
            if not text:
                return value.flatten(2)
            alone = torch.eye(query.shape[1], dtype=torch.bool, device=query.device)
            alone[:text] = alone[:, :text] = True
            return attend(query, key, value, alone[None] if mask is None else _where(alone, mask))
        if self.number in manner.share:
            return self._shared(query, key, value, text)
        return attend(query, key, value, mask)

    def _shared(self, query: Tensor, key: Tensor, value: Tensor, text: int) -> Tensor:
        """The first half of the rows also looks at the places of the second (Hertz et al. 2024, section 3.2)."""
        half, manner = len(query) // 2, self.told.manner
        kept = slice(None) if manner.own else slice(0, text)
        keys, values = (torch.cat((part[:half, kept], part[half:, text:]), dim=1) for part in (key, value))
        counts = self._counting(key.shape[1]) if text else None
        mask = rest = weights = None
        if counts is not None:
            mask = torch.cat((counts[:half, :, kept], counts[half:, :, text:]), dim=2)
            rest = counts[half:]
        if manner.own and manner.weight != 1:
            weights = keys.new_zeros(1, 1, keys.shape[1])
            weights[..., key.shape[1] :] = math.log(manner.weight) if manner.weight else -math.inf
            if mask is not None:
                weights = (
                    torch.where(mask, weights, -math.inf) if mask.dtype == torch.bool else weights + mask
                )
        first = attend(query[:half], keys, values, mask if weights is None else weights)
        return torch.cat((first, attend(query[half:], key[half:], value[half:], rest)))

    def seen(self, mask: Tensor | None) -> Tensor | None:
        """Which of the text's tokens the picture's places see: (B, L, S) bool, or ``mask`` (B, S) without regions.

        A place of the layer sees a region's tokens if any of the latents under it do, and all tokens if it lies in no
        region.
        """
        regions, owner = self.told.regions, self.told.owner
        if regions is None or owner is None:
            return mask
        inside = F.adaptive_max_pool2d(regions.float(), self.sides).flatten(2).transpose(1, 2) > 0
        open_ = inside.gather(2, owner[:, None, :].expand(-1, inside.shape[1], -1))
        if mask is not None:
            open_ = open_ & mask[:, None, :]
        rest = torch.ones_like(open_) if mask is None else mask[:, None, :].expand_as(open_)
        return torch.where(open_.any(-1, keepdim=True), open_, rest)

    def _counting(self, length: int) -> Tensor | None:
        """Which of a joint row's ``length`` tokens and places count, (B, 1, L) bool; None for all.

        Where numbers say how often, their logarithms, to be added to scores: ``w exp(s) = exp(s + log w)``.
        """
        counts = self.told.counts
        if counts is None:
            return None
        whole = F.pad(counts, (0, length - counts.shape[1]), value=1)[:, None]
        return whole if whole.dtype == torch.bool else whole.log()

    def _joint(self, length: int, text: int) -> Tensor | None:
        """The mask (B, L or 1, L) of text and picture in one row: tokens see those of their own region and its places.

        Of the text only what counts; None for all. What stands behind the picture (a reference, what fills the row)
        sees the words of the first region, so that no others come to the picture through it.
        """
        counts, owner = self._counting(length), self.told.owner
        told = self.told.counts
        seen = self.seen(None if told is None else told > 0)
        if self.told.regions is None or seen is None or owner is None:
            return counts
        mask = seen.new_ones(len(seen), length, length)
        end = text + seen.shape[1]
        mask[:, :text, :text] = owner[:, :, None] == owner[:, None, :]
        mask[:, text:end, :text] = seen
        mask[:, :text, text:end] = seen.transpose(1, 2)
        mask[:, end:, :text] = owner[:, None, :] == 0
        return mask if counts is None else _where(mask, counts)


def _where(open_: Tensor, counts: Tensor) -> Tensor:
    """The mask of what is both ``open_``, which is bool, and counts; ``counts`` is bool or added to scores."""
    return open_ & counts if counts.dtype == torch.bool else torch.where(open_, counts, -math.inf)


def around(layer: Callable[[Tensor], Tensor], x: Tensor, wrap: tuple[bool, bool], stride: int = 1) -> Tensor:
    """A 3x3 convolution of ``x`` (B, C, H, W) that goes on from the other edge along the axes of ``wrap``.

    ``layer`` pads with zeros itself: it is given more, and what its zeros touch is cut away. ``stride`` is its own, 1
    or 2; with 2 the sides of a wrapped axis should be even, or the picture's period is not the map's.
    """
    down, across = (stride if wanted else 0 for wanted in wrap)
    wide = x
    if down:
        wide = torch.cat((wide[:, :, -down:], wide, wide[:, :, :down]), dim=2)
    if across:
        wide = torch.cat((wide[..., -across:], wide, wide[..., :across]), dim=3)
    out = layer(wide.contiguous(memory_format=torch.channels_last))
    height, width = (-(-side // stride) for side in x.shape[-2:])
    top, left = int(down > 0), int(across > 0)
    return out[:, :, top : top + height, left : left + width]


def _smooth(maps: Tensor, deviation: float, axis: int) -> Tensor:
    """``maps`` (B, C, h, w) blurred along ``axis``, 2 or 3."""
    side = maps.shape[axis]
    wanted = math.ceil(6 * deviation)
    size = min(wanted + 1 - wanted % 2, side + 1 - side % 2)
    if size < 2:
        return maps
    away = torch.linspace(-(size - 1) / 2, (size - 1) / 2, size, dtype=torch.float64)
    weights = (-0.5 * (away / deviation).square()).exp()
    kernel = (weights / weights.sum()).to(maps).expand(maps.shape[1], 1, -1)
    half, last = size // 2, axis == 3
    padded = F.pad(maps, (half, half, 0, 0) if last else (0, 0, half, half), mode="reflect")
    return F.conv2d(padded, kernel[:, :, None] if last else kernel[..., None], groups=maps.shape[1])


def _adapted(x: Tensor, text: int) -> Tensor:
    """The picture's places of the first half of the rows of ``x`` (B, L, H, d) with the statistics of the second."""
    half = len(x) // 2
    own, other = x[:half, text:], x[half:, text:]
    means = [part.mean(1, keepdim=True) for part in (own, other)]
    spreads = [(part.var(1, keepdim=True, correction=0) + EPS).sqrt() for part in (own, other)]
    adapted = (own - means[0]) / spreads[0] * spreads[1] + means[1]
    return torch.cat((torch.cat((x[:half, :text], adapted), dim=1), x[half:]))
