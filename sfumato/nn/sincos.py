"""Diffusion transformers over a fixed table of positions: DiT (Peebles & Xie 2023) and PixArt (Chen et al. 2023).

Both cut a latent into patches, add sines and cosines of each patch's place, and scale, shift and gate every block by
the clock. DiT has a linear map for that in each block and reads a class; PixArt has one for all blocks, to which
each adds a table of its own (adaLN-single), and reads text by cross-attention.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.manner import Manner
from sfumato.nn.attention import Attention
from sfumato.nn.dit import unpatch
from sfumato.nn.embed import MLP, sinusoid
from sfumato.nn.joint import CLOCK, gated, shifted
from sfumato.nn.told import Place, told_of

MEASURES = 3
"""What a network that reads sizes is told of the picture: its height, its width, and the first over the second."""


@dataclass(frozen=True, kw_only=True)
class SincosConfig:
    """The numbers that make a SincosDiT; ``channels`` go in, ``outer`` come out.

    ``tokens`` is the width of the text's states, 0 for none; ``classes`` counts labels, the last of which stands for
    none, 0 where there are none; ``single`` is adaLN-single; ``sizes`` is whether the picture's size is read.
    ``side`` is that of the patches' square in training; place i of a side of n patches lies at ``i extent / n``,
    however many there are.
    """

    depth: int = 28
    width: int = 1152
    heads: int = 16
    channels: int = 4
    outer: int = 8
    patch: int = 2
    mlp: int = 4
    tokens: int = 0
    classes: int = 0
    single: bool = False
    sizes: bool = False
    side: int = 32
    extent: float = 32.0


class SincosBlock(nn.Module):
    """Self-attention, attention to the text where there is one, and a perceptron (Chen et al. 2023, figure 4)."""

    def __init__(self, config: SincosConfig) -> None:
        """Build the block."""
        super().__init__()
        width = config.width
        self.modulation = None if config.single else nn.Linear(width, 6 * width)
        self.table = nn.Parameter(torch.zeros(6, width)) if config.single else None
        self.look = Attention(width, config.heads)
        self.text = Attention(width, config.heads, context=width) if config.tokens else None
        self.up = nn.Linear(width, config.mlp * width)
        self.down = nn.Linear(config.mlp * width, width)

    def forward(
        self,
        x: Tensor,
        steer: Tensor,
        tokens: Tensor | None,
        mask: Tensor | None,
        told: Place | None = None,
    ) -> Tensor:
        """Map ``x`` (B, L, D); ``steer`` is the clock through SiLU, (B, D), or what is one for all, (B, 6, D).

        ``tokens`` (B, S, D) are states of the text, of which those count where ``mask`` (B, S) is True; ``told`` is
        what is not as usual.
        """
        if told is not None and told.skipped:
            return x
        if self.modulation is not None:
            steer = self.modulation(steer).unflatten(-1, (6, -1))
        if self.table is not None:
            steer = steer + self.table.to(steer.dtype)
        parts = steer.unbind(1)
        x = gated(x, parts[2], self.look(shifted(x, parts[0], parts[1]), told=told))
        if self.text is not None:
            x = self.text(x, tokens, mask, rest=x, told=told)
        hidden = F.gelu(self.up(shifted(x, parts[3], parts[4])), approximate="tanh")
        return gated(x, parts[5], self.down(hidden))


class SincosDiT(nn.Module):
    """A diffusion transformer built from a SincosConfig."""

    def __init__(self, config: SincosConfig) -> None:
        """Build the network of ``config`` with random weights."""
        super().__init__()
        self.config = config
        width = config.width
        self.enter = nn.Conv2d(config.channels, width, config.patch, stride=config.patch)
        self.clock = MLP(CLOCK, width)
        self.label = nn.Embedding(config.classes, width) if config.classes else None
        self.size = MLP(CLOCK, width // MEASURES) if config.sizes else None
        self.aspect = MLP(CLOCK, width // MEASURES) if config.sizes else None
        self.all_blocks = nn.Linear(width, 6 * width) if config.single else None
        self.words_up = nn.Linear(config.tokens, width) if config.tokens else None
        self.words_down = nn.Linear(width, width) if config.tokens else None
        self.blocks = nn.ModuleList(SincosBlock(config) for _ in range(config.depth))
        self.modulation = None if config.single else nn.Linear(width, 2 * width)
        self.table = nn.Parameter(torch.zeros(2, width)) if config.single else None
        self.leave = nn.Linear(width, config.patch**2 * config.outer)
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
        """The output (B, outer, H, W) for ``x`` (B, channels, H, W) at ``clock`` (B,), an index of the schedule.

        ``tokens`` (B, S, tokens) with ``mask`` (B, S), True where a token counts; ``vector`` (B, 3 x 256), sinusoids
        of height, width and their ratio; ``label`` (B,) int, the class. ValueError if a door that the network reads
        is not given, or for sides that are no multiples of the patch. ``manner``, ``regions`` and ``owner`` are Cond's.
        """
        config = self.config
        if any(side % config.patch for side in x.shape[-2:]):
            raise ValueError(f"sides {tuple(x.shape[-2:])} must be multiples of {config.patch}")
        height, width = (side // config.patch for side in x.shape[-2:])
        places = grid_places(height, width, config.width, config.extent, x.device)
        h = self.enter(x).flatten(2).transpose(1, 2) + places.to(x.dtype)
        steer = self.steer(clock, vector, label, x)
        words = None
        if self.words_up is not None and self.words_down is not None:
            if tokens is None:
                raise ValueError("this network reads text: give it tokens")
            words = self.words_down(F.gelu(self.words_up(tokens), approximate="tanh"))
        active = F.silu(steer)
        shared = active if self.all_blocks is None else self.all_blocks(active).unflatten(-1, (6, -1))
        told = told_of(manner, regions, owner)
        for number, block in enumerate(self.blocks):
            at = None if told is None else told.at(number, (height, width))
            h = block(h, shared, words, mask, at)
        if self.modulation is not None:
            ends = self.modulation(active).unflatten(-1, (2, -1))
        else:
            assert self.table is not None
            ends = steer[:, None] + self.table.to(steer.dtype)
        h = self.leave(shifted(h, ends[:, 0], ends[:, 1]))
        return unpatch(h, height, width, config.patch)

    def steer(self, clock: Tensor, vector: Tensor | None, label: Tensor | None, like: Tensor) -> Tensor:
        """The embedding (B, D) of the clock, with the class or the sizes that the network reads added to it."""
        steer: Tensor = self.clock(sinusoid(clock, CLOCK, like=like))
        if self.label is not None:
            if label is None:
                raise ValueError("this network reads a class: give it a label")
            steer = steer + self.label(label)
        if self.size is not None and self.aspect is not None:
            if vector is None:
                raise ValueError("this network reads the picture's size: give it a vector")
            tall, wide, ratio = vector.chunk(MEASURES, dim=-1)
            steer = steer + torch.cat((self.size(tall), self.size(wide), self.aspect(ratio)), dim=-1)
        return steer


def grid_places(height: int, width: int, size: int, extent: float, device: torch.device) -> Tensor:
    """Sines and cosines of the places of a grid, (height * width, size), float64: of columns first, then of rows.

    Each coordinate has size / 4 sines, then as many cosines, of ``i extent / n 10000^(-k / (size / 4))`` for place i
    of n (Vaswani et al. 2017, section 3.5, with the two kinds apart).
    """
    quarter = size // 4
    rates = 10000.0 ** (-torch.arange(quarter, dtype=torch.float64, device=device) / quarter)
    rows, columns = (
        torch.arange(count, dtype=torch.float64, device=device)[:, None] * (extent / count) * rates
        for count in (height, width)
    )
    rows = torch.cat((rows.sin(), rows.cos()), dim=-1)[:, None].expand(-1, width, -1)
    columns = torch.cat((columns.sin(), columns.cos()), dim=-1)[None].expand(height, -1, -1)
    return torch.cat((columns, rows), dim=-1).flatten(0, 1)
