"""Classifiers of noisy pictures (Dhariwal & Nichol 2021, section 4): half of a U-Net on pixels, pooled by attention."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count

import torch
from torch import Tensor, nn

from sfumato.nn.adm import Descent, PixelConfig
from sfumato.nn.attend import attend
from sfumato.nn.attention import places
from sfumato.nn.resnet import GroupNormSiLU, grouped


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig(PixelConfig):
    """The numbers that make a PixelClassifier: a PixelConfig's, where ``outer`` is how many classes it tells apart.

    ``places`` is how many places its coarsest map has, ``pool_head`` the width of a head of its pooling.
    """

    places: int = 64
    pool_head: int = 64


class AttentionPool(nn.Module):
    """Attention of the mean of a map to the map and itself (Radford et al. 2021, section 2.3)."""

    def __init__(self, width: int, outer: int, places: int, heads: int) -> None:
        """Build the pooling of ``width`` channels over so many ``places``, to ``outer`` values."""
        super().__init__()
        self.heads = heads
        self.places = nn.Parameter(torch.randn(width, places + 1) * width**-0.5)
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, outer)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, width, H, W) to (B, outer)."""
        rows = places(x)
        rows = torch.cat((rows.mean(1, keepdim=True), rows), dim=1) + self.places.T.to(rows.dtype)
        query, key, value = (
            t.unflatten(-1, (self.heads, -1)) for t in (self.q(rows[:, :1]), self.k(rows), self.v(rows))
        )
        out: Tensor = self.out(attend(query, key, value)[:, 0])
        return out


class PixelClassifier(Descent):
    """A classifier of noisy pictures built from a ClassifierConfig."""

    def __init__(self, config: ClassifierConfig) -> None:
        """Build the network of ``config`` with random weights."""
        super().__init__(config)
        width = config.widths[-1]
        self.norm = GroupNormSiLU(grouped(width, config.groups, config.least), width, config.eps)
        self.pool = AttentionPool(width, config.outer, config.places, width // config.pool_head)

    def forward(self, x: Tensor, clock: Tensor) -> Tensor:
        """Logits (B, classes) for noisy ``x`` (B, inner, H, W), of one size, at ``clock`` (B,), an index."""
        h, _ = self.descend(x, self.steer(clock, None, x), None, count())
        out: Tensor = self.pool(self.norm(h))
        return out
