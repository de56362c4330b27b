"""DDPM++ and NCSN++ (Song et al. 2021b, appendix H) as EDM has them (Karras et al. 2022, appendix F.2).

A U-Net whose residual blocks and attentions are scaled by the root of a half. NCSN++ embeds the clock in random
frequencies, changes sides with a smoother filter, and adds the picture, made smaller, to every level on the way down.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import count

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.manner import Manner
from sfumato.nn.adm import passed
from sfumato.nn.attention import SpatialAttention
from sfumato.nn.embed import sinusoid
from sfumato.nn.resnet import GroupNormSiLU, ResBlock, Wrap, grouped
from sfumato.nn.told import Place, around, told_of

HALF = math.sqrt(0.5)
GROUPS, LEAST, EPS = 32, 4, 1e-6


@dataclass(frozen=True, kw_only=True)
class SongConfig:
    """The numbers that make a SongUNet; lists go from the finest level to the coarsest.

    ``first`` is the width of the first convolution, ``noise`` of the clock's features, ``clock`` of its embedding;
    ``fourier`` says that the features are of random frequencies, ``residual`` that the picture is added on the way
    down, and ``smooth`` that sides change with the filter (1, 3, 3, 1), not (1, 1). ``side`` is that of the pictures.
    """

    inner: int = 3
    outer: int = 3
    first: int = 128
    widths: tuple[int, ...]
    blocks: int = 4
    attention: tuple[bool, ...]
    classes: int = 0
    noise: int = 128
    clock: int = 512
    fourier: bool = False
    residual: bool = False
    smooth: bool = False
    side: int = 0

    @property
    def channels(self) -> int:
        """How many channels go in."""
        return self.inner


class Sides:
    """Halves and doubles sides with a separable filter, (1, 3, 3, 1) if it is ``smooth``, else (1, 1)."""

    def __init__(self, smooth: bool) -> None:
        """The filter's weights."""
        self.smooth = smooth

    def kernel(self, x: Tensor) -> Tensor:
        """The filter for the channels of ``x``, whose sum is 1."""
        line = torch.tensor([1.0, 3.0, 3.0, 1.0] if self.smooth else [1.0, 1.0]).to(x)
        square = torch.outer(line, line) / line.sum().square()
        return square.expand(x.shape[1], 1, -1, -1)

    def halved(self, x: Tensor, pad: int = 1) -> Tensor:
        """``x`` (B, C, H, W) with half the sides; ``pad`` zeros are around it for the smooth filter."""
        return F.conv2d(x, self.kernel(x), stride=2, padding=pad * self.smooth, groups=x.shape[1])

    def doubled(self, x: Tensor) -> Tensor:
        """``x`` (B, C, H, W) with twice the sides."""
        kernel = 4 * self.kernel(x)
        return F.conv_transpose2d(x, kernel, stride=2, padding=int(self.smooth), groups=x.shape[1])


class SongBlock(ResBlock):
    """A residual block, scaled; with ``change`` 2 or 1/2 sides become so many times as large after the first norm."""

    def __init__(self, inner: int, outer: int, clock: int, sides: Sides, change: float = 1.0) -> None:
        """Build a block from ``inner`` to ``outer`` channels; one that changes sides has a shortcut of its own."""
        super().__init__(inner, outer, clock=clock, groups=GROUPS, least=LEAST, eps=EPS)
        self.sides, self.change = sides, change
        if change != 1:
            self.short = nn.Conv2d(inner, outer, 1)

    def resized(self, x: Tensor) -> Tensor:
        """``x`` with the sides that the block changes to."""
        if self.change == 1:
            return x
        return self.sides.doubled(x) if self.change > 1 else self.sides.halved(x)

    def forward(self, x: Tensor, clock: Tensor | None = None, wrap: Wrap = None) -> Tensor:
        """Map ``x`` (B, inner, H, W); ``clock`` (B, clock) is already through SiLU."""
        assert self.clock is not None
        assert clock is not None
        h, x = self.resized(self.norm1(x)), self.resized(x)
        h = self.conv1(h) if wrap is None else around(self.conv1, h, wrap)
        h = self.norm2(h + self.clock(clock)[:, :, None, None])
        h = self.conv2(h) if wrap is None else around(self.conv2, h, wrap)
        out: Tensor = ((x if self.short is None else self.short(x)) + h) * HALF
        return out


class SongLook(SpatialAttention):
    """Attention of a single head over the places of a map, scaled."""

    def __init__(self, width: int) -> None:
        """Build it for ``width`` channels."""
        super().__init__(width, 1, groups=grouped(width, GROUPS, LEAST), eps=EPS)

    def forward(self, x: Tensor, told: Place | None = None) -> Tensor:
        """Map (B, width, H, W) to the same shape; ``told`` is what is not as usual."""
        return super().forward(x, told) * HALF


