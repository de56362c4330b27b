"""The transformer of SANA (Xie et al. 2024, section 2.2): linear attention, and convolutions in place of perceptrons.

As PixArt it has one map of the clock for all blocks, to which each adds a table of its own, and reads text by
cross-attention; the convolutions tell places apart, so that most of its networks have no positions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.manner import Manner
from sfumato.nn.attention import Attention, RMSNorm
from sfumato.nn.dit import unpatch
from sfumato.nn.embed import MLP, sinusoid
from sfumato.nn.joint import CLOCK, gated, shifted
from sfumato.nn.linear import GluConv, answered, gathered
from sfumato.nn.sincos import grid_places
from sfumato.nn.told import Place, told_of

LOOK_EPS, TEXT_EPS, WORDS_EPS = 1e-5, 1e-6, 1e-5
"""Of the norms of queries and keys of the picture, of those of the text's attention, and of the text's states."""
NEAR = 1e-4
"""How far below a whole number a clock may lie that means it: 1000 sigma in float32."""


@dataclass(frozen=True, kw_only=True)
class SanaConfig:
    """The numbers that make a Sana; ``channels`` go in, ``outer`` come out, ``hidden`` are a block's gated ones.

    ``heads`` of linear attention, ``text_heads`` of the text's; ``tokens`` is the width of the text's states. ``norm``
    is whether queries and keys are normalised (SANA 1.5). ``guidance`` is whether the network is told the strength of
    distilled guidance (SANA-Sprint), times ``told``. ``side`` is that of the patches' square in training; place
    i of a side of n patches lies at ``i extent / n``, nowhere in particular where ``extent`` is 0.
    """

    depth: int = 20
    width: int = 2240
    heads: int = 70
    text_heads: int = 20
    channels: int = 32
    outer: int = 32
    patch: int = 1
    hidden: int = 5600
    tokens: int = 2304
    norm: bool = False
    guidance: bool = False
    told: float = 0.1
    side: int = 32
    extent: float = 0.0


class LinearAttention(nn.Module):
    """Self-attention without softmax (``nn.linear``); queries and keys are normalised over all heads at once."""

    def __init__(self, width: int, heads: int, norm: bool) -> None:
        """Build it for ``width`` values and ``heads`` heads, with norms where ``norm``."""
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_norm = RMSNorm(width, LOOK_EPS) if norm else None
        self.k_norm = RMSNorm(width, LOOK_EPS) if norm else None
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, told: Place | None = None) -> Tensor:
        """Map ``x`` (B, L, D) to the same shape; ``told`` is what is not as usual."""
        query, key, value = self.qkv(x).chunk(3, dim=-1)
        if told is not None:
            query = told.blurred(query)
        if self.q_norm is not None and self.k_norm is not None:
            query, key = self.q_norm(query), self.k_norm(key)
        query, key, value = (t.unflatten(-1, (self.heads, -1)) for t in (query, key, value))
        seen = answered(query, gathered(key, value)) if told is None else told_seen(query, key, value, told)
        out: Tensor = self.out(seen.flatten(2))
        return out


def told_seen(query: Tensor, key: Tensor, value: Tensor, told: Place) -> Tensor:
    """Linear attention (B, L, H, d) as it is ``told``: see Place.look, whose softmax these sums stand for."""
    manner = told.told.manner
    if told.number in manner.identity:
        return value
    query, key = told.aligned(query, key)
    sums = gathered(key, value)
    if told.number in manner.share:
        half = len(sums) // 2
        own = sums[:half] if manner.own else torch.zeros_like(sums[:half])
        # A weight of a key among exponentials is a factor, as it is here.
        weight = manner.weight if manner.own else 1.0
        sums = torch.cat((own + weight * sums[half:], sums[half:]))
    return answered(query, sums)


class TextAttention(Attention):
    """Attention to the text whose queries and keys are normalised over all heads at once."""

    def __init__(self, width: int, heads: int, context: int) -> None:
        """Build it; see Attention."""
        super().__init__(width, heads, context=context)
        self.q_across, self.k_across = RMSNorm(width, TEXT_EPS), RMSNorm(width, TEXT_EPS)

    def project(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Normalised queries of ``x`` and keys of ``context``, and values."""
        query, key, value = super().project(x, context)
        return self.q_across(query), self.k_across(key), value


