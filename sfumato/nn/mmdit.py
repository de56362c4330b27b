"""The transformer of Stable Diffusion 3 and 3.5 (Esser et al. 2024, figure 2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sfumato.manner import Manner
from sfumato.nn.joint import JointBlock, Steer, shifted
from sfumato.nn.told import told_of


@dataclass(frozen=True, kw_only=True)
class MMDiTConfig:
    """The numbers that make an MMDiT; ``width`` is ``64 depth`` in all published ones.

    ``side`` is that of the table of positions, of which a picture gets the middle; ``dual`` counts the first
    blocks whose picture stream has a second attention; ``norm`` is whether queries and keys are normalised.
    """

    depth: int
    width: int
    heads: int
    channels: int = 16
    outer: int = 16
    tokens: int = 4096
    vector: int = 2048
    patch: int = 2
    side: int = 192
    norm: bool = False
    dual: int = 0


class MMDiT(nn.Module):
    """A joint transformer built from an MMDiTConfig."""

    def __init__(self, config: MMDiTConfig) -> None:
        """Build the network of ``config`` with random weights."""
        super().__init__()
        self.config = config
        width = config.width
        self.enter = nn.Conv2d(config.channels, width, config.patch, stride=config.patch)
        self.places = nn.Parameter(torch.zeros(1, config.side**2, width))
        self.steer = Steer(width, config.vector)
        self.words = nn.Linear(config.tokens, width)
        self.blocks = nn.ModuleList(
            JointBlock(
                width, config.heads, norm=config.norm, last=i == config.depth - 1, dual=i < config.dual
            )
            for i in range(config.depth)
        )
        self.modulation = nn.Linear(width, 2 * width)
        self.leave = nn.Linear(width, config.patch**2 * config.outer)
        self.attention_layers = ("block",) * config.depth

    def forward(
        self,
        x: Tensor,
        clock: Tensor,
        *,
        tokens: Tensor,
        vector: Tensor,
        mask: Tensor | None = None,
        manner: Manner | None = None,
        regions: Tensor | None = None,
        owner: Tensor | None = None,
    ) -> Tensor:
        """The velocity (B, outer, H, W) for ``x`` (B, channels, H, W) at ``clock`` (B,), 1000 times sigma.

        ``tokens`` (B, S, tokens), of which those count where ``mask`` (B, S) is True, all without it; ``vector`` (B,
        vector). Sides are multiples of the patch, at most ``patch side``; ValueError otherwise. ``manner``, ``regions``
        and ``owner`` are Cond's.
        """
        patch, side = self.config.patch, self.config.side
        height, width = (s // patch for s in x.shape[-2:])
        if x.shape[-2] % patch or x.shape[-1] % patch or max(height, width) > side:
            raise ValueError(
                f"sides {tuple(x.shape[-2:])} must be multiples of {patch}, at most {patch * side}"
            )
        top, left = (side - height) // 2, (side - width) // 2
        table = self.places.view(side, side, -1)[top : top + height, left : left + width].flatten(0, 1)
        h = self.enter(x).flatten(2).transpose(1, 2) + table.to(x.dtype)
        steer = self.steer(clock, vector, None, x)
        text = self.words(tokens)
        told = told_of(manner, regions, owner, mask)
        for number, block in enumerate(self.blocks):
            at = None if told is None else told.at(number, (height, width))
            h, text = block(h, text, steer, None, at)
        h = self.leave(shifted(h, *self.modulation(steer).chunk(2, dim=-1)))
        rows = h.view(len(x), height, width, patch, patch, self.config.outer)
        out: Tensor = rows.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)
        return out
