"""The U-Net of diffusion models on pixels without text (Ho et al. 2020, appendix B; Dhariwal & Nichol 2021, section 3).

As UNet, with self-attention alone; sides may be halved and doubled inside of residual blocks (BigGAN's way).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.manner import Manner
from sfumato.nn.attention import SpatialAttention
from sfumato.nn.embed import MLP, sinusoid
from sfumato.nn.resnet import Double, GroupNormSiLU, Halve, ResBlock, Wrap, grouped
from sfumato.nn.told import Told, around, told_of


@dataclass(frozen=True, kw_only=True)
class PixelConfig:
    """The numbers that make a PixelUNet; lists go from the finest level to the coarsest.

    ``attention`` says which levels have it, ``middle`` whether the middle does, in groups of ``middle_groups``;
    ``head`` is the width of a head, 0 for a single one, and ``heads`` how many there are where that is the same at all
    levels. ``halve`` and ``double`` say between which levels sides change in a residual block, not by a convolution.
    Groups of norms have at least ``least`` channels. The clock is told ``rate`` times itself, by ``sinusoids`` values
    (0: as many as the first width). ``fused`` says how a file that joins queries, keys and values orders their rows:
    as "parts", by "heads", or turn by turn ("values"). The other values are UNetConfig's. ``side`` is that of the
    pictures.
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
    heads: int = 0
    classes: int = 0
    groups: int = 32
    least: int = 1
    middle_groups: int = 32
    eps: float = 1e-5
    scale_shift: bool = False
    cos_first: bool = True
    shift: float = 0.0
    pad: int = 1
    rate: float = 1.0
    sinusoids: int = 0
    fused: Literal["parts", "heads", "values"] = "parts"
    side: int = 0

    @property
    def channels(self) -> int:
        """How many channels go in."""
        return self.inner

    def heads_of(self, width: int) -> int:
        """How many heads attention over ``width`` channels has."""
        return self.heads or (width // self.head if self.head else 1)


class Resample(ResBlock):
    """A residual block that halves or doubles the sides between its first norm and its first convolution."""

    def __init__(
        self, width: int, *, double: bool, clock: int, groups: int, least: int, eps: float, scale_shift: bool
    ) -> None:
        """Build a block of ``width`` channels."""
        super().__init__(
            width, width, clock=clock, groups=groups, least=least, eps=eps, scale_shift=scale_shift
        )
        self.doubles = double

    def resized(self, x: Tensor) -> Tensor:
        """``x`` with sides halved by means of four, or doubled by nearest neighbours."""
        return F.interpolate(x, scale_factor=2.0) if self.doubles else F.avg_pool2d(x, 2)

    def forward(self, x: Tensor, clock: Tensor | None = None, wrap: Wrap = None) -> Tensor:
        """Map ``x`` (B, width, H, W); ``clock`` (B, clock) is already through SiLU."""
        assert self.clock is not None
        assert clock is not None
        h = self.resized(self.norm1(x))
        h = self.conv1(h) if wrap is None else around(self.conv1, h, wrap)
        if self.scale_shift:
            scale, shift = self.clock(clock).chunk(2, dim=1)
            h = self.norm2(h, scale, shift)
        else:
            h = self.norm2(h + self.clock(clock)[:, :, None, None])
        out: Tensor = self.resized(x) + (self.conv2(h) if wrap is None else around(self.conv2, h, wrap))
        return out


class Descent(nn.Module):
    """The way down and the middle of a U-Net on pixels, and how both are steered."""

    def __init__(self, config: PixelConfig) -> None:
        """Build this part of the network of ``config`` with random weights."""
        super().__init__()
        self.config = config
        widths, first = config.widths, config.widths[0]
        self.sinusoids = config.sinusoids or first
        clock = 4 * self.sinusoids
        self.clock = MLP(self.sinusoids, clock)
        self.label = nn.Embedding(config.classes, clock) if config.classes else None
        self.enter = nn.Conv2d(config.inner, first, 3, padding=1)
        self.down = nn.ModuleList()
        self.skips, width = [first], first
        for level, wanted in enumerate(widths):
            for _ in range(config.blocks):
                self.down.append(self.stage(width, wanted, config.attention[level]))
                width = wanted
                self.skips.append(width)
            if level < len(widths) - 1:
                inside = config.halve[level]
                self.down.append(
                    self.resample(width, double=False) if inside else Halve(width, pad=config.pad)
                )
                self.skips.append(width)
        self.middle = self.stage(width, width, config.middle, config.middle_groups)
        self.after = self.stage(width, width, False)

    def stage(self, inner: int, outer: int, looks: bool, groups: int = 0) -> nn.ModuleDict:
        """A block from ``inner`` to ``outer`` channels, and attention if it ``looks``, its norm in ``groups``."""
        config = self.config
        made: dict[str, nn.Module] = {
            "block": ResBlock(
                inner,
                outer,
                clock=4 * self.sinusoids,
                groups=config.groups,
                least=config.least,
                eps=config.eps,
                scale_shift=config.scale_shift,
            )
        }
        if looks:
            few = grouped(outer, groups or config.groups, config.least)
            made["look"] = SpatialAttention(outer, config.heads_of(outer), groups=few, eps=config.eps)
        return nn.ModuleDict(made)

    def resample(self, width: int, *, double: bool) -> Resample:
        """A block of ``width`` channels that doubles or halves the sides."""
        config = self.config
        return Resample(
            width,
            double=double,
            clock=4 * self.sinusoids,
            groups=config.groups,
            least=config.least,
            eps=config.eps,
            scale_shift=config.scale_shift,
        )

    def steer(self, clock: Tensor, label: Tensor | None, like: Tensor) -> Tensor:
        """The embedding (B, 4 sinusoids) of clock and class, through SiLU, in the dtype of ``like``."""
        config = self.config
        steer: Tensor = self.clock(
            sinusoid(
                config.rate * clock, self.sinusoids, cos_first=config.cos_first, shift=config.shift, like=like
            )
        )
        if self.label is not None:
            if label is None:
                raise ValueError("this network reads a class: give it a label")
            steer = steer + self.label(label)
        return F.silu(steer)

    def descend(
        self, x: Tensor, steer: Tensor, told: Told | None, numbers: Iterator[int]
    ) -> tuple[Tensor, list[Tensor]]:
        """What comes out of the middle, and all that is handed over to the way up. The arguments are ``passed``'s."""
        wrap = None if told is None else told.wrap
        h = self.enter(x) if wrap is None else around(self.enter, x, wrap)
        skips = [h]
        for layer in self.down:
            h = passed(layer, h, steer, told, numbers)
            skips.append(h)
        for layer in (self.middle, self.after):
            h = passed(layer, h, steer, told, numbers)
        return h, skips


class PixelUNet(Descent):
    """A U-Net built from a PixelConfig; ``wraps`` says that its convolutions can go on from the other edge."""

    wraps = True

    def __init__(self, config: PixelConfig) -> None:
        """Build the network of ``config`` with random weights."""
        super().__init__(config)
        widths, skips = config.widths, [*self.skips]
        width = widths[-1]
        self.up = nn.ModuleList()
        for level in reversed(range(len(widths))):
            for _ in range(config.blocks + 1):
                self.up.append(self.stage(width + skips.pop(), widths[level], config.attention[level]))
                width = widths[level]
            if level:
                inside = config.double[level - 1]
                self.up.append(self.resample(width, double=True) if inside else Double(width))
        self.norm = GroupNormSiLU(grouped(width, config.groups, config.least), width, config.eps)
        self.leave = nn.Conv2d(width, config.outer, 3, padding=1)
        parts = (("down", [*self.down]), ("middle", [self.middle, self.after]), ("up", [*self.up]))
        self.attention_layers = tuple(
            name for name, part in parts for one in part if isinstance(one, nn.ModuleDict) and "look" in one
        )

    def forward(
        self, x: Tensor, clock: Tensor, *, label: Tensor | None = None, manner: Manner | None = None
    ) -> Tensor:
        """The output (B, outer, H, W) for ``x`` (B, inner, H, W) at ``clock`` (B,), an index of the schedule.

        ``label`` (B,) int is the class, where the network reads one: ValueError without it. Sides are multiples of
        2 to the power of how often they are halved. ``manner`` is Cond's.
        """
        steer = self.steer(clock, label, x)
        told, numbers = told_of(manner, None, None), count()
        wrap = None if told is None else told.wrap
        h, skips = self.descend(x, steer, told, numbers)
        for layer in self.up:
            h = torch.cat((h, skips.pop()), dim=1) if isinstance(layer, nn.ModuleDict) else h
            h = passed(layer, h, steer, told, numbers)
        h = self.norm(h)
        out: Tensor = self.leave(h) if wrap is None else around(self.leave, h, wrap)
        return out


def passed(layer: nn.Module, x: Tensor, steer: Tensor, told: Told | None, numbers: Iterator[int]) -> Tensor:
    """``x`` through a stage (a block, and attention where there is one) or through what changes its sides.

    ``told`` is what is not as usual; ``numbers`` count the attention layers.
    """
    wrap = None if told is None else told.wrap
    if isinstance(layer, nn.ModuleDict):
        x = layer["block"](x, steer, wrap)
        if "look" in layer:
            number = next(numbers)
            x = layer["look"](x, None if told is None else told.at(number, (x.shape[-2], x.shape[-1])))
        return x
    if isinstance(layer, Resample):
        return layer(x, steer, wrap)  # type: ignore[no-any-return]
    out: Tensor = layer(x, wrap=wrap)
    return out
