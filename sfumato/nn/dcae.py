"""DC-AE, an autoencoder whose latent is 32 to 128 times smaller a side (Chen et al. 2024c, section 3).

Going down and up, channels are exchanged for places beside a path without weights (residual autoencoding, figure 4);
the inner levels look over the whole map by linear attention (EfficientViT, Cai et al. 2023, section 3.1).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.nn.attention import picture, places
from sfumato.nn.linear import GluConv, answered, gathered
from sfumato.nn.strips import Strips

EPS = 1e-5
EXPAND = 4
"""How many times wider the hidden values of the gated convolutions are."""
ACTIVATIONS = {"silu": F.silu, "relu": F.relu}


@dataclass(frozen=True, kw_only=True)
class DcaeHalf:
    """The numbers that make an encoder or a decoder, by levels from the finest to the coarsest.

    ``widths`` are channels, ``blocks`` how many blocks there are: none in a first level that is only passed through.
    ``looks`` is whether its blocks attend, and ``scales`` then the sides of the kernels that gather queries, keys and
    values of their neighbourhoods. ``batch`` is whether blocks without attention have a batch norm in place of an RMS
    norm, ``act`` their activation, "silu" or "relu". ``shuffle`` moves channels to places behind a convolution on the
    way up, and back on the way down; without, maps are doubled before it and halved by its stride. ``short`` is
    whether the latent has a path without weights.
    """

    widths: tuple[int, ...] = (128, 256, 512, 512, 1024, 1024)
    blocks: tuple[int, ...] = (2, 2, 2, 3, 3, 3)
    looks: tuple[bool, ...] = (False, False, False, True, True, True)
    scales: tuple[tuple[int, ...], ...] = ((), (), (), (5,), (5,), (5,))
    batch: tuple[bool, ...] = (False,) * 6
    act: tuple[str, ...] = ("silu",) * 6
    shuffle: bool = False
    short: bool = True

    @property
    def outer(self) -> int:
        """The width next to the pixels."""
        return self.widths[0] if self.blocks[0] else self.widths[1]


@dataclass(frozen=True, kw_only=True)
class DcaeConfig:
    """The numbers that make a Dcae; ``head`` values a head of attention, ``last`` the activation before the pixels."""

    pixels: int = 3
    latent: int = 32
    head: int = 32
    encoder: DcaeHalf = field(default_factory=DcaeHalf)
    decoder: DcaeHalf = field(default_factory=lambda: DcaeHalf(blocks=(3,) * 6))
    last: str = "relu"

    @property
    def factor(self) -> int:
        """How many times smaller the latent's sides are."""
        return int(2 ** (len(self.decoder.widths) - 1))