class Smaller(nn.Module):
    """The picture, or what it became a level before, with half the sides: a 3x3 convolution, filtered afterwards."""

    def __init__(self, inner: int, outer: int, sides: Sides) -> None:
        """Build the convolution from ``inner`` to ``outer`` channels."""
        super().__init__()
        self.conv = nn.Conv2d(inner, outer, 3, padding=1)
        self.sides = sides

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inner, H, W) to (B, outer, H/2, W/2)."""
        h = F.conv2d(x, self.conv.weight, padding=1 + self.sides.smooth)
        out: Tensor = self.sides.halved(h, pad=0) + self.conv.bias[:, None, None]  # type: ignore[index]
        return out


class SongUNet(nn.Module):
    """A U-Net built from a SongConfig; ``exact`` are the tensors that keep their digits in every dtype.

    ``wraps`` says that its convolutions can go on from the other edge, which the smooth filter does not.
    """

    exact = ("rates",)

    def __init__(self, config: SongConfig) -> None:
        """Build the network of ``config`` with random weights."""
        super().__init__()
        self.config = config
        self.wraps = not config.smooth
        sides = Sides(config.smooth)
        self.rates: Tensor
        if config.fourier:
            self.register_buffer("rates", 16 * torch.randn(config.noise // 2))
        self.label = nn.Linear(config.classes, config.noise) if config.classes else None
        self.clock = nn.Sequential(
            nn.Linear(config.noise, config.clock), nn.Linear(config.clock, config.clock)
        )
        self.enter = nn.Conv2d(config.inner, config.first, 3, padding=1)

        def stage(inner: int, outer: int, looks: bool, change: float = 1.0) -> nn.ModuleDict:
            made: dict[str, nn.Module] = {"block": SongBlock(inner, outer, config.clock, sides, change)}
            if looks:
                made["look"] = SongLook(outer)
            return nn.ModuleDict(made)

        self.down, self.up, self.beside = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        skips, width, aux = [config.first], config.first, config.inner
        for level, wanted in enumerate(config.widths):
            if level:
                self.down.append(stage(width, width, False, 0.5))
                skips.append(width)
                if config.residual:
                    self.beside.append(Smaller(aux, width, sides))
                    aux = width
            for _ in range(config.blocks):
                self.down.append(stage(width, wanted, config.attention[level]))
                width = wanted
                skips.append(width)
        self.middle, self.after = stage(width, width, True), stage(width, width, False)
        for level in reversed(range(len(config.widths))):
            if level < len(config.widths) - 1:
                self.up.append(stage(width, width, False, 2.0))
            for block in range(config.blocks + 1):
                looks = config.attention[level] and block == config.blocks
                self.up.append(stage(width + skips.pop(), config.widths[level], looks))
                width = config.widths[level]
        self.norm = GroupNormSiLU(grouped(width, GROUPS, LEAST), width, EPS)
        self.leave = nn.Conv2d(width, config.outer, 3, padding=1)
        parts = (("down", [*self.down]), ("middle", [self.middle, self.after]), ("up", [*self.up]))
        self.attention_layers = tuple(name for name, part in parts for one in part if "look" in one)

    def forward(
        self, x: Tensor, clock: Tensor, *, label: Tensor | None = None, manner: Manner | None = None
    ) -> Tensor:
        """The output (B, outer, H, W) for ``x`` (B, inner, H, W) at ``clock`` (B,), EDM's log(sigma) / 4.

        ``label`` (B,) int is the class, where the network reads one: ValueError without it. Sides are multiples of
        2 to the power of how often they are halved. ``manner`` is Cond's.
        """
        steer = self._steer(clock, label, x)
        told, numbers = told_of(manner, None, None), count()
        wrap = None if told is None else told.wrap
        h = self.enter(x) if wrap is None else around(self.enter, x, wrap)
        skips, aux, smaller = [h], x, iter(self.beside)
        for layer in self.down:
            h = passed(layer, h, steer, told, numbers)
            if self.config.residual and layer["block"].change != 1:  # type: ignore[index]
                h = aux = (h + next(smaller)(aux)) * HALF
            skips.append(h)
        for layer in (self.middle, self.after):
            h = passed(layer, h, steer, told, numbers)
        for layer in self.up:
            if layer["block"].change == 1:  # type: ignore[index]
                h = torch.cat((h, skips.pop()), dim=1)
            h = passed(layer, h, steer, told, numbers)
        h = self.norm(h)
        out: Tensor = self.leave(h) if wrap is None else around(self.leave, h, wrap)
        return out

    def _steer(self, clock: Tensor, label: Tensor | None, x: Tensor) -> Tensor:
        """The embedding (B, clock) of clock and class, through SiLU."""
        if self.config.fourier:
            angle = clock.double()[:, None] * (2 * math.pi * self.rates.double())
            steer = torch.cat((angle.sin(), angle.cos()), dim=1).to(x.dtype)
        else:
            steer = sinusoid(clock, self.config.noise, cos_first=False, shift=1.0, like=x)
        if self.label is not None:
            if label is None:
                raise ValueError("this network reads a class: give it a label")
            classes = self.config.classes
            steer = steer + self.label(math.sqrt(classes) * F.one_hot(label, classes).to(x.dtype))
        for layer in self.clock:
            steer = F.silu(layer(steer))
        return steer
