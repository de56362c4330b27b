"""The transformer of Z-Image (Z-Image Team 2025): Lumina's blocks over rows that are filled to whole measures.

Text and picture are each filled up to a multiple of 32 tokens with a learned one, which counts like the others: it is
looked at, and has a place. Beyond that a row of text is masked, where another row of the call is longer.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.manner import Manner
from sfumato.nn.attention import RMSNorm
from sfumato.nn.embed import sinusoid
from sfumato.nn.flux import folded, positions
from sfumato.nn.joint import CLOCK, axis_angles
from sfumato.nn.lumina import EPS, LAST_EPS, LuminaBlock, corners_first, counted_first, own_words, pictured
from sfumato.nn.told import told_of

MEASURE = 32
"""Rows of text and of picture have a multiple of so many tokens."""


@dataclass(frozen=True, kw_only=True)
class ZImageConfig:
    """The numbers that make a Z-Image.

    ``depth`` blocks over text and picture, ``refiners`` over each alone; ``channels`` of latents whose patches are
    2 x 2; ``tokens`` is the width of the text's states, ``hidden`` of the perceptron, ``steer`` of the embedded clock,
    and ``clock`` of the layer before it. ``axes`` are how many values of a head turn by the place in the text, the row
    and the column, with ``theta``.
    """

    depth: int = 30
    refiners: int = 2
    width: int = 3840
    heads: int = 30
    channels: int = 16
    tokens: int = 2560
    hidden: int = 10240
    steer: int = 256
    clock: int = 1024
    axes: tuple[int, ...] = (32, 48, 48)
    theta: float = 256.0

    @property
    def outer(self) -> int:
        """How many channels it answers."""
        return self.channels


class ZImage(nn.Module):
    """Refined text and refined patches of 2 x 2 latents through the same blocks."""

    def __init__(self, config: ZImageConfig) -> None:
        """Build the network of ``config`` with random weights."""
        super().__init__()
        self.config = config
        self.enter = nn.Linear(4 * config.channels, config.width)
        self.words_norm = RMSNorm(config.tokens, EPS)
        self.words = nn.Linear(config.tokens, config.width)
        self.clock = nn.Sequential(
            nn.Linear(CLOCK, config.clock), nn.SiLU(), nn.Linear(config.clock, config.steer)
        )
        self.no_word = nn.Parameter(torch.zeros(1, config.width))
        self.no_patch = nn.Parameter(torch.zeros(1, config.width))
        sizes = config.width, config.heads, config.heads, config.hidden
        self.text = nn.ModuleList(LuminaBlock(*sizes) for _ in range(config.refiners))
        self.picture = nn.ModuleList(LuminaBlock(*sizes, config.steer) for _ in range(config.refiners))
        self.blocks = nn.ModuleList(LuminaBlock(*sizes, config.steer) for _ in range(config.depth))
        self.modulation = nn.Linear(config.steer, config.width)
        self.leave = nn.Linear(config.width, 4 * config.channels)
        self.attention_layers = ("refiner",) * config.refiners + ("block",) * config.depth

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
        """The velocity (B, channels, H, W) for ``x`` (B, channels, H, W) at ``clock`` (B,), 1000 times sigma.

        ``tokens`` (B, S, tokens) with ``mask`` (B, S), True where one counts: the first of a row, and at least one, or
        in any order where several texts have an ``owner`` each. Sides are even; ValueError otherwise. ``manner``,
        ``regions`` and ``owner`` are Cond's; what fills the text belongs to the first. (The network itself is told
        1000 (1 - sigma) and says the velocity towards the picture.)
        """
        if any(side % 2 for side in x.shape[-2:]):
            raise ValueError(f"sides {tuple(x.shape[-2:])} must be even")
        height, width = (side // 2 for side in x.shape[-2:])
        if mask is None:
            mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        tokens, mask, owner = counted_first(tokens, mask, owner)
        tokens, mask, owner, counts = _measured(tokens, mask, owner)
        filled = -height * width % MEASURE
        turn = self._angles(counts, tokens.shape[1], height, width, filled, x)
        count = tokens.shape[1]
        # Rows of one length need no mask, and attention without one is quicker.
        seen = torch.arange(count, device=x.device) < counts[:, None]
        some = None if bool(seen.all()) else seen
        usual = manner is None and regions is None
        told, sides = None if usual else told_of(manner, regions, owner, some), (height, width)
        steer = self.clock(sinusoid(1000 - clock.double(), CLOCK, like=x))
        text = torch.where(mask[..., None], self.words(self.words_norm(tokens)), self.no_word)
        for block in self.text:
            text = block(text, _part(turn, 0, count), own_words(some, owner))
        h = self.enter(corners_first(folded(x)))
        h = torch.cat((h, self.no_patch.expand(len(h), filled, -1)), dim=1)
        for number, block in enumerate(self.picture):
            at = None if told is None else told.at(number, sides)
            h = block(h, _part(turn, count, None), None, steer, at)
        both = None if some is None else F.pad(some, (0, h.shape[1]), value=True)
        h = torch.cat((text, h), dim=1)
        for number, block in enumerate(self.blocks, len(self.picture)):
            h = block(h, turn, both, steer, None if told is None else told.at(number, sides), count)
        h = h[:, count : count + height * width]
        h = F.layer_norm(h, h.shape[-1:], eps=LAST_EPS) * (1 + self.modulation(F.silu(steer)))[:, None]
        return -pictured(self.leave(h), height, width)

    def _angles(
        self, counts: Tensor, count: int, height: int, width: int, filled: int, like: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Cosines and sines (B, S + L, d / 2) of text, then picture.

        Words stand at 1, 2, ... of the first axis, the picture one behind its row's, and what fills it at 0, 0, 0.
        """
        rows = len(counts)
        text = torch.zeros(rows, count, 3, device=like.device)
        text[..., 0] = torch.arange(1, count + 1, device=like.device)
        picture = positions(height, width, 0).to(like.device).expand(rows, -1, -1).clone()
        picture[..., 0] = counts[:, None] + 1
        places = torch.cat((text, F.pad(picture, (0, 0, 0, filled))), dim=1)
        wide = torch.promote_types(like.dtype, torch.float32)
        cos, sin = axis_angles(places.flatten(0, 1), self.config.axes, self.config.theta, wide)
        return cos.view(rows, -1, cos.shape[-1]), sin.view(rows, -1, sin.shape[-1])


def _measured(
    tokens: Tensor, mask: Tensor, owner: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """All three cut or filled to the longest row's measures, and (B,) how many tokens a row then has."""
    counts = (mask.sum(dim=1) + MEASURE - 1) // MEASURE * MEASURE
    more = int(counts.max()) - tokens.shape[1]
    owner = None if owner is None else F.pad(owner, (0, more), value=0)
    return F.pad(tokens, (0, 0, 0, more)), F.pad(mask, (0, more), value=False), owner, counts


def _part(turn: tuple[Tensor, Tensor], first: int, last: int | None) -> tuple[Tensor, Tensor]:
    """The angles ``turn`` of some of a row's tokens."""
    return turn[0][:, first:last], turn[1][:, first:last]
