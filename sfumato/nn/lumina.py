"""The transformer of Lumina-Image 2 (Qin et al. 2025, section 3): text and picture as one row of tokens.

Text and picture are each refined by a few blocks of their own, then laid one behind the other. Every block has a norm
before and after attention and perceptron; the clock scales what goes in and gates, through tanh, what comes out.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.manner import Manner
from sfumato.nn.attend import attend
from sfumato.nn.attention import RMSNorm
from sfumato.nn.embed import MLP, sinusoid
from sfumato.nn.flux import folded, positions
from sfumato.nn.joint import CLOCK, axis_angles
from sfumato.nn.told import Place, told_of

EPS, LAST_EPS = 1e-5, 1e-6
"""Of all norms, and of the last one."""
STEER = 1024
"""The most values that the embedded clock has."""


@dataclass(frozen=True, kw_only=True)
class LuminaConfig:
    """The numbers that make a Lumina.

    ``depth`` blocks over text and picture, ``refiners`` over each alone; ``heads`` of queries and ``groups`` of keys
    and values, which several heads share; ``channels`` in and ``outer`` out of latents whose patches are 2 x 2;
    ``tokens`` is the width of the text's states, ``hidden`` of the perceptron. ``axes`` are how many values of a head
    turn by the place in the text, the row and the column, with ``theta``.
    """

    depth: int = 26
    refiners: int = 2
    width: int = 2304
    heads: int = 24
    groups: int = 8
    channels: int = 16
    outer: int = 16
    tokens: int = 2304
    hidden: int = 9216
    axes: tuple[int, ...] = (32, 32, 32)
    theta: float = 10000.0

    @property
    def steer(self) -> int:
        """How many values the embedded clock has."""
        return min(self.width, STEER)


class LuminaBlock(nn.Module):
    """Attention whose keys and values are shared by several heads, and a gated perceptron (SwiGLU)."""

    def __init__(self, width: int, heads: int, groups: int, hidden: int, steer: int = 0) -> None:
        """Build it for tokens of ``width`` values; it is steered by ``steer`` values, by none if that is 0."""
        super().__init__()
        head = width // heads
        self.heads, self.groups = heads, groups
        self.modulation = nn.Linear(steer, 4 * width) if steer else None
        self.qkv = nn.Linear(width, (heads + 2 * groups) * head, bias=False)
        self.q_norm, self.k_norm = RMSNorm(head, EPS), RMSNorm(head, EPS)
        self.out = nn.Linear(width, width, bias=False)
        self.gate = nn.Linear(width, hidden, bias=False)
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)
        self.before, self.after = RMSNorm(width, EPS), RMSNorm(width, EPS)
        self.before_up, self.after_down = RMSNorm(width, EPS), RMSNorm(width, EPS)

    def forward(
        self,
        x: Tensor,
        turn: tuple[Tensor, Tensor],
        mask: Tensor | None = None,
        steer: Tensor | None = None,
        told: Place | None = None,
        text: int = 0,
    ) -> Tensor:
        """Map ``x`` (B, L, D), whose places ``turn`` (cosines and sines (B, L, d / 2)) says.

        ``mask`` (B, L) or (B, L, L) is True where a token counts; ``steer`` (B, steer) is the embedded clock.
        ``told`` is what is not as usual, and has the mask then; the first ``text`` tokens are words.
        """
        if told is not None and told.skipped:
            return x
        enter, rise = self.before(x), self.before_up
        if self.modulation is None:
            x = x + self.after(self._look(enter, turn, mask, None, 0))
            still: Tensor = x + self.after_down(self._feed(rise(x)))
            return still
        scale, gate, scale_up, gate_up = self.modulation(steer)[:, None].chunk(4, dim=-1)
        x = x + gate.tanh() * self.after(self._look(enter * (1 + scale), turn, mask, told, text))
        steered: Tensor = x + gate_up.tanh() * self.after_down(self._feed(rise(x) * (1 + scale_up)))
        return steered

    def _look(
        self, x: Tensor, turn: tuple[Tensor, Tensor], mask: Tensor | None, told: Place | None, text: int
    ) -> Tensor:
        shares = (self.heads, self.groups, self.groups)
        query, key, value = self.qkv(x).unflatten(-1, (sum(shares), -1)).split(shares, dim=2)
        if told is not None:
            query = told.blurred(query, text)
        query, key = self.q_norm(query), self.k_norm(key)
        if told is not None:
            query, key = told.aligned(query, key, text)
        query, key = _turned(query, *turn), _turned(key, *turn)
        each = self.heads // self.groups
        key, value = (t.repeat_interleave(each, dim=2) for t in (key, value))
        looked = attend(query, key, value, mask) if told is None else told.look(query, key, value, text)
        seen: Tensor = self.out(looked)
        return seen

    def _feed(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(F.silu(self.gate(x)) * self.up(x))
        return out


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """sfumato.nn.joint.turned with angles (B, L, d / 2) of each row."""
    a, b = x.to(cos.dtype).view(*x.shape[:-1], -1, 2).unbind(-1)
    c, s = cos[:, :, None], sin[:, :, None]
    return torch.stack((a * c - b * s, a * s + b * c), dim=-1).flatten(-2).to(x.dtype)


class Lumina(nn.Module):
    """Refined text and refined patches of 2 x 2 latents through the same blocks."""

    def __init__(self, config: LuminaConfig) -> None:
        """Build the network of ``config`` with random weights."""
        super().__init__()
        self.config = config
        self.enter = nn.Linear(4 * config.channels, config.width)
        self.words_norm = RMSNorm(config.tokens, EPS)
        self.words = nn.Linear(config.tokens, config.width)
        self.clock = MLP(CLOCK, config.steer)
        sizes = config.width, config.heads, config.groups, config.hidden
        self.text = nn.ModuleList(LuminaBlock(*sizes) for _ in range(config.refiners))
        self.picture = nn.ModuleList(LuminaBlock(*sizes, config.steer) for _ in range(config.refiners))
        self.blocks = nn.ModuleList(LuminaBlock(*sizes, config.steer) for _ in range(config.depth))
        self.modulation = nn.Linear(config.steer, config.width)
        self.leave = nn.Linear(config.width, 4 * config.outer)
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
        """The velocity (B, outer, H, W) for ``x`` (B, channels, H, W) at ``clock`` (B,), 1000 times sigma.

        ``tokens`` (B, S, tokens) with ``mask`` (B, S), True where one counts: the first of a row, or in any order where
        several texts have an ``owner`` each. Sides are even; ValueError otherwise. ``manner``, ``regions`` and
        ``owner`` are Cond's. (The network itself is told 1 - sigma and says the velocity towards the picture.)
        """
        if any(side % 2 for side in x.shape[-2:]):
            raise ValueError(f"sides {tuple(x.shape[-2:])} must be even")
        height, width = (side // 2 for side in x.shape[-2:])
        if mask is None:
            mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        tokens, mask, owner = counted_first(tokens, mask, owner)
        usual = manner is None and regions is None
        told, sides = None if usual else told_of(manner, regions, owner, mask), (height, width)
        count = tokens.shape[1]
        cos, sin = self._angles(mask, height, width, torch.promote_types(x.dtype, torch.float32))
        steer = F.silu(self.clock(sinusoid(1 - clock.double() / 1000, CLOCK, like=x)))
        text = self.words(self.words_norm(tokens))
        for block in self.text:
            text = block(text, (cos[:, :count], sin[:, :count]), own_words(mask, owner))
        h = self.enter(corners_first(folded(x)))
        for number, block in enumerate(self.picture):
            at = None if told is None else told.at(number, sides)
            h = block(h, (cos[:, count:], sin[:, count:]), None, steer, at)
        h = torch.cat((text, h), dim=1)
        both = F.pad(mask, (0, height * width), value=True)
        for number, block in enumerate(self.blocks, len(self.picture)):
            h = block(h, (cos, sin), both, steer, None if told is None else told.at(number, sides), count)
        h = F.layer_norm(h[:, count:], h.shape[-1:], eps=LAST_EPS) * (1 + self.modulation(steer))[:, None]
        return -pictured(self.leave(h), height, width)

    def _angles(self, mask: Tensor, height: int, width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Cosines and sines (B, S + L, d / 2) of text, then picture, which is one place behind its row's text."""
        rows, count = mask.shape
        text = torch.zeros(rows, count, 3, device=mask.device)
        text[..., 0] = torch.arange(count, device=mask.device)
        picture = positions(height, width, 0).to(mask.device).expand(rows, -1, -1).clone()
        picture[..., 0] = mask.sum(dim=1, keepdim=True)
        places = torch.cat((text, picture), dim=1)
        cos, sin = axis_angles(places.flatten(0, 1), self.config.axes, self.config.theta, dtype)
        return cos.view(rows, -1, cos.shape[-1]), sin.view(rows, -1, sin.shape[-1])


