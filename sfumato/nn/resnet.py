"""Convolutional blocks of U-Nets and autoencoders: residual block, halving and doubling of sides."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.nn.kernels.norm_silu import group_norm_silu
from sfumato.nn.residual import onto
from sfumato.nn.told import around

Wrap = tuple[bool, bool] | None
"""The axes over which convolutions go on from the other edge, where any do."""


def grouped(width: int, groups: int, least: int = 1) -> int:
    """How many groups a norm of ``width`` channels has: ``groups``, or fewer if each is to have ``least`` channels."""
    return groups if least == 1 else min(groups, width // least)


class GroupNorm(nn.GroupNorm):
    """Group norm (Wu & He 2018) by the fused kernel on a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x`` (B, C, H, W) in groups of channels."""
        return group_norm_silu(x, self.num_groups, self.weight, self.bias, self.eps, silu=False)


class GroupNormSiLU(nn.GroupNorm):
    """SiLU of a group norm (Wu & He 2018), maybe scaled and shifted by rows before: one fused kernel on a CPU."""

    def forward(self, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
        """``silu(norm(x) * (1 + scale) + shift)`` for ``x`` (B, C, H, W), ``scale`` and ``shift`` (B, C)."""
        return group_norm_silu(x, self.num_groups, self.weight, self.bias, self.eps, scale=scale, shift=shift)


class ResBlock(nn.Module):
    """Two normalised 3x3 convolutions around a shortcut, steered by the clock (Ho et al. 2020, appendix B).

    With ``scale_shift`` the clock scales and shifts the second norm (Nichol & Dhariwal 2021, section 6);
    otherwise it is added after the first convolution. ``clock`` is the width of the clock's embedding, 0 for
    a block without one. Norms are of ``groups`` groups, or of fewer so that each has ``least`` channels.
    """

    def __init__(
        self,
        inner: int,
        outer: int,
        *,
        clock: int = 0,
        groups: int = 32,
        least: int = 1,
        eps: float = 1e-5,
        scale_shift: bool = False,
        dropout: float = 0.0,
    ) -> None:
        """Build a block from ``inner`` to ``outer`` channels."""
        super().__init__()
        self.norm1 = GroupNormSiLU(grouped(inner, groups, least), inner, eps)
        self.conv1 = nn.Conv2d(inner, outer, 3, padding=1)
        self.clock = nn.Linear(clock, outer * (2 if scale_shift else 1)) if clock else None
        self.norm2 = GroupNormSiLU(grouped(outer, groups, least), outer, eps)
        self.conv2 = nn.Conv2d(outer, outer, 3, padding=1)
        self.short = nn.Conv2d(inner, outer, 1) if inner != outer else None
        self.scale_shift = scale_shift
        self.dropout = dropout

    def forward(self, x: Tensor, clock: Tensor | None = None, wrap: Wrap = None) -> Tensor:
        """Map ``x`` (B, inner, H, W) to (B, outer, H, W); ``clock`` (B, clock) is already through SiLU."""
        h = self.norm1(x)
        if wrap is not None:
            return self._around(x, h, clock, wrap)
        if self.clock is None or clock is None:
            h = self.norm2(self.conv1(h))
        elif self.scale_shift:
            scale, shift = self.clock(clock).chunk(2, dim=1)
            h = self.norm2(self.conv1(h), scale, shift)
        else:
            h = self.norm2(self.shifted(h, self.clock(clock)))
        if self.dropout:
            h = F.dropout(h, self.dropout, self.training)
        if self.short is None:
            return onto(x, self.conv2, h)
        return onto(self.short(x), self.conv2, h, overwrite=True)

    def _around(self, x: Tensor, h: Tensor, clock: Tensor | None, wrap: tuple[bool, bool]) -> Tensor:
        """The rest of ``forward`` after the first norm ``h``, with convolutions that go round; for inference."""
        if self.clock is None or clock is None:
            h = self.norm2(around(self.conv1, h, wrap))
        elif self.scale_shift:
            scale, shift = self.clock(clock).chunk(2, dim=1)
            h = self.norm2(around(self.conv1, h, wrap), scale, shift)
        else:
            shift = self.clock(clock)
            h = self.norm2(around(lambda wide: self.shifted(wide, shift), h, wrap))
        rest = x if self.short is None else self.short(x)
        return rest + around(self.conv2, h, wrap)

    def shifted(self, x: Tensor, shift: Tensor) -> Tensor:
        """The first convolution of ``x``, plus ``shift`` (B, outer)."""
        out: Tensor = self.conv1(x) + shift[:, :, None, None]
        return out


class Halve(nn.Module):
    """Halve both sides by a strided 3x3 convolution; ``pad`` 1 pads all round, 0 only right and below."""

    def __init__(self, channels: int, outer: int | None = None, *, pad: int = 1) -> None:
        """Build the convolution from ``channels`` to ``outer`` (the same by default)."""
        super().__init__()
        self.conv = nn.Conv2d(channels, outer or channels, 3, stride=2, padding=pad)
        self.pad = pad

    def forward(self, x: Tensor, wrap: Wrap = None) -> Tensor:
        """Map (B, C, H, W) to (B, outer, ceil(H/2), ceil(W/2))."""
        if wrap is not None:
            return around(self._plain, x, wrap, stride=2)
        return self._plain(x)

    def _plain(self, x: Tensor) -> Tensor:
        if not self.pad:
            x = F.pad(x, (0, 1, 0, 1))
        out: Tensor = self.conv(x)
        return out


class Double(nn.Module):
    """Double both sides by nearest neighbours, then a 3x3 convolution."""

    def __init__(self, channels: int, outer: int | None = None) -> None:
        """Build the convolution from ``channels`` to ``outer`` (the same by default)."""
        super().__init__()
        self.conv = nn.Conv2d(channels, outer or channels, 3, padding=1)

    def forward(self, x: Tensor, size: tuple[int, int] | None = None, wrap: Wrap = None) -> Tensor:
        """Map (B, C, H, W) to (B, outer, 2H, 2W), or to ``size`` where an odd side was halved."""
        x = F.interpolate(x, size=size) if size else F.interpolate(x, scale_factor=2.0)
        if wrap is not None:
            return around(self.conv, x, wrap)
        out: Tensor = self.conv(x)
        return out