class ChannelNorm(nn.Module):
    """The RMS norm of the channels of every place, with a weight and a bias."""

    def __init__(self, width: int) -> None:
        """Build the norm of ``width`` channels."""
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, C, H, W)."""
        rows = x.movedim(1, -1)
        return (F.rms_norm(rows, rows.shape[-1:], self.weight, EPS) + self.bias).movedim(-1, 1)


class Frozen(nn.Module):
    """A batch norm that has been trained: a fixed factor and offset of each channel (Ioffe & Szegedy 2015, alg. 2)."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, width: int) -> None:
        """Build the norm of ``width`` channels."""
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.register_buffer("running_mean", torch.zeros(width))
        self.register_buffer("running_var", torch.ones(width))
        self.register_buffer("num_batches_tracked", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, C, H, W)."""
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=EPS)


class PlainBlock(nn.Module):
    """Two convolutions and a norm, added to what comes in."""

    reach = 2

    def __init__(self, width: int, *, batch: bool, act: str) -> None:
        """Build the block of ``width`` channels; see DcaeHalf."""
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm = Frozen(width) if batch else ChannelNorm(width)
        self.act = ACTIVATIONS[act]

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        out: Tensor = x + self.norm(self.conv2(self.act(self.conv1(x))))
        return out

    def in_strips(self, x: Tensor, strips: Strips) -> Tensor:
        """``forward`` by strips."""
        return strips.over(x, self, reach=self.reach)


class Scale(nn.Module):
    """Queries, keys and values gathered from a neighbourhood: by channels, then by heads."""

    def __init__(self, width: int, groups: int, kernel: int) -> None:
        """Build it for ``width`` channels and ``groups`` groups of heads' channels; ``kernel`` is a side."""
        super().__init__()
        self.near = nn.Conv2d(width, width, kernel, padding=kernel // 2, groups=width, bias=False)
        self.mix = nn.Conv2d(width, width, 1, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        out: Tensor = self.mix(self.near(x))
        return out


class LookBlock(nn.Module):
    """Linear attention over the places of a map at several scales, then gated convolutions."""

    def __init__(self, width: int, head: int, scales: tuple[int, ...]) -> None:
        """Build the block of ``width`` channels, with ``head`` values a head; see DcaeHalf."""
        super().__init__()
        self.head, self.reach = head, max((side // 2 for side in scales), default=0)
        self.qkv = nn.Conv2d(width, 3 * width, 1, bias=False)
        self.scales = nn.ModuleList(Scale(3 * width, 3 * (width // head), side) for side in scales)
        self.out = nn.Conv2d(width * (1 + len(scales)), width, 1, bias=False)
        self.norm = ChannelNorm(width)
        self.mix = GluConv(width, EXPAND * width)
        self.mix_norm = ChannelNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        return self._mixed(self._seen(x, None))

    def in_strips(self, x: Tensor, strips: Strips) -> Tensor:
        """``forward`` by strips: the sums over all places are gathered first."""
        sums = None
        for first, last, low, high in strips.cuts(x.shape[2], self.reach):
            rows = self._heads(x[:, :, low:high].to(strips.device))
            own = rows.view(len(rows), high - low, -1, *rows.shape[2:])[:, first - low : last - low].flatten(
                1, 2
            )
            part = gathered(*own.chunk(3, dim=-1)[1:])
            sums = part if sums is None else sums + part
        seen = strips.over(x, lambda rows: self._seen(rows, sums), reach=self.reach)
        return strips.over(seen, self._mixed)

    def _heads(self, x: Tensor) -> Tensor:
        """Queries, keys and values one behind the other, (B, H W, heads, 3 head)."""
        own = self.qkv(x)
        every = torch.cat([own, *(scale(own) for scale in self.scales)], dim=1)
        rows = places(every)
        return rows.view(*rows.shape[:2], -1, 3 * self.head)

    def _seen(self, x: Tensor, sums: Tensor | None) -> Tensor:
        query, key, value = self._heads(x).chunk(3, dim=-1)
        rows = answered(query, gathered(key, value) if sums is None else sums).flatten(2)
        out: Tensor = x + self.norm(self.out(picture(rows, x)))
        return out

    def _mixed(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.mix_norm(self.mix(x))
        return out


def averaged(x: Tensor, wanted: int) -> Tensor:
    """``wanted`` channels, each the mean of as many neighbouring ones of ``x`` (B, C, H, W)."""
    return x.reshape(len(x), wanted, -1, *x.shape[2:]).mean(2)


class Down(nn.Module):
    """Half as many places a side; beside it, if ``short``, the means of groups of what four places hold."""

    def __init__(self, width: int, wanted: int, *, shuffle: bool, short: bool = True) -> None:
        """Build it from ``width`` channels to ``wanted``; see DcaeHalf."""
        super().__init__()
        self.wanted, self.shuffle, self.short = wanted, shuffle, short
        self.conv = nn.Conv2d(
            width, wanted // 4 if shuffle else wanted, 3, stride=1 if shuffle else 2, padding=1
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, wanted, H / 2, W / 2)."""
        out: Tensor = self.conv(x)
        if self.shuffle:
            out = F.pixel_unshuffle(out, 2)
        if self.short:
            out = out + averaged(F.pixel_unshuffle(x, 2), self.wanted)
        return out


class Up(nn.Module):
    """Twice as many places a side; beside it, if ``short``, channels repeated and laid out over four places."""

    def __init__(self, width: int, wanted: int, *, shuffle: bool, short: bool = True) -> None:
        """Build it from ``width`` channels to ``wanted``; see DcaeHalf."""
        super().__init__()
        self.repeats = 4 * wanted // width if short else 0
        self.shuffle = shuffle
        self.conv = nn.Conv2d(width, 4 * wanted if shuffle else wanted, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, wanted, 2 H, 2 W)."""
        if self.shuffle:
            out = F.pixel_shuffle(self.conv(x), 2)
        else:
            out = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        if self.repeats:
            out = out + F.pixel_shuffle(x.repeat_interleave(self.repeats, 1), 2)
        return out

    def in_strips(self, x: Tensor, strips: Strips) -> Tensor:
        """``forward`` by strips."""
        return strips.over(x, self, scale=2)


def blocks_of(half: DcaeHalf, level: int, head: int) -> list[nn.Module]:
    """The blocks of a level."""
    width = half.widths[level]
    if half.looks[level]:
        return [LookBlock(width, head, half.scales[level]) for _ in range(half.blocks[level])]
    batch, act = half.batch[level], half.act[level]
    return [PlainBlock(width, batch=batch, act=act) for _ in range(half.blocks[level])]


class DcaeEncoder(nn.Module):
    """Pixels (B, C, H, W) -> latent (B, latent, H / f, W / f)."""

    def __init__(self, config: DcaeConfig) -> None:
        """Build the encoder of ``config``."""
        super().__init__()
        half = config.encoder
        self.enter = (
            nn.Conv2d(config.pixels, half.outer, 3, padding=1)
            if half.blocks[0]
            else Down(config.pixels, half.outer, shuffle=half.shuffle, short=False)
        )
        self.down = nn.ModuleList()
        for level, count in enumerate(half.blocks):
            self.down.extend(blocks_of(half, level, config.head))
            if count and level < len(half.widths) - 1:
                self.down.append(Down(half.widths[level], half.widths[level + 1], shuffle=half.shuffle))
        self.leave = nn.Conv2d(half.widths[-1], config.latent, 3, padding=1)
        self.latent, self.short = config.latent, half.short

    def forward(self, pixels: Tensor) -> Tensor:
        """Map pixels in [-1, 1] to the latent."""
        h = self.enter(pixels)
        for layer in self.down:
            h = layer(h)
        out: Tensor = self.leave(h)
        return out + averaged(h, self.latent) if self.short else out


class DcaeDecoder(nn.Module):
    """Latent (B, latent, h, w) -> pixels (B, C, f h, f w)."""

    def __init__(self, config: DcaeConfig) -> None:
        """Build the decoder of ``config``."""
        super().__init__()
        half = config.decoder
        self.enter = nn.Conv2d(config.latent, half.widths[-1], 3, padding=1)
        self.repeats = half.widths[-1] // config.latent if half.short else 0
        self.up = nn.ModuleList()
        for level, count in reversed(list(enumerate(half.blocks))):
            if count and level < len(half.widths) - 1:
                self.up.append(Up(half.widths[level + 1], half.widths[level], shuffle=half.shuffle))
            self.up.extend(blocks_of(half, level, config.head))
        self.norm = ChannelNorm(half.outer)
        self.act = ACTIVATIONS[config.last]
        self.leave = (
            nn.Conv2d(half.outer, config.pixels, 3, padding=1)
            if half.blocks[0]
            else Up(half.outer, config.pixels, shuffle=half.shuffle, short=False)
        )

    def forward(self, latent: Tensor) -> Tensor:
        """Map a latent to pixels in about [-1, 1]."""
        h = self._entered(latent)
        for layer in self.up:
            h = layer(h)
        return self._left(h)

    def in_strips(self, latent: Tensor, rows: int, keep: torch.device | None = None) -> Tensor:
        """``forward`` with no more than ``rows`` rows of a map at work at a time (nn.strips); for inference."""
        strips = Strips(rows, latent.device, keep or latent.device)
        h = self._entered(latent).to(strips.keep, memory_format=torch.channels_last)
        for layer in self.up:
            h = layer.in_strips(h, strips)  # type: ignore[operator]
        scale = 1 if isinstance(self.leave, nn.Conv2d) else 2
        return strips.over(h, self._left, scale=scale).to(latent.device)

    def _entered(self, latent: Tensor) -> Tensor:
        out: Tensor = self.enter(latent)
        return out + latent.repeat_interleave(self.repeats, 1) if self.repeats else out

    def _left(self, h: Tensor) -> Tensor:
        out: Tensor = self.leave(self.act(self.norm(h)))
        return out


class Dcae(nn.Module):
    """Encoder and decoder; the latent has no noise of its own."""

    def __init__(self, config: DcaeConfig) -> None:
        """Build both halves of ``config``."""
        super().__init__()
        self.config = config
        self.encoder = DcaeEncoder(config)
        self.decoder = DcaeDecoder(config)

    def moments(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """The latent of ``pixels`` (B, C, H, W) in [-1, 1] as a posterior's mean, and the least log-variance."""
        latent: Tensor = self.encoder(pixels)
        return latent, torch.full_like(latent, -30.0)

    def decode(self, latent: Tensor) -> Tensor:
        """Pixels (B, C, f h, f w) of ``latent`` (B, latent, h, w), about [-1, 1]."""
        out: Tensor = self.decoder(latent)
        return out

    def decode_in_strips(self, latent: Tensor, rows: int, keep: torch.device | None = None) -> Tensor:
        """``decode`` in strips of ``rows`` rows, maps on the device ``keep``; for inference."""
        return self.decoder.in_strips(latent, rows, keep)