def counted_first(tokens: Tensor, mask: Tensor, owner: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """``tokens`` (B, S, D), ``mask`` and ``owner`` (B, S) with those that count first, each in its order.

    Without an owner there is one text, which is in that order.
    """
    if owner is None:
        return tokens, mask, owner
    order = torch.argsort(mask.logical_not().int(), dim=1, stable=True)
    tokens = tokens.gather(1, order[..., None].expand_as(tokens))
    return tokens, mask.gather(1, order), owner.gather(1, order)


def own_words(mask: Tensor | None, owner: Tensor | None) -> Tensor | None:
    """The mask (B, S, S) of words that see those of their own text alone; ``mask`` (B, S) where there is one text."""
    if owner is None:
        return mask
    own = owner[:, :, None] == owner[:, None, :]
    return own if mask is None else own & mask[:, None]


def corners_first(patches: Tensor) -> Tensor:
    """Patches (B, L, 4 C) as this network has them: the four corners of a patch, each with its channels."""
    return patches.reshape(*patches.shape[:-1], -1, 4).transpose(-1, -2).flatten(-2)


def pictured(rows: Tensor, height: int, width: int) -> Tensor:
    """The reverse, and folded as a picture again: (B, L, 4 C) -> (B, C, 2 height, 2 width)."""
    patches = rows.unflatten(-1, (4, -1)).transpose(-1, -2).flatten(-2)  # type: ignore[no-untyped-call]
    return F.pixel_shuffle(patches.transpose(1, 2).unflatten(2, (height, width)), 2)
