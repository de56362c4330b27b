"""Names of EDM's networks (Karras et al. 2022, released code): ours, and the authors', which tell the maps' sides."""

from __future__ import annotations

from collections.abc import Iterator

from sfumato.families.keys.adm import turns
from sfumato.nn.adm import PixelConfig
from sfumato.nn.song import SongConfig
from sfumato.weights.keys import KeyTable

_BLOCK = (
    ("norm1", "norm0"),
    ("conv1", "conv0"),
    ("clock", "affine"),
    ("norm2", "norm1"),
    ("conv2", "conv1"),
    ("short", "skip"),
)
UNREAD = ("*.resample_filter", "map_augment.*")
"""Filters, which the kind of network tells, and what only training is told: how a picture was changed."""
Triple = tuple[str, str, str]


def dhariwal_table(config: PixelConfig) -> KeyTable:
    """The rows for EDM's own ADM."""
    return KeyTable.of(_dhariwal(config), {"original": UNREAD})


def song_table(config: SongConfig) -> KeyTable:
    """The rows for DDPM++ and NCSN++."""
    return KeyTable.of(_song(config), {"original": UNREAD})


def _dhariwal(config: PixelConfig) -> Iterator[Triple]:
    yield "clock.first", "map_layer0", "-"
    yield "clock.second", "map_layer1", "-"
    if config.classes:
        yield "label", "map_label : transpose", "-"
    yield from _levels(config)
    yield "norm", "out_norm", "-"
    yield "leave", "out_conv", "-"


def _song(config: SongConfig) -> Iterator[Triple]:
    if config.fourier:
        yield "rates", "map_noise.freqs", "-"
    if config.classes:
        yield "label", "map_label", "-"
    yield "clock.0", "map_layer0", "-"
    yield "clock.1", "map_layer1", "-"
    yield from _levels(config)
    if config.residual:
        for level in range(1, len(config.widths)):
            yield f"beside.{level - 1}.conv", f"enc.{_side(config, level)}_aux_residual", "-"
    yield "norm", f"dec.{_side(config, 0)}_aux_norm", "-"
    yield "leave", f"dec.{_side(config, 0)}_aux_conv", "-"


def _levels(config: PixelConfig | SongConfig) -> Iterator[Triple]:
    """What both have: every level's blocks. DDPM++ and NCSN++ attend in the last block of a level on the way up."""
    song, levels, at = isinstance(config, SongConfig), len(config.widths), 0
    resized = ".block" if song else ""
    yield "enter", f"enc.{_side(config, 0)}_conv", "-"
    for level, width in enumerate(config.widths):
        if level:
            yield from _block(f"down.{at}{resized}", f"enc.{_side(config, level)}_down")
            at += 1
        for block in range(config.blocks):
            name = f"enc.{_side(config, level)}_block{block}"
            yield from _stage(config, f"down.{at}", name, width, config.attention[level])
            at += 1
    coarsest = _side(config, levels - 1)
    yield from _stage(config, "middle", f"dec.{coarsest}_in0", config.widths[-1], True)
    yield from _block("after.block", f"dec.{coarsest}_in1")
    at = 0
    for level in reversed(range(levels)):
        if level < levels - 1:
            yield from _block(f"up.{at}{resized}", f"dec.{_side(config, level)}_up")
            at += 1
        for block in range(config.blocks + 1):
            looks = config.attention[level] and (block == config.blocks or not song)
            name = f"dec.{_side(config, level)}_block{block}"
            yield from _stage(config, f"up.{at}", name, config.widths[level], looks)
            at += 1


def _side(config: PixelConfig | SongConfig, level: int) -> str:
    side = config.side >> level
    return f"{side}x{side}"


def _block(ours: str, original: str) -> Iterator[Triple]:
    for mine, its in _BLOCK:
        yield f"{ours}.{mine}", f"{original}.{its}", "-"


def _stage(
    config: PixelConfig | SongConfig, ours: str, original: str, width: int, looks: bool
) -> Iterator[Triple]:
    yield from _block(f"{ours}.block", original)
    if looks:
        rounds = turns(config, width) if isinstance(config, PixelConfig) else f"/{width}"
        yield f"{ours}.look.norm", f"{original}.norm2", "-"
        yield f"{ours}.look.attention.[q,k,v]", f"{original}.qkv{rounds} : linear->conv", "-"
        yield f"{ours}.look.attention.out", f"{original}.proj : linear->conv", "-"
