"""T5's encoder (Raffel et al. 2020, arXiv:1910.10683; version 1.1 with gated GELU, Shazeer 2020) and UMT5's."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.nn.attention import RMSNorm
from sfumato.nn.quantized import dtype_of


@dataclass(frozen=True, kw_only=True)
class T5Config:
    """The numbers that fix an encoder; T5-XXL's by default.

    ``each`` gives every block a table of relative positions of its own (UMT5), where T5 has one for all;
    ``head`` is the width of a head, which need not be ``width / heads``.
    """

    vocabulary: int = 32128
    width: int = 4096
    layers: int = 24
    heads: int = 64
    head: int = 64
    mlp: int = 10240
    buckets: int = 32
    distance: int = 128
    each: bool = False
    eps: float = 1e-6


class T5Block(nn.Module):
    """Pre-norm self-attention without scaling, with biases by relative position, and a gated perceptron."""

    def __init__(self, config: T5Config, table: bool) -> None:
        super().__init__()
        inner = config.heads * config.head
        self.heads = config.heads
        self.norm1 = RMSNorm(config.width, config.eps)
        self.q = nn.Linear(config.width, inner, bias=False)
        self.k = nn.Linear(config.width, inner, bias=False)
        self.v = nn.Linear(config.width, inner, bias=False)
        self.out = nn.Linear(inner, config.width, bias=False)
        self.places = nn.Embedding(config.buckets, config.heads) if table else None
        self.norm2 = RMSNorm(config.width, config.eps)
        self.gate = nn.Linear(config.width, config.mlp, bias=False)
        self.up = nn.Linear(config.width, config.mlp, bias=False)
        self.down = nn.Linear(config.mlp, config.width, bias=False)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """Map states ``x`` (B, L, D) to states; ``bias`` (B or 1, H, L, L) is added to the scores."""
        normed = self.norm1(x)
        query, key, value = (
            layer(normed).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.q, self.k, self.v)
        )
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=1.0)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        normed = self.norm2(x)
        inner = F.gelu(self.gate(normed), approximate="tanh") * self.up(normed)
        # The last product is where float16 overflows and bfloat16 loses most: it may be kept in float32.
        result: Tensor = x + self.down(inner.to(dtype_of(self.down))).to(x.dtype)
        return result


class T5Encoder(nn.Module):
    """Token embeddings, blocks, and a norm."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.config = config
        self.token = nn.Embedding(config.vocabulary, config.width)
        self.blocks = nn.ModuleList(T5Block(config, config.each or i == 0) for i in range(config.layers))
        self.norm = RMSNorm(config.width, config.eps)

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """States (B, L, D) of token ``ids`` (B, L) int64.

        ``mask`` (B, L) bool is True at tokens that may be attended to; None for all, padding included, which is
        how Stable Diffusion 3 and FLUX use the encoder.
        """
        length = ids.shape[1]
        x = self.token(ids)
        buckets = relative_buckets(length, self.config.buckets, self.config.distance).to(ids.device)
        hidden = None if mask is None else torch.where(mask, 0.0, float("-inf")).to(x.dtype)[:, None, None]
        bias = None
        for block in self.blocks:
            places = block.places
            if isinstance(places, nn.Embedding):
                bias = places(buckets).permute(2, 0, 1)[None].to(x.dtype)
                bias = bias if hidden is None else bias + hidden
            assert bias is not None
            x = block(x, bias)
        result: Tensor = self.norm(x)
        return result


def relative_buckets(length: int, buckets: int, distance: int) -> Tensor:
    """The bucket of each pair (query i, key j) of ``length`` positions, (L, L) int64.

    Half of the buckets are for keys that come later; in each half the near places have a bucket each, and farther
    ones share buckets that grow with the logarithm, up to ``distance`` (Raffel et al. 2020, section 2.1).
    """
    away = torch.arange(length)[None, :] - torch.arange(length)[:, None]
    half = buckets // 2
    near = half // 2
    far = away.abs().clamp_min(1).float()
    shared = near + ((far / near).log() / math.log(distance / near) * (half - near)).long()
    inside = torch.where(away.abs() < near, away.abs(), shared.clamp_max(half - 1))
    return inside + half * (away > 0)
