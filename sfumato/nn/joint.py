"""Transformers in which picture and text are two streams that attend together (Esser et al. 2024, section 4)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.nn.attend import attend
from sfumato.nn.attention import RMSNorm
from sfumato.nn.embed import MLP, sinusoid
from sfumato.nn.told import Place

EPS = 1e-6
CLOCK = 256
"""How many features of the clock's sinusoid these transformers read."""


def shifted(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """The plain layer norm of ``x`` (B, L, D), scaled and shifted by rows: ``norm(x) (1 + scale) + shift``."""
    return torch.addcmul(shift[:, None], F.layer_norm(x, x.shape[-1:], eps=EPS), 1 + scale[:, None])


def gated(rest: Tensor, gate: Tensor, x: Tensor) -> Tensor:
    """``rest + gate x`` for ``x`` (B, L, D) and a gate by rows (B, D)."""
    return torch.addcmul(rest, gate[:, None], x)


class Heads(nn.Module):
    """Queries, keys and values by heads, with a norm of queries and keys where there is one."""

    def __init__(self, width: int, heads: int, norm: bool) -> None:
        """Build the projection of ``width`` values into ``heads`` heads."""
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.q_norm = RMSNorm(width // heads, EPS) if norm else None
        self.k_norm = RMSNorm(width // heads, EPS) if norm else None

    def forward(self, x: Tensor, told: Place | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Three of (B, L, H, d) for ``x`` (B, L, D); ``told`` is what is not as usual."""
        query, key, value = self.qkv(x).unflatten(-1, (3, self.heads, -1)).unbind(2)
        if told is not None:
            query = told.blurred(query)
        if self.q_norm is not None and self.k_norm is not None:
            query, key = self.q_norm(query), self.k_norm(key)
        return query, key, value


class Stream(nn.Module):
    """One stream's half of a joint block: modulation, its share of the attention, and a perceptron.

    ``last`` makes the text's half of the last block, of which only keys and values are read; ``dual`` gives the
    stream a second attention, on itself alone (Stable Diffusion 3.5 medium).
    """

    def __init__(
        self, width: int, heads: int, *, norm: bool = True, last: bool = False, dual: bool = False
    ) -> None:
        """Build the half of ``width`` values and ``heads`` heads."""
        super().__init__()
        self.modulation = nn.Linear(width, width * (2 if last else 9 if dual else 6))
        self.look = Heads(width, heads, norm)
        self.last = last
        if not last:
            self.out = nn.Linear(width, width)
            self.up = nn.Linear(width, 4 * width)
            self.down = nn.Linear(4 * width, width)
        self.look2 = Heads(width, heads, norm) if dual else None
        self.out2 = nn.Linear(width, width) if dual else None

    def parts(self, steer: Tensor) -> tuple[Tensor, ...]:
        """The modulation's parts (B, D): shift, scale, and if it is not the last gate, shift, scale, gate, ..."""
        told: Tensor = self.modulation(steer)
        return tuple(told.unflatten(-1, (-1, self.modulation.in_features)).unbind(-2))  # type: ignore[no-untyped-call]

    def finish(self, x: Tensor, seen: Tensor, parts: tuple[Tensor, ...], told: Place | None = None) -> Tensor:
        """``x`` (B, L, D) with what was ``seen`` (B, L, D), the second attention and the perceptron added."""
        before = x
        x = gated(x, parts[2], self.out(seen))
        if self.look2 is not None and self.out2 is not None:
            query, key, value = self.look2(shifted(before, parts[6], parts[7]), told)
            if told is None:
                again = attend(query, key, value)
            else:
                again = told.look(*told.aligned(query, key), value)
            x = gated(x, parts[8], self.out2(again))
        hidden = F.gelu(self.up(shifted(x, parts[3], parts[4])), approximate="tanh")
        return gated(x, parts[5], self.down(hidden))


class JointBlock(nn.Module):
    """Both streams attend to each other; each has its own weights."""

    def __init__(
        self, width: int, heads: int, *, norm: bool = True, last: bool = False, dual: bool = False
    ) -> None:
        """Build the block; ``last`` and ``dual`` are Stream's, of the text and of the picture."""
        super().__init__()
        self.picture = Stream(width, heads, norm=norm, dual=dual)
        self.text = Stream(width, heads, norm=norm, last=last)

    def forward(
        self,
        x: Tensor,
        text: Tensor,
        steer: Tensor,
        turn: tuple[Tensor, Tensor] | None = None,
        told: Place | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Map picture ``x`` (B, L, D) and ``text`` (B, S, D), steered by ``steer`` (B, D), already through SiLU.

        ``turn`` are the cosines and sines of the positions, text first (S + L, d / 2); ``told`` is what is not as
        usual.
        """
        if told is not None and told.skipped:
            return x, text
        ours, theirs = self.picture.parts(steer), self.text.parts(steer)
        picture = self.picture.look(shifted(x, *ours[:2]), told)
        words = self.text.look(shifted(text, *theirs[:2]))
        query, key, value = (torch.cat(pair, dim=1) for pair in zip(words, picture, strict=True))
        count = text.shape[1]
        if told is not None:
            query, key = told.aligned(query, key, count)
        if turn is not None:
            query, key = turned(query, *turn), turned(key, *turn)
        seen = attend(query, key, value) if told is None else told.look(query, key, value, count)
        x = self.picture.finish(x, seen[:, count:], ours, told)
        return x, text if self.text.last else self.text.finish(text, seen[:, :count], theirs)


class Steer(nn.Module):
    """The vector that modulates all blocks: clock, pooled text, and the strength of distilled guidance."""

    def __init__(self, width: int, vector: int, guidance: bool = False) -> None:
        """Build the embeddings into ``width`` values; ``vector`` is the width of the pooled text, 0 for none."""
        super().__init__()
        self.clock = MLP(CLOCK, width)
        self.vector = MLP(vector, width) if vector else None
        self.guidance = MLP(CLOCK, width) if guidance else None

    def forward(self, clock: Tensor, vector: Tensor | None, guidance: Tensor | None, like: Tensor) -> Tensor:
        """The vector (B, width) through SiLU; ``clock`` (B,) and ``guidance`` (B,) in thousands, dtype of ``like``."""
        steer = self.clock(sinusoid(clock, CLOCK, like=like))
        if self.guidance is not None:
            if guidance is None:
                raise ValueError("this network reads the strength of guidance: give it guidance")
            steer = steer + self.guidance(sinusoid(guidance, CLOCK, like=like))
        if self.vector is not None:
            if vector is None:
                raise ValueError("this network reads pooled text: give it a vector")
            steer = steer + self.vector(vector)
        return F.silu(steer)


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Neighbouring pairs of ``x`` (B, L, H, d) rotated by angles whose ``cos`` and ``sin`` are (L, d / 2).

    (Su et al. 2021, equation 34, as written there: values 2i and 2i + 1 are a pair.) In the precision of the
    angles, which is float32 at least.
    """
    a, b = x.to(cos.dtype).view(*x.shape[:-1], -1, 2).unbind(-1)
    c, s = cos[:, None], sin[:, None]
    return torch.stack((a * c - b * s, a * s + b * c), dim=-1).flatten(-2).to(x.dtype)


def axis_angles(
    ids: Tensor, axes: tuple[int, ...], theta: float = 10000.0, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Cosines and sines (L, sum(axes) / 2) of the positions ``ids`` (L, len(axes)), computed in float64.

    Axis k turns ``axes[k] / 2`` pairs by ``id theta^(-2 i / axes[k])``.
    """
    angles = [
        ids[:, k, None].double()
        * theta ** (-torch.arange(0, size, 2, dtype=torch.float64, device=ids.device) / size)
        for k, size in enumerate(axes)
    ]
    angle = torch.cat(angles, dim=-1)
    return angle.cos().to(dtype), angle.sin().to(dtype)
