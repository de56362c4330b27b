"""The U-Net of diffusion models on pictures and latents (Ronneberger et al. 2015; Ho et al. 2020, app. B).

Down: at each level some residual blocks, each maybe followed by attention, then half the sides. Middle:
block, attention, block. Up: the same backwards, each block reading what its mirror image on the way down has
left (the skip connections). The clock, a vector and a class label are summed into one embedding that steers
every block; text tokens are read by cross-attention.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from sfumato.manner import Manner
from sfumato.nn.attention import SpatialAttention, SpatialTransformer
from sfumato.nn.embed import MLP, sinusoid
from sfumato.nn.resnet import Double, GroupNormSiLU, Halve, ResBlock
from sfumato.nn.told import Told, around, told_of

Look = Literal["none", "self", "text"]


@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """The numbers that make a UNet.

    ``widths`` go from the finest level to the coarsest; ``attention`` says for each level whether its blocks
    are followed by nothing, self-attention, or a transformer that also reads text, ``middle`` the same for
    the middle. Attention has heads of ``head`` channels, or ``heads`` of them at every level if that is not 0
    (Stable Diffusion 1 has 8, DDPM 1). ``tokens``, ``vector`` are widths of the conditions, 0 for none;
    ``classes`` counts labels. ``cos_first`` and ``shift`` are the clock's sinusoid's (see embed.sinusoid);
    ``pad`` is Halve's. ``clock`` is the width of the embedding that steers (0: four times the first width),
    ``mlp`` how many times wider the hidden layers of transformers are. ``depth`` counts the layers of each level's
    transformers (one each if it is empty), ``middle_depth`` those of the middle; at the levels where ``only_text``
    is true the first attention of a layer reads the text too, in place of the picture. ``downs`` and ``ups`` count
    the layers of every stage, on the way down and up, where those of a level differ; with ``short_middle`` the middle
    is one block alone (SSD-1B, Vega: Gupta et al. 2024).
    """

    inner: int
    outer: int
    widths: tuple[int, ...]
    blocks: int = 2
    attention: tuple[Look, ...] = ()
    middle: Look = "self"
    head: int = 64
    tokens: int = 0
    vector: int = 0
    classes: int = 0
    groups: int = 32
    eps: float = 1e-5
    scale_shift: bool = False
    dropout: float = 0.0
    cos_first: bool = True
    shift: float = 0.0
    pad: int = 1
    clock: int = 0
    mlp: int = 4
    heads: int = 0
    depth: tuple[int, ...] = ()
    middle_depth: int = 1
    only_text: tuple[bool, ...] = ()
    downs: tuple[int, ...] = ()
    ups: tuple[int, ...] = ()
    short_middle: bool = False


class UNet(nn.Module):
    """A U-Net built from a UNetConfig; ``wraps`` says that its convolutions can go on from the other edge."""

    wraps = True

    def __init__(self, config: UNetConfig) -> None:
        """Build the network of ``config`` with random weights; the last convolution starts at zero."""
        super().__init__()
        self.config = config
        widths, first = config.widths, config.widths[0]
        none: Look = "none"
        attention = config.attention or (none,) * len(widths)
        only_text = config.only_text or (False,) * len(widths)
        downs, ups = iter(depths(config, config.downs)), iter(depths(config, config.ups, up=True))
        clock = config.clock or 4 * first
        self.clock = MLP(first, clock)
        self.vector = MLP(config.vector, clock) if config.vector else None
        self.label = nn.Embedding(config.classes, clock) if config.classes else None
        self.act = nn.SiLU()
        self.enter = nn.Conv2d(config.inner, first, 3, padding=1)
        self.down = nn.ModuleList()
        skips, width = [first], first
        for level, wanted in enumerate(widths):
            for _ in range(config.blocks):
                look = (attention[level], next(downs), only_text[level])
                self.down.append(Stage(config, width, wanted, clock, *look))
                width = wanted
                skips.append(width)
            if level < len(widths) - 1:
                self.down.append(Halve(width, pad=config.pad))
                skips.append(width)
        middle = none if config.short_middle else config.middle
        self.middle = Stage(config, width, width, clock, middle, config.middle_depth)
        self.after = None if config.short_middle else Stage(config, width, width, clock, none)
        self.up = nn.ModuleList()
        for level in reversed(range(len(widths))):
            for _ in range(config.blocks + 1):
                look = (attention[level], next(ups), only_text[level])
                self.up.append(Stage(config, width + skips.pop(), widths[level], clock, *look))
                width = widths[level]
            if level:
                self.up.append(Double(width))
        self.norm = GroupNormSiLU(config.groups, width, config.eps)
        self.leave = nn.Conv2d(width, config.outer, 3, padding=1)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)  # type: ignore[arg-type]
        self.attention_layers = self._number()

    def _number(self) -> tuple[str, ...]:
        """Give every stage the number of its first attention layer; returns where each layer lies."""
        found: list[str] = []
        for name, part in (("down", self.down), ("middle", [self.middle, self.after]), ("up", self.up)):
            for stage in part:
                if isinstance(stage, Stage):
                    stage.first = len(found)
                    found += [name] * stage.layers
        return tuple(found)

    def forward(
        self,
        x: Tensor,
        clock: Tensor,
        *,
        tokens: Tensor | None = None,
        mask: Tensor | None = None,
        vector: Tensor | None = None,
        label: Tensor | None = None,
        manner: Manner | None = None,
        regions: Tensor | None = None,
        owner: Tensor | None = None,
    ) -> Tensor:
        """The network's output (B, outer, H, W) for ``x`` (B, inner, H, W) at ``clock`` (B,).

        ``tokens`` (B, L, tokens) with ``mask`` (B, L), True where a token counts; ``vector`` (B, vector);
        ``label`` (B,) class numbers. Odd sides are allowed. ``manner``, ``regions`` and ``owner`` are Cond's.
        """
        config = self.config
        told = told_of(manner, regions, owner)
        wrap = None if told is None else told.wrap
        steer = self.clock(
            sinusoid(clock, config.widths[0], cos_first=config.cos_first, shift=config.shift, like=x)
        )
        if self.vector is not None and vector is not None:
            steer = steer + self.vector(vector)
        if self.label is not None and label is not None:
            steer = steer + self.label(label)
        steer = self.act(steer)
        h = self.enter(x) if wrap is None else around(self.enter, x, wrap)
        skips: list[Tensor] = [h]
        for layer in self.down:
            h = layer(h, steer, tokens, mask, told) if isinstance(layer, Stage) else layer(h, wrap)
            skips.append(h)
        h = self.middle(h, steer, tokens, mask, told)
        if self.after is not None:
            h = self.after(h, steer, tokens, mask, told)
        for layer in self.up:
            if isinstance(layer, Stage):
                h = layer(torch.cat((h, skips.pop()), dim=1), steer, tokens, mask, told)
            else:
                height, width = skips[-1].shape[-2:]
                h = layer(h, (height, width), wrap)
        h = self.norm(h)
        out: Tensor = self.leave(h) if wrap is None else around(self.leave, h, wrap)
        return out


def depths(config: UNetConfig, listed: tuple[int, ...], *, up: bool = False) -> tuple[int, ...]:
    """How many layers each stage's transformer has, on the way down or ``up``: as ``listed``, or each level's."""
    depth = config.depth or (1,) * len(config.widths)
    levels = tuple(reversed(depth)) if up else depth
    return listed or tuple(count for count in levels for _ in range(config.blocks + up))


class Stage(nn.Module):
    """A residual block and the attention after it."""

    def __init__(
        self,
        config: UNetConfig,
        inner: int,
        outer: int,
        clock: int,
        look: Look,
        depth: int = 1,
        only_text: bool = False,
    ) -> None:
        """Build a block from ``inner`` to ``outer`` channels, then ``depth`` layers of what ``look`` says."""
        super().__init__()
        self.block = ResBlock(
            inner,
            outer,
            clock=clock,
            groups=config.groups,
            eps=config.eps,
            scale_shift=config.scale_shift,
            dropout=config.dropout,
        )
        heads = config.heads or max(1, outer // config.head)
        self.first, self.layers = 0, 0 if look == "none" else depth if look == "text" else 1
        self.look: SpatialAttention | SpatialTransformer | None = None
        if look == "self":
            self.look = SpatialAttention(outer, heads, groups=config.groups, eps=config.eps)
        elif look == "text":
            self.look = SpatialTransformer(
                outer,
                heads,
                context=config.tokens,
                depth=depth,
                groups=config.groups,
                mlp=config.mlp,
                only_text=only_text,
            )

    def forward(
        self,
        x: Tensor,
        steer: Tensor,
        tokens: Tensor | None,
        mask: Tensor | None,
        told: Told | None = None,
    ) -> Tensor:
        """Map ``x`` (B, inner, H, W) to (B, outer, H, W); ``told`` is what is not as usual."""
        h: Tensor = self.block(x, steer) if told is None else self.block(x, steer, told.wrap)
        if isinstance(self.look, SpatialTransformer):
            if tokens is None:
                raise ValueError("this network reads text: give it tokens")
            out: Tensor = self.look(h, tokens, mask, told, self.first)
            return out
        if self.look is not None:
            h = self.look(h, None if told is None else told.at(self.first, (h.shape[-2], h.shape[-1])))
        return h
