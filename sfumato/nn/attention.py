"""The layers of attention that U-Nets and transformers are made of."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.nn.attend import attend
from sfumato.nn.residual import onto
from sfumato.nn.resnet import GroupNorm
from sfumato.nn.told import Place, Told


class RMSNorm(nn.Module):
    """``x / rms(x) * weight`` over the last axis (Zhang & Sennrich 2019, equation 4)."""

    def __init__(self, width: int, eps: float = 1e-6) -> None:
        """Build the norm of vectors of ``width`` values."""
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last axis of ``x`` (..., width)."""
        return F.rms_norm(x, (x.shape[-1],), self.weight.to(x.dtype), self.eps)


class Attention(nn.Module):
    """Multi-head attention of ``x`` on itself, or on a context of width ``context``.

    ``qk_norm`` normalises queries and keys by heads (Dehghani et al. 2023, section 2).
    """

    def __init__(
        self, width: int, heads: int, *, context: int = 0, bias: bool = True, qk_norm: bool = False
    ) -> None:
        """Build the four projections; ValueError unless ``width`` is a multiple of ``heads``."""
        super().__init__()
        if width % heads:
            raise ValueError(f"{heads} heads do not divide a width of {width}")
        self.heads, self.context = heads, context
        self.q = nn.Linear(width, width, bias=bias)
        self.k = nn.Linear(context or width, width, bias=bias)
        self.v = nn.Linear(context or width, width, bias=bias)
        self.out = nn.Linear(width, width)
        self.q_norm = RMSNorm(width // heads) if qk_norm else None
        self.k_norm = RMSNorm(width // heads) if qk_norm else None

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        mask: Tensor | None = None,
        rotate: Tensor | None = None,
        rest: Tensor | None = None,
        told: Place | None = None,
    ) -> Tensor:
        """Attend from ``x`` (B, L, width) to ``context`` (B, S, context) or to ``x`` itself.

        ``mask`` (B, S) is True where a context token counts; ``rotate`` (L, d/2) are rotary angles. The
        result is added to ``rest`` (B, L, width) if that is given. ``told`` is what is not as usual.
        """
        query, key, value = self.project(x, context)
        if told is not None and context is None:
            query = told.blurred(query)
        query, key, value = (t.view(*t.shape[:-1], self.heads, -1) for t in (query, key, value))
        if self.q_norm is not None and self.k_norm is not None:
            query, key = self.q_norm(query), self.k_norm(key)
        if told is not None and context is None:
            query, key = told.aligned(query, key)
        if rotate is not None:
            query, key = turn(query, rotate), turn(key, rotate)
        if told is None:
            seen = attend(query, key, value, mask)
        elif context is None:
            seen = told.look(query, key, value)
        else:
            seen = attend(query, key, value, told.seen(mask))
        if rest is not None:
            return onto(rest, self.out, seen)
        out: Tensor = self.out(seen)
        return out

    def project(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries of ``x``, keys and values of ``context`` or of ``x``."""
        source = x if context is None else context
        return self.q(x), self.k(source), self.v(source)


def turn(x: Tensor, angle: Tensor) -> Tensor:
    """Rotate pairs of ``x`` (B, L, H, d) by ``angle`` (L, d/2) (Su et al. 2021, equation 34).

    The pairs are (first half, second half) of the last axis.
    """
    cos, sin = angle.cos()[:, None].to(x.dtype), angle.sin()[:, None].to(x.dtype)
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


def grid_angles(
    height: int, width: int, size: int, *, theta: float = 100.0, device: torch.device | None = None
) -> Tensor:
    """Rotary angles of an image grid, (height * width, size / 2): half the pairs turn by row, half by column.

    Frequencies are ``theta ** (-i / n)``, i = 0 .. n - 1, for the n = size / 4 pairs of each axis.
    """
    n = size // 4
    frequency = theta ** (-torch.arange(n, dtype=torch.float32, device=device) / n)
    rows = torch.arange(height, dtype=torch.float32, device=device)[:, None] * frequency
    columns = torch.arange(width, dtype=torch.float32, device=device)[:, None] * frequency
    both = (rows[:, None].expand(-1, width, -1), columns[None].expand(height, -1, -1))
    return torch.cat(both, dim=-1).flatten(0, 1)


class SpatialAttention(nn.Module):
    """Self-attention over the places of a feature map, normalised, with a residual (Ho et al. 2020, app. B)."""

    def __init__(self, width: int, heads: int, *, groups: int = 32, eps: float = 1e-5) -> None:
        """Build the norm and the attention of ``width`` channels."""
        super().__init__()
        self.norm = GroupNorm(groups, width, eps)
        self.attention = Attention(width, heads)

    def forward(self, x: Tensor, told: Place | None = None) -> Tensor:
        """Map (B, C, H, W) to the same shape; ``told`` is what is not as usual."""
        if told is not None and told.skipped:
            return x
        out = self.attention(places(self.norm(x)), rest=places(x), told=told)
        return picture(out, x)


class GatedMLP(nn.Module):
    """``(a * gelu(b)) W`` with (a, b) = x V (Shazeer 2020, equation 6: GEGLU)."""

    def __init__(self, width: int, factor: int = 4) -> None:
        """Build the two projections around ``factor * width`` hidden values."""
        super().__init__()
        self.enter = nn.Linear(width, 2 * factor * width)
        self.leave = nn.Linear(factor * width, width)

    def forward(self, x: Tensor, rest: Tensor | None = None) -> Tensor:
        """Map (..., width) to (..., width), added to ``rest`` if that is given."""
        value, gate = self.enter(x).chunk(2, dim=-1)
        hidden = value * F.gelu(gate)
        if rest is not None:
            return onto(rest, self.leave, hidden)
        out: Tensor = self.leave(hidden)
        return out


class TextBlock(nn.Module):
    """Self-attention, attention to the text, gated MLP: one layer of a SpatialTransformer.

    With ``only_text`` the first attention reads the text as well, not the picture itself.
    """

    def __init__(self, width: int, heads: int, context: int, mlp: int = 4, only_text: bool = False) -> None:
        """Build the layer for tokens of ``context`` values."""
        super().__init__()
        self.only_text = only_text
        self.norm1 = nn.LayerNorm(width)
        self.self_attention = Attention(width, heads, context=context if only_text else 0, bias=False)
        self.norm2 = nn.LayerNorm(width)
        self.text_attention = Attention(width, heads, context=context, bias=False)
        self.norm3 = nn.LayerNorm(width)
        self.mlp = GatedMLP(width, mlp)

    def forward(self, x: Tensor, tokens: Tensor, mask: Tensor | None, told: Place | None = None) -> Tensor:
        """Map ``x`` (B, L, width), steered by ``tokens`` (B, S, context); ``told`` is what is not as usual."""
        if told is not None and told.skipped:
            return x
        if self.only_text:
            x = self.self_attention(self.norm1(x), tokens, mask, rest=x, told=told)
        else:
            x = self.self_attention(self.norm1(x), rest=x, told=told)
        x = self.text_attention(self.norm2(x), tokens, mask, rest=x, told=told)
        out: Tensor = self.mlp(self.norm3(x), rest=x)
        return out


class SpatialTransformer(nn.Module):
    """Transformer layers over the places of a feature map, with text (Rombach et al. 2022, section 3.3)."""

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        context: int,
        depth: int = 1,
        groups: int = 32,
        eps: float = 1e-6,
        mlp: int = 4,
        only_text: bool = False,
    ) -> None:
        """Build ``depth`` layers between two linear maps of ``width`` channels."""
        super().__init__()
        self.norm = GroupNorm(groups, width, eps)
        self.enter = nn.Linear(width, width)
        self.blocks = nn.ModuleList(TextBlock(width, heads, context, mlp, only_text) for _ in range(depth))
        self.leave = nn.Linear(width, width)

    def forward(
        self,
        x: Tensor,
        tokens: Tensor,
        mask: Tensor | None = None,
        told: Told | None = None,
        first: int = 0,
    ) -> Tensor:
        """Map ``x`` (B, C, H, W) to the same shape, steered by ``tokens`` (B, S, context).

        ``told`` is what is not as usual, ``first`` the number of the first layer among the network's.
        """
        rows = self.enter(places(self.norm(x)))
        for number, block in enumerate(self.blocks, first):
            at = None if told is None else told.at(number, (x.shape[-2], x.shape[-1]))
            rows = block(rows, tokens, mask, at)
        return picture(onto(places(x), self.leave, rows), x)


def places(x: Tensor) -> Tensor:
    """A feature map (B, C, H, W) as a row of places, (B, H W, C): a view if it is channels-last."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def picture(rows: Tensor, like: Tensor) -> Tensor:
    """A row of places (B, H W, C) as a feature map with the sides of ``like``, channels-last."""
    return rows.view(len(rows), *like.shape[-2:], -1).permute(0, 3, 1, 2)
