"""One kind of picture for the rest of the package: a Pillow image of mode RGB, RGBA or L with no metadata."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sfumato.errors import InvalidRequest

Picture: TypeAlias = NDArray[Any] | Image.Image
"""What the functions of this package take: a uint8 array (H, W, 3) or a Pillow image."""

MAX_PIXELS = 8192 * 8192
"""Pictures with more pixels are neither written nor read."""


def to_image(picture: Picture) -> Image.Image:
    """A clean Pillow image of ``picture``: mode RGB, RGBA or L, and none of the metadata it came with.

    Raises InvalidRequest unless it is a Pillow image or a uint8 array (H, W, 3), and not empty or huge.
    """
    if isinstance(picture, Image.Image):
        check_size(*picture.size)
        kept = picture.mode in ("RGB", "RGBA", "L")
        image = picture.copy() if kept else picture.convert("RGB")
        image.info = {}
        return image
    if not isinstance(picture, np.ndarray):
        raise InvalidRequest(f"a picture must be an array or a Pillow image, not {type(picture).__name__}")
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise InvalidRequest(
            f"a picture must be a uint8 array (height, width, 3), not {picture.dtype} {picture.shape}"
        )
    check_size(picture.shape[1], picture.shape[0])
    return Image.fromarray(np.ascontiguousarray(picture))


def to_rgb(picture: Picture) -> Image.Image:
    """``picture`` as mode RGB, with what is transparent laid over white."""
    image = to_image(picture)
    if image.mode != "RGBA":
        return image.convert("RGB")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")


def check_size(width: int, height: int) -> None:
    """Raise InvalidRequest if a picture of this size is empty or has more than MAX_PIXELS pixels."""
    if width < 1 or height < 1:
        raise InvalidRequest(f"a picture of {width}x{height} pixels is empty")
    if width * height > MAX_PIXELS:
        raise InvalidRequest(
            f"a picture of {width}x{height} pixels is too large; at most {MAX_PIXELS} pixels are allowed"
        )
