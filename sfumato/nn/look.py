"""A picture as tokens: SigLIP's vision tower, and the embedder of FLUX.1 Redux that follows it.

Zhai et al. 2023 (SigLIP); Dosovitskiy et al. 2021, equations 1 to 4; Black Forest Labs 2024, FLUX.1 Tools.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.nn.clip import ClipBlock


@dataclass(frozen=True, kw_only=True)
class SiglipConfig:
    """The numbers that fix a vision tower.

    A picture of ``pixels`` a side has ``side`` patches a side, each of ``patch`` pixels; what they do not cover at its
    right and lower edges (6 of 384) is not seen. ``pools`` is whether the tower was published with a pooling of its
    states, which is not built here.
    """

    width: int = 1152
    layers: int = 27
    heads: int = 16
    mlp: int = 4304
    patch: int = 14
    side: int = 27
    pixels: int = 384
    eps: float = 1e-6
    pools: bool = False


class Siglip(nn.Module):
    """Patches with learned places, ``config.layers`` blocks in which all see all, a norm; its pooling is not used."""

    def __init__(self, config: SiglipConfig) -> None:
        """Build the tower of ``config`` with random weights."""
        super().__init__()
        self.config = config
        self.patch = nn.Conv2d(3, config.width, config.patch, config.patch)
        self.place = nn.Embedding(config.side**2, config.width)
        self.blocks = nn.ModuleList(
            ClipBlock(config.width, config.heads, config.mlp, config.eps, partial(F.gelu, approximate="tanh"))
            for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(config.width, config.eps)

    def forward(self, x: Tensor) -> Tensor:
        """States (B, side^2, width) of pictures ``x`` (B, 3, H, W) in [-1, 1]; ValueError for another size."""
        patches = self.patch(x)
        if patches.shape[-2:] != (self.config.side, self.config.side):
            raise ValueError(
                f"{tuple(x.shape[-2:])} pixels make {tuple(patches.shape[-2:])} patches, and {self.config.side} a "
                "side have places"
            )
        h = patches.flatten(2).transpose(1, 2) + self.place.weight
        for block in self.blocks:
            h = block(h)
        states: Tensor = self.norm(h)
        return states


@dataclass(frozen=True, kw_only=True)
class ReduxConfig:
    """The numbers that fix an embedder: from states of ``width`` values to tokens of ``tokens``, by ``hidden``."""

    width: int = 1152
    hidden: int = 12288
    tokens: int = 4096


class Redux(nn.Module):
    """A perceptron from the states of a picture to tokens among those of a text."""

    def __init__(self, config: ReduxConfig) -> None:
        """Build the embedder of ``config`` with random weights."""
        super().__init__()
        self.config = config
        self.up = nn.Linear(config.width, config.hidden)
        self.down = nn.Linear(config.hidden, config.tokens)

    def forward(self, states: Tensor) -> Tensor:
        """Tokens (B, L, tokens) of ``states`` (B, L, width)."""
        tokens: Tensor = self.down(F.silu(self.up(states)))
        return tokens
