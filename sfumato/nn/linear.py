"""Attention whose cost grows with the number of places, not its square, and the convolutions that go with it.

ReLU in place of softmax's exponential lets keys and values be summed once for all queries (Katharopoulos et al. 2020,
equation 5; Cai et al. 2023, equation 2, for pictures). Used by SANA and by its autoencoder DC-AE.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.nn.told import around

LEAST = 1e-15
"""What is added to the sum that attention divides by, where all keys or the query are negative."""


def gathered(key: Tensor, value: Tensor) -> Tensor:
    """All that queries read of ``key`` and ``value`` (B, L, H, d): sums over places, (B, H, d, d + 1).

    ``sum_j relu(k_j) (v_j, 1)`` in float32 at least; sums of parts of the places may be added.
    """
    wide = torch.promote_types(key.dtype, torch.float32)
    key, value = key.relu().to(wide).transpose(1, 2), value.to(wide).transpose(1, 2)
    return key.transpose(-1, -2) @ F.pad(value, (0, 1), value=1.0)


def answered(query: Tensor, sums: Tensor) -> Tensor:
    """``relu(q_i) sum_j relu(k_j) v_j / relu(q_i) sum_j relu(k_j)`` for ``query`` (B, L, H, d) and ``gathered`` sums.

    (B, L, H, d), in the dtype of ``query``.
    """
    read = query.relu().to(sums.dtype).transpose(1, 2) @ sums
    seen = read[..., :-1] / (read[..., -1:] + LEAST)
    return seen.transpose(1, 2).to(query.dtype)


class GluConv(nn.Module):
    """A perceptron whose hidden values also look at their neighbours: 1 x 1, 3 x 3 by channels, a gate, 1 x 1.

    (Xie et al. 2024, section 2.2: Mix-FFN, of an inverted bottleneck with a gated linear unit.)
    """

    def __init__(self, width: int, hidden: int) -> None:
        """Build it for maps of ``width`` channels with ``hidden`` gated ones inside."""
        super().__init__()
        self.up = nn.Conv2d(width, 2 * hidden, 1)
        self.depth = nn.Conv2d(2 * hidden, 2 * hidden, 3, padding=1, groups=2 * hidden)
        self.down = nn.Conv2d(hidden, width, 1, bias=False)

    def forward(self, x: Tensor, wrap: tuple[bool, bool] | None = None) -> Tensor:
        """Map (B, C, H, W) to the same shape; ``wrap`` are axes that go on from the other edge."""
        h = F.silu(self.up(x))
        h = self.depth(h) if wrap is None else around(self.depth, h, wrap)
        value, gate = h.chunk(2, dim=1)
        out: Tensor = self.down(value * F.silu(gate))
        return out
