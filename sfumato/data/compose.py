"""What training draws anew for each look at a picture: place, mirroring, background and caption.

A picture keeps its alpha until here, so that the colour behind it can be a word of its caption. The law: half
of the time one of the twelve named colours, always told (", teal background"); else white, told half of the
time. The same Generator state gives the same draws, and every call takes the same number of them.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TypeAlias

import numpy as np
from PIL import Image

from sfumato.data.decode import Pixels
from sfumato.data.record import Record
from sfumato.errors import InvalidRequest, UnknownName

Rgb: TypeAlias = tuple[int, int, int]

BACKGROUNDS: MappingProxyType[str, Rgb] = MappingProxyType(
    {
        "white": (255, 255, 255),
        "black": (16, 16, 18),
        "gray": (140, 140, 146),
        "red": (226, 62, 58),
        "orange": (246, 145, 40),
        "yellow": (252, 216, 66),
        "green": (72, 170, 84),
        "teal": (38, 160, 156),
        "light blue": (150, 208, 246),
        "blue": (48, 104, 214),
        "purple": (132, 78, 190),
        "pink": (248, 168, 200),
    }
)
"""The colours that captions name, as sRGB bytes."""

MOST = 0.06
"""The largest shift, as a share of the side, and the largest change of scale."""


def colour(name: str | None) -> Rgb:
    """The colour behind a picture; None is white that the caption need not tell. UnknownName otherwise."""
    if name is None:
        return BACKGROUNDS["white"]
    if name not in BACKGROUNDS:
        raise UnknownName("background", name, BACKGROUNDS)
    return BACKGROUNDS[name]


def background(rng: np.random.Generator) -> str | None:
    """Half of the time one of the twelve names, else None (white)."""
    told, which = rng.random(2)
    return list(BACKGROUNDS)[int(which * len(BACKGROUNDS))] if told < 0.5 else None


def on_background(rgba: Pixels, rgb: Rgb) -> Pixels:
    """The picture over one colour, uint8 RGB (H, W, 3): ``(a fg + (255 - a) bg) / 255``, rounded."""
    fore, alpha = rgba[..., :3].astype(np.uint32), rgba[..., 3:].astype(np.uint32)
    mixed = fore * alpha + np.asarray(rgb, np.uint32) * (255 - alpha)
    return ((mixed + 127) // 255).astype(np.uint8)


def augment(rgba: Pixels, record: Record, rng: np.random.Generator, most: float = MOST) -> Pixels:
    """Shift and scale by up to ``most`` (a share of the side), and mirror half of the flippable pictures.

    Bilinear on premultiplied colours, so that no dark fringe appears; what comes into view is transparent.
    """
    if not 0 <= most < 1:
        raise InvalidRequest(f"the largest shift is a share of the side from 0 to below 1, not {most}")
    zoom, across, down = rng.uniform(-most, most, 3)
    mirrored = rng.random() < 0.5 and record.flippable
    if mirrored:
        rgba = np.ascontiguousarray(rgba[:, ::-1])
    return placed(rgba, 1 + zoom, across, down) if most else rgba


def placed(rgba: Pixels, scale: float, across: float, down: float) -> Pixels:
    """The picture scaled about its centre, then moved by these shares of its width and height."""
    height, width = rgba.shape[:2]
    left = width / 2 - width * (0.5 + across) / scale
    top = height / 2 - height * (0.5 + down) / scale
    # Pillow transforms RGBA with premultiplied alpha whenever it interpolates.
    moved = Image.fromarray(rgba).transform(
        (width, height),
        Image.Transform.AFFINE,
        (1 / scale, 0, left, 0, 1 / scale, top),
        Image.Resampling.BILINEAR,
    )
    return np.array(moved)


def caption(record: Record, rng: np.random.Generator, background: str | None) -> str:
    """One of the record's captions, with the background's colour told by the law above."""
    which, told = rng.random(2)
    text = record.captions[int(which * len(record.captions))]
    if background is None:
        return f"{text}, white background" if told < 0.5 else text
    colour(background)
    return f"{text}, {background} background"
