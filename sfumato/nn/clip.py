"""CLIP's text encoder (Radford et al. 2021, arXiv:2103.00020, section 2.4), of OpenAI's and OpenCLIP's sizes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True, kw_only=True)
class ClipConfig:
    """The numbers that fix a text encoder.

    ``quick`` takes ``x sigmoid(1.702 x)`` for the GELU, as OpenAI's weights do and OpenCLIP's do not;
    ``projection`` is the width of the pooled vector's projection, 0 for none; ``end`` the id of the end token.
    """

    width: int
    layers: int
    heads: int
    mlp: int
    vocabulary: int = 49408
    length: int = 77
    projection: int = 0
    quick: bool = False
    end: int = 49407
    eps: float = 1e-5


def quick_gelu(x: Tensor) -> Tensor:
    """``x sigmoid(1.702 x)``, which OpenAI's encoders have for the GELU (Hendrycks & Gimpel 2016, section 2)."""
    return x * torch.sigmoid(1.702 * x)


class ClipBlock(nn.Module):
    """A pre-norm transformer block of ``heads`` heads over states of ``width`` values."""

    def __init__(
        self, width: int, heads: int, mlp: int, eps: float, activation: Callable[[Tensor], Tensor]
    ) -> None:
        """Build the block, with ``mlp`` values inside its perceptron and norms that add ``eps``."""
        super().__init__()
        self.heads, self.activation = heads, activation
        self.norm1 = nn.LayerNorm(width, eps)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, eps)
        self.up = nn.Linear(width, mlp)
        self.down = nn.Linear(mlp, width)

    def forward(self, x: Tensor, seen: Tensor | None = None, *, causal: bool = False) -> Tensor:
        """Map states ``x`` (B, L, D) to states (B, L, D).

        Each sees all, those that ``seen`` (B, 1, L, L) bool says, or where ``causal`` itself and those before it.
        """
        query, key, value = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=seen, is_causal=causal)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        result: Tensor = x + self.down(self.activation(self.up(self.norm2(x))))
        return result


class ClipText(nn.Module):
    """Token and position embeddings, ``config.layers`` blocks, a norm, and a projection where there is one."""

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.config = config
        self.token = nn.Embedding(config.vocabulary, config.width)
        self.place = nn.Embedding(config.length, config.width)
        activation = quick_gelu if config.quick else F.gelu
        self.blocks = nn.ModuleList(
            ClipBlock(config.width, config.heads, config.mlp, config.eps, activation)
            for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(config.width, config.eps)
        self.projection = (
            nn.Linear(config.width, config.projection, bias=False) if config.projection else None
        )

    def forward(
        self,
        ids: Tensor,
        *,
        skip: int = 0,
        normed: bool = True,
        pooled: bool = True,
        keep: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """States (B, L, D) of ``ids`` (B, L) int64 and the pooled vector (B, P).

        The states are those ``skip`` blocks before the last (1: the penultimate layer), ``normed`` by the final
        norm or not. The pooled vector is the normed last state at the first end token, projected if there is a
        projection; without ``pooled`` it is None and skipped blocks are not computed. Padding is not masked:
        these encoders were trained, and are used by diffusion models, with it in sight. Tokens where ``keep`` (B, L)
        bool is False are hidden from the others; the first must stay. Raises ValueError if L is more than
        ``config.length`` or ``skip`` more than there are blocks.
        """
        length, layers = ids.shape[1], len(self.blocks)
        if length > self.config.length:
            raise ValueError(f"{length} tokens are more than the {self.config.length} positions")
        if not 0 <= skip <= layers:
            raise ValueError(f"skip = {skip} is outside what is allowed: 0 to {layers}")
        x = self.token(ids) + self.place.weight[:length]
        seen = None
        if keep is not None:
            before = torch.ones(length, length, dtype=torch.bool, device=x.device).tril()
            seen = before & keep.to(x.device)[:, None, None]
        states = x if skip == layers else None
        for done, block in enumerate(self.blocks if pooled else self.blocks[: layers - skip], 1):
            x = block(x, seen, causal=seen is None)
            if done == layers - skip:
                states = x
        assert states is not None
        told = self.norm(states) if normed else states
        if not pooled:
            return told, None
        ends = (ids == self.config.end).int().argmax(-1)
        vector = self.norm(x)[torch.arange(len(x), device=x.device), ends]
        return told, vector if self.projection is None else self.projection(vector)
