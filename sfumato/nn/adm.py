"""The U-Net of diffusion models on pixels without text (Ho et al. 2020, appendix B; Dhariwal & Nichol 2021, section 3).

As UNet, with self-attention alone; sides may be halved and doubled inside of residual blocks (BigGAN's way).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.nn.attention import SpatialAttention
from sfumato.nn.embed import MLP, sinusoid
from sfumato.nn.resnet import Double, GroupNormSiLU, Halve, ResBlock


@dataclass(frozen=True, kw_only=True)
class PixelConfig:
    """The numbers that make a PixelUNet; lists go from the finest level to the coarsest.

    ``attention`` says which levels have it, ``middle`` whether the middle does, in groups of ``middle_groups``;
    ``head`` is the width of a head, 0 for a single one. ``halve`` and ``double`` say between which levels sides change
    in a residual block, not by a convolution. The other values are UNetConfig's. ``side`` is that of the pictures.
    """

    inner: int = 3
    outer: int = 3
    widths: tuple[int, ...]
    blocks: int = 2
    attention: tuple[bool, ...]
    middle: bool = True
    halve: tuple[bool, ...]
    double: tuple[bool, ...]
    head: int = 8
    classes: int = 0
    groups: int = 32
    middle_groups: int = 32
    eps: float = 1e-5
    scale_shift: bool = False
    cos_first: bool = True
    shift: float = 0.0
    pad: int = 1
    side: int = 0

    @property
    def channels(self) -> int:
        """How many channels go in."""
        return self.inner


class Resample(ResBlock):
    """A residual block that halves or doubles the sides between its first norm and its first convolution."""

    def __init__(
        self, width: int, *, double: bool, clock: int, groups: int, eps: float, scale_shift: bool
    ) -> None:
        """Build a block of ``width`` channels."""
        super().__init__(width, width, clock=clock, groups=groups, eps=eps, scale_shift=scale_shift)
        self.double = double

    def resized(self, x: Tensor) -> Tensor:
        """``x`` with sides halved by means of four, or doubled by nearest neighbours."""
        return F.interpolate(x, scale_factor=2.0) if self.double else F.avg_pool2d(x, 2)

    def forward(self, x: Tensor, clock: Tensor | None = None) -> Tensor:
        """Map ``x`` (B, width, H, W); ``clock`` (B, clock) is already through SiLU."""
        assert self.clock is not None
        assert clock is not None
        h = self.conv1(self.resized(self.norm1(x)))
        if self.scale_shift:
            scale, shift = self.clock(clock).chunk(2, dim=1)
            h = self.norm2(h, scale, shift)
        else:
            h = self.norm2(h + self.clock(clock)[:, :, None, None])
        out: Tensor = self.resized(x) + self.conv2(h)
        return out


class PixelUNet(nn.Module):
    """A U-Net built from a PixelConfig."""

    def __init__(self, config: PixelConfig) -> None:
        """Build the network of ``config`` with random weights."""
        super().__init__()
        self.config = config
        widths, first = config.widths, config.widths[0]
        clock = 4 * first
        self.clock = MLP(first, clock)
        self.label = nn.Embedding(config.classes, clock) if config.classes else None
        self.enter = nn.Conv2d(config.inner, first, 3, padding=1)
        usual = {
            "clock": clock,
            "groups": config.groups,
            "eps": config.eps,
            "scale_shift": config.scale_shift,
        }

        def stage(inner: int, outer: int, looks: bool, groups: int = config.groups) -> nn.ModuleDict:
            made: dict[str, nn.Module] = {"block": ResBlock(inner, outer, **usual)}  # type: ignore[arg-type]
            if looks:
                heads = outer // config.head if config.head else 1
                made["look"] = SpatialAttention(outer, heads, groups=groups, eps=config.eps)
            return nn.ModuleDict(made)

        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        skips, width = [first], first
        for level, wanted in enumerate(widths):
            for _ in range(config.blocks):
                self.down.append(stage(width, wanted, config.attention[level]))
                width = wanted
                skips.append(width)
            if level < len(widths) - 1:
                inside = config.halve[level]
                self.down.append(
                    Resample(width, double=False, **usual) if inside else Halve(width, pad=config.pad)  # type: ignore[arg-type]
                )
                skips.append(width)
        self.middle = stage(width, width, config.middle, config.middle_groups)
        self.after = stage(width, width, False)
        for level in reversed(range(len(widths))):
            for _ in range(config.blocks + 1):
                self.up.append(stage(width + skips.pop(), widths[level], config.attention[level]))
                width = widths[level]
            if level:
                inside = config.double[level - 1]
                self.up.append(Resample(width, double=True, **usual) if inside else Double(width))  # type: ignore[arg-type]
        self.norm = GroupNormSiLU(config.groups, width, config.eps)
        self.leave = nn.Conv2d(width, config.outer, 3, padding=1)

    def forward(self, x: Tensor, clock: Tensor, *, label: Tensor | None = None) -> Tensor:
        """The output (B, outer, H, W) for ``x`` (B, inner, H, W) at ``clock`` (B,), an index of the schedule.

        ``label`` (B,) int is the class, where the network reads one: ValueError without it. Sides are multiples of
        2 to the power of how often they are halved.
        """
        config = self.config
        steer = self.clock(
            sinusoid(clock, config.widths[0], cos_first=config.cos_first, shift=config.shift, like=x)
        )
        if self.label is not None:
            if label is None:
                raise ValueError("this network reads a class: give it a label")
            steer = steer + self.label(label)
        steer = F.silu(steer)
        h = self.enter(x)
        skips = [h]
        for layer in self.down:
            h = passed(layer, h, steer)
            skips.append(h)
        h = passed(self.after, passed(self.middle, h, steer), steer)
        for layer in self.up:
            h = passed(
                layer, torch.cat((h, skips.pop()), dim=1) if isinstance(layer, nn.ModuleDict) else h, steer
            )
        out: Tensor = self.leave(self.norm(h))
        return out


def passed(layer: nn.Module, x: Tensor, steer: Tensor) -> Tensor:
    """``x`` through a stage (a block, and attention where there is one) or through what changes its sides."""
    if isinstance(layer, nn.ModuleDict):
        x = layer["block"](x, steer)
        if "look" in layer:
            x = layer["look"](x)
        return x
    out: Tensor = layer(x, steer) if isinstance(layer, Resample) else layer(x)
    return out
