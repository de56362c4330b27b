"""The size of a picture: fitted to another, padded to a multiple, cut back, made larger to be painted on."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sfumato.errors import InvalidRequest, UnknownName
from sfumato.picture.images import check_size
from sfumato.picture.read import colour

Pixels: TypeAlias = NDArray[Any]
"""A picture uint8 (H, W, 3), an alpha channel uint8 (H, W) or a mask float32 (H, W)."""

How: TypeAlias = Literal["crop", "pad", "stretch"]

_EXTENSIONS: dict[str, Any] = {"edge": "edge", "reflect": "reflect"}


class Box(NamedTuple):
    """A part of a picture, in pixels: its first column and row, and how many of each."""

    left: int
    top: int
    width: int
    height: int


def fit(pixels: Pixels, width: int, height: int, how: How = "crop", fill: str = "white") -> Pixels:
    """``pixels`` resampled to ``width`` x ``height``.

    ``crop`` keeps the aspect and cuts what is too much from both ends of the longer side; ``pad`` keeps it and
    fills what is missing beside or above and below with ``fill`` (``edge``, ``reflect``, or a colour as in CSS,
    of whose grey masks take); ``stretch`` does not keep it. Colours are resampled by Lanczos' window, masks by
    a triangle, which never leaves their range; both are widened when pictures are made smaller. A picture of
    that size already comes back as it is.
    """
    _check(pixels)
    check_size(width, height)
    rows, columns = pixels.shape[:2]
    if how not in ("crop", "pad", "stretch"):
        raise UnknownName("way to fit a picture", how, ("crop", "pad", "stretch"))
    if (columns, rows) == (width, height):
        return pixels.copy()
    if how == "stretch":
        return _resized(pixels, width, height, (0.0, 0.0, columns, rows))
    if how == "crop":
        across, down = min(columns, rows * width / height), min(rows, columns * height / width)
        left, top = (columns - across) / 2, (rows - down) / 2
        return _resized(pixels, width, height, (left, top, left + across, top + down))
    scale = min(width / columns, height / rows)
    across, down = max(1, round(columns * scale)), max(1, round(rows * scale))
    small = _resized(pixels, across, down, (0.0, 0.0, columns, rows))
    left, top = (width - across) // 2, (height - down) // 2
    return _extended(small, left, top, width - across - left, height - down - top, fill, 0)


def pad_to_multiple(
    pixels: Pixels, multiple: int, how: Literal["edge", "reflect"] = "edge"
) -> tuple[Pixels, Box]:
    """``pixels`` with both sides made a multiple of ``multiple``, and where in it they lie.

    What is missing is added on the right and below: the last pixels again (``edge``) or the picture mirrored
    at its last pixels (``reflect``). ``crop`` with the box gives ``pixels`` back exactly.
    """
    _check(pixels)
    if multiple < 1:
        raise InvalidRequest(f"multiple = {multiple} must be at least 1")
    if how not in _EXTENSIONS:
        raise UnknownName("way to pad a picture", how, _EXTENSIONS)
    rows, columns = pixels.shape[:2]
    padded = _extended(pixels, 0, 0, -columns % multiple, -rows % multiple, how, 0)
    return padded, Box(0, 0, columns, rows)


def crop(pixels: Pixels, box: Box) -> Pixels:
    """The part of ``pixels`` in ``box``, which must lie inside."""
    rows, columns = pixels.shape[:2]
    left, top, width, height = box
    if left < 0 or top < 0 or width < 1 or height < 1 or left + width > columns or top + height > rows:
        raise InvalidRequest(f"{box} does not lie inside a picture of {columns} x {rows} pixels")
    return np.ascontiguousarray(pixels[top : top + height, left : left + width])


def expand(
    pixels: Pixels, left: int, top: int, right: int, bottom: int, fill: str = "edge", seed: int = 0
) -> tuple[Pixels, NDArray[np.float32]]:
    """``pixels`` with so many pixels added on each side, and the mask of what was added, float32, 1 for new.

    The new part holds the nearest pixel of the picture (``edge``), the picture mirrored (``reflect``), even
    noise by ``seed`` (``noise``) or one colour as in CSS.
    """
    _check(pixels)
    if min(left, top, right, bottom) < 0 or not left + top + right + bottom:
        raise InvalidRequest(
            f"left, top, right, bottom = {left}, {top}, {right}, {bottom}: none may be below 0, and one must be above"
        )
    larger = _extended(pixels, left, top, right, bottom, fill, seed)
    mask = np.ones(larger.shape[:2], np.float32)
    rows, columns = pixels.shape[:2]
    mask[top : top + rows, left : left + columns] = 0
    return larger, mask


def _check(pixels: Pixels) -> None:
    picture = pixels.dtype == np.uint8 and (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3))
    if not picture and not (pixels.dtype == np.float32 and pixels.ndim == 2):
        raise InvalidRequest(
            "a picture must be uint8 (height, width, 3) or (height, width), a mask float32 (height, width), "
            f"not {pixels.dtype} {pixels.shape}"
        )
    check_size(pixels.shape[1], pixels.shape[0])


def _resized(pixels: Pixels, width: int, height: int, box: tuple[float, float, float, float]) -> Pixels:
    masks = pixels.dtype == np.float32
    how = Image.Resampling.BILINEAR if masks else Image.Resampling.LANCZOS
    done = np.array(Image.fromarray(pixels).resize((width, height), how, box))
    return done.clip(0, 1) if masks else done


def _extended(pixels: Pixels, left: int, top: int, right: int, bottom: int, fill: str, seed: int) -> Pixels:
    rows, columns = pixels.shape[:2]
    shape = (rows + top + bottom, columns + left + right, *pixels.shape[2:])
    check_size(shape[1], shape[0])
    if fill in _EXTENSIONS:
        sides = ((top, bottom), (left, right), (0, 0))[: pixels.ndim]
        return np.pad(pixels, sides, mode=_EXTENSIONS[fill])
    if fill == "noise":
        drawn = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
        larger: Pixels = drawn if pixels.dtype == np.uint8 else drawn.astype(np.float32) / 255
    else:
        chosen = Image.new("RGB", (1, 1), colour(fill))
        level = np.asarray(chosen if pixels.ndim == 3 else chosen.convert("L"))[0, 0]
        larger = np.empty(shape, pixels.dtype)
        larger[:] = level if pixels.dtype == np.uint8 else level.astype(np.float32) / 255
    larger[top : top + rows, left : left + columns] = pixels
    return larger
