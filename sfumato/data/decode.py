"""The bytes of one picture file to an RGBA array, with its size checked before its pixels are decoded."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from sfumato.errors import DataError

Pixels: TypeAlias = NDArray[np.uint8]
"""A picture, (height, width, channels)."""

FORMATS = ("WEBP", "PNG", "JPEG", "GIF", "BMP")
MAX_BYTES = 64 << 20
MAX_PIXELS = 32 << 20


def whole_file(file: Path) -> bytes:
    """The bytes of one picture file; DataError if it cannot be read or is larger than pictures may be."""
    try:
        if file.stat().st_size > MAX_BYTES:
            raise DataError(f"{file}: more than {MAX_BYTES} bytes")
        return file.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror or error}") from error


def decode(data: bytes, where: str, max_pixels: int = MAX_PIXELS) -> Pixels:
    """The picture in ``data`` as uint8 RGBA (H, W, 4), turned upright if its EXIF data says how.

    Raises DataError that begins with ``where`` if the bytes are no picture of a known format, are cut short,
    or their header announces more than ``max_pixels`` pixels.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise DataError(f"{where}: {width} x {height} pixels, more than the limit of {max_pixels}")
            return np.array(_rgba(ImageOps.exif_transpose(image)))
    except DataError:
        raise
    except UnidentifiedImageError as error:
        raise DataError(f"{where}: not a picture ({', '.join(FORMATS)} are read)") from error
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, struct.error and more.
        reason = f"{type(error).__name__}: {error}"
        raise DataError(f"{where}: the picture cannot be decoded ({reason:.160})") from error


def _rgba(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        deep = np.asarray(image).astype(np.int64)
        image = Image.fromarray(np.clip(deep >> 8, 0, 255).astype(np.uint8))
    return image.convert("RGBA")
