"""The transformer of Chroma (Lodestone Rock 2025, huggingface.co/lodestones/Chroma): FLUX.1's, modulated by a table.

FLUX.1's linear maps from the clock to every block's shifts, scales and gates are gone; one small network makes a row
of all of them from the clock and each place's number. There is no pooled text, and padding of the text is masked.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.manner import Manner
from sfumato.nn.attention import RMSNorm
from sfumato.nn.embed import MLP, sinusoid
from sfumato.nn.flux import SingleBlock, folded, positions
from sfumato.nn.joint import EPS, JointBlock, axis_angles, shifted
from sfumato.nn.told import told_of


@dataclass(frozen=True, kw_only=True)
class ChromaConfig:
    """The numbers that make a Chroma; those that FluxConfig has too mean the same.

    ``features`` is how wide the rows are that the small network reads, ``hidden`` and ``layers`` its width and depth.
    """

    double: int = 19
    single: int = 38
    width: int = 3072
    heads: int = 24
    channels: int = 16
    outer: int = 16
    tokens: int = 4096
    axes: tuple[int, ...] = (16, 56, 56)
    theta: float = 10000.0
    features: int = 64
    hidden: int = 5120
    layers: int = 5


class Pick(nn.Module):
    """Stands where FLUX.1 has a linear map: takes ``count`` rows from ``first`` on of the table of modulations."""

    def __init__(self, first: int, count: int, width: int) -> None:
        """Rows of ``width`` values."""
        super().__init__()
        self.first, self.count, self.in_features = first, count, width

    def forward(self, table: Tensor) -> Tensor:
        """(B, count * width) of ``table`` (B, rows, width)."""
        return table[:, self.first : self.first + self.count].flatten(1)


class Modulator(nn.Module):
    """From the clock to a table of modulations, a row for each place where one is needed."""

    def __init__(self, config: ChromaConfig, rows: int) -> None:
        """Build it for ``rows`` rows."""
        super().__init__()
        self.rows, self.features = rows, config.features
        self.enter = nn.Linear(config.features, config.hidden)
        self.layers = nn.ModuleList(MLP(config.hidden, config.hidden) for _ in range(config.layers))
        self.norms = nn.ModuleList(RMSNorm(config.hidden, EPS) for _ in range(config.layers))
        self.leave = nn.Linear(config.hidden, config.width)

    def forward(self, clock: Tensor, like: Tensor) -> Tensor:
        """The table (B, rows, width) at ``clock`` (B,), in the dtype of ``like``.

        A row reads the sinusoids of the clock, of guidance 0, and of 1000 times its own number; the last in float32,
        in which it was trained: the angles reach some hundred thousands.
        """
        quarter = self.features // 4
        time = sinusoid(clock, quarter, like=like)
        none = sinusoid(torch.zeros_like(clock), quarter, like=like)
        number = sinusoid(1000 * torch.arange(self.rows, device=like.device), 2 * quarter).to(like.dtype)
        both = torch.cat((time, none), dim=-1)[:, None].expand(-1, self.rows, -1)
        x = self.enter(torch.cat((both, number.expand(len(clock), -1, -1)), dim=-1))
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = x + layer(norm(x))
        out: Tensor = self.leave(x)
        return out


class Chroma(nn.Module):
    """Joint blocks, then single blocks, over patches of 2 x 2 latents."""

    def __init__(self, config: ChromaConfig) -> None:
        """Build the network of ``config`` with random weights."""
        super().__init__()
        self.config = config
        width, singles = config.width, 3 * config.single
        self.enter = nn.Linear(4 * config.channels, width)
        self.words = nn.Linear(config.tokens, width)
        self.steer = Modulator(config, singles + 12 * config.double + 2)
        self.double_blocks = nn.ModuleList()
        for i in range(config.double):
            block = JointBlock(width, config.heads)
            block.picture.modulation = Pick(singles + 6 * i, 6, width)  # type: ignore[assignment]
            block.text.modulation = Pick(singles + 6 * (config.double + i), 6, width)  # type: ignore[assignment]
            self.double_blocks.append(block)
        self.single_blocks = nn.ModuleList()
        for i in range(config.single):
            single = SingleBlock(width, config.heads)
            single.modulation = Pick(3 * i, 3, width)  # type: ignore[assignment]
            self.single_blocks.append(single)
        self.modulation = Pick(singles + 12 * config.double, 2, width)
        self.leave = nn.Linear(width, 4 * config.outer)
        self.attention_layers = ("double",) * config.double + ("single",) * config.single

    def forward(
        self,
        x: Tensor,
        clock: Tensor,
        *,
        tokens: Tensor,
        mask: Tensor | None = None,
        manner: Manner | None = None,
        regions: Tensor | None = None,
        owner: Tensor | None = None,
    ) -> Tensor:
        """The velocity (B, outer, H, W) for ``x`` (B, channels, H, W) at ``clock`` (B,), 1000 times sigma.

        ``tokens`` (B, S, tokens) with ``mask`` (B, S), True where one counts. Sides are even; ValueError otherwise.
        ``manner``, ``regions`` and ``owner`` are Cond's.
        """
        if any(side % 2 for side in x.shape[-2:]):
            raise ValueError(f"sides {tuple(x.shape[-2:])} must be even")
        height, width = (side // 2 for side in x.shape[-2:])
        places = torch.cat((torch.zeros(tokens.shape[1], len(self.config.axes)), positions(height, width, 0)))
        wide = torch.promote_types(x.dtype, torch.float32)
        turn = axis_angles(places.to(x.device), self.config.axes, self.config.theta, wide)
        table = self.steer(clock, x)
        told, sides, last = told_of(manner, regions, owner, mask), (height, width), len(self.double_blocks)
        h, text = self.enter(folded(x)), self.words(tokens)
        for number, block in enumerate(self.double_blocks):
            h, text = block(h, text, table, turn, None if told is None else told.at(number, sides))
        count = text.shape[1]
        h = torch.cat((text, h), dim=1)
        for number, block in enumerate(self.single_blocks, last):
            h = block(h, table, turn, None if told is None else told.at(number, sides), count)
        h = self.leave(shifted(h[:, count:], *self.modulation(table).chunk(2, dim=-1)))
        return F.pixel_shuffle(h.transpose(1, 2).unflatten(2, (height, width)), 2)