class SanaBlock(nn.Module):
    """Linear attention, attention to the text, gated convolutions (Xie et al. 2024, figure 5)."""

    def __init__(self, config: SanaConfig) -> None:
        """Build the block."""
        super().__init__()
        width = config.width
        self.table = nn.Parameter(torch.zeros(6, width))
        self.look = LinearAttention(width, config.heads, config.norm)
        self.text = (
            TextAttention(width, config.text_heads, context=width)
            if config.norm
            else Attention(width, config.text_heads, context=width)
        )
        self.mix = GluConv(width, config.hidden)

    def forward(
        self,
        x: Tensor,
        sides: tuple[int, int],
        steer: Tensor,
        tokens: Tensor,
        mask: Tensor | None,
        told: Place | None = None,
    ) -> Tensor:
        """Map ``x`` (B, L, D), a picture of ``sides`` places; ``steer`` (B, 6, D) is one for all blocks.

        ``tokens`` (B, S, D) are states of the text, of which those count where ``mask`` (B, S) is True; ``told`` is
        what is not as usual.
        """
        if told is not None and told.skipped:
            return x
        parts = (steer + self.table.to(steer.dtype)).unbind(1)
        x = gated(x, parts[2], self.look(shifted(x, parts[0], parts[1]), told))
        x = self.text(x, tokens, mask, rest=x, told=told)
        maps = shifted(x, parts[3], parts[4]).view(len(x), *sides, -1).permute(0, 3, 1, 2)
        mixed = self.mix(maps, None if told is None else told.told.wrap)
        return gated(x, parts[5], mixed.permute(0, 2, 3, 1).flatten(1, 2))


class Sana(nn.Module):
    """A transformer built from a SanaConfig; ``wraps`` where its convolutions alone know where a picture ends."""

    def __init__(self, config: SanaConfig) -> None:
        """Build the network of ``config`` with random weights."""
        super().__init__()
        self.config = config
        width = config.width
        self.enter = nn.Conv2d(config.channels, width, config.patch, stride=config.patch)
        self.clock = MLP(CLOCK, width)
        self.guidance = MLP(CLOCK, width) if config.guidance else None
        self.all_blocks = nn.Linear(width, 6 * width)
        self.words_up = nn.Linear(config.tokens, width)
        self.words_down = nn.Linear(width, width)
        self.words_norm = RMSNorm(width, WORDS_EPS)
        self.blocks = nn.ModuleList(SanaBlock(config) for _ in range(config.depth))
        self.table = nn.Parameter(torch.zeros(2, width))
        self.leave = nn.Linear(width, config.patch**2 * config.outer)
        self.attention_layers = ("block",) * config.depth
        self.wraps = not config.extent

    def forward(
        self,
        x: Tensor,
        clock: Tensor,
        *,
        tokens: Tensor,
        mask: Tensor | None = None,
        guidance: Tensor | None = None,
        manner: Manner | None = None,
        regions: Tensor | None = None,
        owner: Tensor | None = None,
    ) -> Tensor:
        """The velocity (B, outer, H, W) for ``x`` (B, channels, H, W) at ``clock`` (B,).

        The clock is 1000 times sigma, of which the network is told the whole part, as it was in training; one that
        reads ``guidance`` (B,) is told sigma itself. ``tokens`` (B, S, tokens) with ``mask`` (B, S), True where a
        token counts. ValueError for sides that are no multiples of the patch, or without guidance where it is read.
        ``manner``, ``regions`` and ``owner`` are Cond's.
        """
        config = self.config
        if any(side % config.patch for side in x.shape[-2:]):
            raise ValueError(f"sides {tuple(x.shape[-2:])} must be multiples of {config.patch}")
        height, width = (side // config.patch for side in x.shape[-2:])
        h = self.enter(x).flatten(2).transpose(1, 2)
        if config.extent:
            h = h + grid_places(height, width, config.width, config.extent, x.device).to(x.dtype)
        steer = self._steer(clock.double(), guidance, x)
        shared = self.all_blocks(F.silu(steer)).unflatten(-1, (6, -1))
        words = self.words_down(F.gelu(self.words_up(tokens), approximate="tanh"))
        words = self.words_norm(words)
        told = told_of(manner, regions, owner)
        for number, block in enumerate(self.blocks):
            at = None if told is None else told.at(number, (height, width))
            h = block(h, (height, width), shared, words, mask, at)
        ends = steer[:, None] + self.table.to(steer.dtype)
        return unpatch(self.leave(shifted(h, ends[:, 0], ends[:, 1])), height, width, config.patch)

    def _steer(self, clock: Tensor, guidance: Tensor | None, like: Tensor) -> Tensor:
        """The embedding (B, D) of the clock, and of the guidance that the network reads."""
        if self.guidance is None:
            clock = (clock + NEAR).floor()
        steer: Tensor = self.clock(sinusoid(clock, CLOCK, like=like))
        if self.guidance is not None:
            if guidance is None:
                raise ValueError("this network reads the strength of guidance: give it guidance")
            steer = steer + self.guidance(sinusoid(self.config.told * guidance, CLOCK, like=like))
        return steer
