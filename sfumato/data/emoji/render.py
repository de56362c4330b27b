"""One drawing to the bytes that the corpus holds, with what the splits need to know of its pixels."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sfumato.errors import MissingExtra

THUMB = 16
LEAST_COVER = 0.01


@dataclass(frozen=True, slots=True)
class Picture:
    """A rendered drawing: ``data`` is lossless WebP, ``digest`` tells equal drawings (before they are made
    smaller), ``thumb`` is 16 x 16 over white, as a vector of bytes.
    """

    data: bytes = field(repr=False)
    digest: str
    thumb: NDArray[np.uint8] = field(repr=False)


def need_renderer() -> None:
    """Raise MissingExtra unless SVG can be rendered."""
    try:
        import resvg_py  # noqa: F401
    except ImportError as error:
        raise MissingExtra("resvg-py", "train", "rendering the corpus") from error


def picture(source: str | bytes, side: int) -> Picture | None:
    """The picture of an SVG text or a raster file with this side; None if it is empty or cannot be drawn."""
    try:
        image = Image.open(io.BytesIO(_raster(source))).convert("RGBA")
    except Exception:  # the renderer and the decoders raise many kinds; the build counts what is left out
        return None
    if np.asarray(image)[..., 3].astype(np.float32).mean() / 255 < LEAST_COVER:
        return None
    digest = hashlib.sha1(image.tobytes(), usedforsecurity=False).hexdigest()
    return Picture(_webp(image, side), digest, thumbnail(image))


def _raster(source: str | bytes) -> bytes:
    if isinstance(source, bytes):
        return source
    import resvg_py

    return bytes(resvg_py.svg_to_bytes(svg_string=source, skip_system_fonts=True))


def _webp(image: Image.Image, side: int) -> bytes:
    whole = image.width % side == 0 and image.width >= 2 * side
    kernel = Image.Resampling.BOX if whole else Image.Resampling.LANCZOS
    small = image if image.size == (side, side) else image.resize((side, side), kernel)
    file = io.BytesIO()
    small.save(file, "WEBP", lossless=True, method=4, exact=False)
    return file.getvalue()


def thumbnail(image: Image.Image) -> NDArray[np.uint8]:
    """16 x 16 RGB over white, flattened: pictures that differ little here look the same."""
    small = image.resize((THUMB, THUMB), Image.Resampling.BOX).convert("RGBA")
    white = Image.new("RGBA", small.size, "white")
    white.alpha_composite(small)
    return np.array(white.convert("RGB")).reshape(-1)
