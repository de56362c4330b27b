"""A BERT encoder (Devlin et al. 2018, arXiv:1810.04805) in plain torch, as small as its inference needs.

The layout is the post-norm transformer with learned positions and the exact (erf) GELU, which is what MiniLM
(Wang et al. 2020, arXiv:2002.10957) uses. Text here is always one segment, so the embedding of token type 0
is a constant that whoever converts weights adds to the position embeddings. There is no dropout: the encoder
is used frozen.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class BertConfig:
    """The numbers that fix a Bert: table sizes (``vocabulary``, ``positions``) and the network's shape."""

    vocabulary: int
    width: int
    layers: int
    heads: int
    mlp: int
    positions: int
    eps: float = 1e-12

    def __post_init__(self) -> None:
        """Raise ValueError for numbers that no Bert can have."""
        sizes = (self.vocabulary, self.width, self.layers, self.heads, self.mlp, self.positions)
        if min(sizes) < 1 or self.eps <= 0:
            raise ValueError(f"every number of a BertConfig must be positive: {self}")
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")


class BertBlock(nn.Module):
    """One post-norm layer: self-attention, then a two-layer perceptron, each added and then normalised."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm1 = nn.LayerNorm(width, config.eps)
        self.up = nn.Linear(width, config.mlp)
        self.down = nn.Linear(config.mlp, width)
        self.norm2 = nn.LayerNorm(width, config.eps)

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        """Map states ``x`` (B, L, D) to states (B, L, D); ``keep`` (B, 1, 1, L) is True where to attend."""
        # (B, L, 3D) -> three of (B, heads, L, D / heads)
        query, key, value = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=keep)
        x = self.norm1(x + self.out(mixed.transpose(1, 2).flatten(2)))
        result: Tensor = self.norm2(x + self.down(F.gelu(self.up(x))))
        return result


class Bert(nn.Module):
    """The encoder: word plus position embeddings, a norm, then ``config.layers`` blocks."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.config = config
        self.words = nn.Embedding(config.vocabulary, config.width)
        self.places = nn.Embedding(config.positions, config.width)
        self.norm = nn.LayerNorm(config.width, config.eps)
        self.blocks = nn.ModuleList(BertBlock(config) for _ in range(config.layers))

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return the states (B, L, D) of token ``ids`` (B, L) int64.

        ``mask`` (B, L) bool is True at tokens and False at padding; each row needs at least one token. States
        at padding are meaningless. Raises ValueError if L is more than ``config.positions``.
        """
        length = ids.shape[1]
        if length > self.config.positions:
            raise ValueError(f"{length} tokens are more than the {self.config.positions} positions")
        places = self.places(torch.arange(length, device=ids.device))
        x: Tensor = self.norm(self.words(ids) + places)
        keep = mask[:, None, None, :]
        for block in self.blocks:
            x = block(x, keep)
        return x
