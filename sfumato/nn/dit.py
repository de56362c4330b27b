"""A diffusion transformer (Peebles & Xie 2023) with rotary positions, normalised queries and keys, and text.

The picture is cut into patches; clock, vector and class label make one embedding that scales, shifts and gates
every block (adaLN-Zero). Text is read by cross-attention, as in PixArt (Chen et al. 2023), rather than as joint
tokens: its cost grows with pixels times words instead of the square of their sum, its keys and values do not
depend on the picture, and a mask hides padding from every patch without touching the patches' own attention.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.manner import Manner
from sfumato.nn.attention import Attention, grid_angles
from sfumato.nn.embed import MLP, sinusoid
from sfumato.nn.told import Place, told_of


@dataclass(frozen=True, kw_only=True)
class DiTConfig:
    """The numbers that make a DiT.

    ``patch`` is the side of a patch, ``width`` must be a multiple of 4 * ``heads`` (rotary pairs for rows and
    columns). ``mlp`` says how many times wider the hidden layers are. ``tokens``, ``vector`` are widths of the
    conditions, 0 for none; ``classes`` counts labels; ``features`` is the width of the clock's sinusoid and
    ``theta`` the base of the rotary frequencies.
    """

    inner: int
    outer: int
    patch: int = 2
    width: int = 384
    depth: int = 12
    heads: int = 6
    mlp: int = 4
    tokens: int = 0
    vector: int = 0
    classes: int = 0
    features: int = 256
    theta: float = 100.0
    qk_norm: bool = True
    eps: float = 1e-6


class DiT(nn.Module):
    """A diffusion transformer built from a DiTConfig; its forward is the UNet's."""

    def __init__(self, config: DiTConfig) -> None:
        """Build the network of ``config``: blocks begin as the identity, the output at zero."""
        super().__init__()
        if config.width % (4 * config.heads):
            raise ValueError(f"width = {config.width} is not a multiple of 4 heads = {4 * config.heads}")
        self.config = config
        width, patch = config.width, config.patch
        self.clock = MLP(config.features, width)
        self.vector = MLP(config.vector, width) if config.vector else None
        self.label = nn.Embedding(config.classes, width) if config.classes else None
        self.act = nn.SiLU()
        self.enter = nn.Conv2d(config.inner, width, patch, stride=patch)
        self.blocks = nn.ModuleList(DiTBlock(config) for _ in range(config.depth))
        self.modulate = zeros(nn.Linear(width, 2 * width))
        self.leave = zeros(nn.Linear(width, patch * patch * config.outer))
        self.attention_layers = ("block",) * config.depth

    def forward(
        self,
        x: Tensor,
        clock: Tensor,
        *,
        tokens: Tensor | None = None,
        mask: Tensor | None = None,
        vector: Tensor | None = None,
        label: Tensor | None = None,
        manner: Manner | None = None,
        regions: Tensor | None = None,
        owner: Tensor | None = None,
    ) -> Tensor:
        """The network's output (B, outer, H, W) for ``x`` (B, inner, H, W) at ``clock`` (B,).

        ``tokens`` (B, L, tokens) with ``mask`` (B, L), True where a token counts; ``vector`` (B, vector);
        ``label`` (B,) class numbers. Sides need not be multiples of the patch: they are padded and cut again.
        ``manner``, ``regions`` and ``owner`` are Cond's.
        """
        told = told_of(manner, regions, owner)
        config = self.config
        if config.tokens and tokens is None:
            raise ValueError("this network reads text: give it tokens")
        steer = self.clock(sinusoid(clock, config.features).to(x.dtype))
        if self.vector is not None and vector is not None:
            steer = steer + self.vector(vector)
        if self.label is not None and label is not None:
            steer = steer + self.label(label)
        steer = self.act(steer)

        height, width = x.shape[-2:]
        patches = self.enter(F.pad(x, (0, -width % config.patch, 0, -height % config.patch)))
        rows, columns = patches.shape[-2:]
        size = config.width // config.heads
        rotate = grid_angles(rows, columns, size, theta=config.theta, device=x.device)
        h = patches.permute(0, 2, 3, 1).flatten(1, 2)
        for number, block in enumerate(self.blocks):
            at = None if told is None else told.at(number, (rows, columns))
            h = block(h, steer, tokens=tokens, mask=mask, rotate=rotate, told=at)
        shift, scale = self.modulate(steer).chunk(2, dim=1)
        h = self.leave(modulated(h, shift, scale, config.eps))
        return unpatch(h, rows, columns, config.patch)[..., :height, :width]


class DiTBlock(nn.Module):
    """Self-attention, attention to the text, MLP (Peebles & Xie 2023, figure 3: DiT block with adaLN-Zero)."""

    def __init__(self, config: DiTConfig) -> None:
        """Build a block that begins as the identity."""
        super().__init__()
        width = config.width
        self.eps = config.eps
        self.modulate = zeros(nn.Linear(width, 6 * width))
        self.attention = Attention(width, config.heads, qk_norm=config.qk_norm)
        self.text_norm: nn.LayerNorm | None = None
        self.text: Attention | None = None
        if config.tokens:
            self.text_norm = nn.LayerNorm(width, config.eps)
            self.text = Attention(width, config.heads, context=config.tokens, qk_norm=config.qk_norm)
            zeros(self.text.out)
        self.first = nn.Linear(width, config.mlp * width)
        self.second = nn.Linear(config.mlp * width, width)

    def forward(
        self,
        x: Tensor,
        steer: Tensor,
        *,
        tokens: Tensor | None = None,
        mask: Tensor | None = None,
        rotate: Tensor | None = None,
        told: Place | None = None,
    ) -> Tensor:
        """Map ``x`` (B, L, width), steered by ``steer`` (B, width), which is already through SiLU.

        ``tokens`` and ``mask`` as in DiT; ``rotate`` (L, d/2) are the rotary angles of the patches; ``told`` is what
        is not as usual.
        """
        if told is not None and told.skipped:
            return x
        parts = self.modulate(steer).chunk(6, dim=1)
        shift, scale, gate = parts[:3]
        seen = self.attention(modulated(x, shift, scale, self.eps), rotate=rotate, told=told)
        x = torch.addcmul(x, gate[:, None], seen)
        if self.text is not None and self.text_norm is not None:
            x = self.text(self.text_norm(x), tokens, mask, rest=x, told=told)
        shift, scale, gate = parts[3:]
        hidden = F.gelu(self.first(modulated(x, shift, scale, self.eps)), approximate="tanh")
        return torch.addcmul(x, gate[:, None], self.second(hidden))


def modulated(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    """``norm(x) * (1 + scale) + shift`` by rows: ``x`` (B, L, width), ``shift`` and ``scale`` (B, width)."""
    return torch.addcmul(shift[:, None], F.layer_norm(x, x.shape[-1:], eps=eps), 1 + scale[:, None])


def unpatch(x: Tensor, rows: int, columns: int, patch: int) -> Tensor:
    """Patches (B, rows * columns, patch * patch * C), each laid out as (patch, patch, C), as one picture."""
    grid = x.view(len(x), rows, columns, patch, patch, -1)
    return grid.permute(0, 5, 1, 3, 2, 4).reshape(len(x), -1, rows * patch, columns * patch)


def zeros(layer: nn.Linear) -> nn.Linear:
    """``layer`` with weight and bias at zero."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
