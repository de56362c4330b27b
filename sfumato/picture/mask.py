"""Masks: what part of a picture is to be made new, from a file, an array or words; widened and blurred."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from sfumato.errors import InvalidRequest
from sfumato.picture.images import MAX_PIXELS
from sfumato.picture.levels import check_unit, eight_bits
from sfumato.picture.read import Read, Source, read_picture
from sfumato.picture.shapes import Mask, is_form, parse_mask

MAX_FEATHER = 256
MAX_GROW = 1024

_COLOURED = 8
_TILE = 256


def read_mask(
    source: Source,
    size: tuple[int, int],
    *,
    picture: Read | None = None,
    channel: str = "grey",
    resize: bool = False,
    invert: bool = False,
    threshold: float | None = None,
    grow: int = 0,
    feather: float = 0.0,
    most_pixels: int = MAX_PIXELS,
) -> Mask:
    """The mask in ``source`` for a picture of ``size`` (width, height): 1 is to be made new.

    ``source`` is a mask in words (see ``shapes``), or else whatever pictures are read from, of which a text is a
    path ("./alpha" for a file of such a name). In a mask file **white is new** and grey in part; its colour
    profile does not count. With ``channel="alpha"`` its transparent parts are new. A coloured or partly transparent
    file is refused, since it is likely the picture and not its mask. Arrays are (H, W): bool, uint8, uint16,
    or floats in [0, 1]. ``alpha`` and ``color`` in a text look at ``picture``.

    Options act in this order: ``invert``; ``threshold`` makes 1 of what reaches it and 0 of the rest; ``grow``
    widens by so many pixels, straight and diagonally alike, and narrows if below 0; ``feather`` blurs with a
    Gaussian of that deviation in pixels, cut at three.

    A mask of another size is refused, unless ``resize`` is said and its sides are in the same proportion to
    half a pixel. One that is 0 everywhere is refused: it asks for nothing. Raises as ``read_picture`` does.
    """
    width, height = size
    _check_options(threshold, grow, feather, channel)
    if isinstance(source, str) and is_form(source):
        mask = parse_mask(source, size, picture)
    else:
        mask = _levels(source, channel, most_pixels)
    if mask.shape != (height, width):
        mask = _stretched(mask, width, height, resize)
    if invert:
        mask = 1 - mask
    if threshold is not None:
        mask = (mask >= np.float32(threshold)).astype(np.float32)
    mask = blur(grown(mask, grow), feather)
    if not mask.any():
        raise InvalidRequest("the mask is 0 (black) everywhere, so nothing would be made new; white is new")
    return mask


def grown(mask: Mask, pixels: int) -> Mask:
    """The greatest value within ``pixels`` of each pixel, straight or diagonally; the least, if below 0.

    What lies beyond the border does not count, so a mask that touches it is not narrowed there.
    """
    if pixels < 0:
        return 1 - grown(1 - mask, -pixels)
    for axis in (0, 1) if pixels else ():
        wide = np.pad(mask, [(pixels, pixels) if axis == each else (0, 0) for each in (0, 1)], "edge")
        wide = np.moveaxis(wide, axis, 0)
        # The greatest of a run of 1, 2, 4, ... values, until two runs that overlap make the whole window.
        window, run = 2 * pixels + 1, 1
        while run < window:
            step = min(run, window - run)
            wide = np.maximum(wide[:-step], wide[step:])
            run += step
        mask = np.ascontiguousarray(np.moveaxis(wide, 0, axis))
    return mask


def blur(mask: Mask, deviation: float) -> Mask:
    """``mask`` blurred by a Gaussian of ``deviation`` pixels, cut at three deviations; below 0.1 it is the mask itself.

    Beyond the border the last pixels go on. A 0 or a 1 with nothing else within the cut stays exactly that.
    """
    if deviation < 0.1:  # the next pixel's weight is e^-50, and float32 knows only e^-16
        return mask
    radius = math.ceil(3 * deviation)
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / deviation) ** 2)
    kernel = (weights / weights.sum()).astype(np.float32)
    for _ in (0, 1):
        mask = _blurred_rows(mask, kernel).T
    # A sum of weights is 1 up to its rounding alone.
    return np.where(mask > 1 - 1e-6, np.float32(1), mask)


def _blurred_rows(mask: Mask, kernel: Mask) -> Mask:
    """Each row convolved with ``kernel``, as products with a band matrix, which keep zeros exactly zero."""
    radius = len(kernel) // 2
    width = mask.shape[1]
    tile = min(_TILE, width)
    band = np.zeros((tile + 2 * radius, tile), np.float32)
    for column in range(tile):
        band[column : column + len(kernel), column] = kernel
    wide = np.pad(mask, ((0, 0), (radius, radius)), "edge")
    out = np.empty_like(mask)
    for start in range(0, width, tile):
        part = wide[:, start : start + tile + 2 * radius]
        out[:, start : start + tile] = part @ band[: part.shape[1], : part.shape[1] - 2 * radius]
    return out


def _check_options(threshold: float | None, grow: int, feather: float, channel: str) -> None:
    if channel not in ("grey", "alpha"):
        raise InvalidRequest(f"channel = {channel!r} must be 'grey' or 'alpha'")
    if threshold is not None and not 0 < threshold <= 1:
        raise InvalidRequest(f"threshold = {threshold} must be above 0 and at most 1")
    if not 0 <= feather <= MAX_FEATHER:
        raise InvalidRequest(f"feather = {feather} must lie between 0 and {MAX_FEATHER} pixels")
    if not -MAX_GROW <= grow <= MAX_GROW:
        raise InvalidRequest(f"grow = {grow} must lie between -{MAX_GROW} and {MAX_GROW} pixels")


def _levels(source: Source, channel: str, most_pixels: int) -> Mask:
    """A mask file's grey, or what its alpha leaves open; an array's own values."""
    if isinstance(source, np.ndarray) and channel == "grey":
        values = source[..., 0] if source.ndim == 3 and source.shape[2] == 1 else source
        if values.ndim == 2 and values.dtype == np.bool_:
            return values.astype(np.float32)
        if values.ndim == 2 and np.issubdtype(values.dtype, np.floating):
            check_unit(values, "a mask")
            return values.astype(np.float32)
        if values.ndim == 2:
            return eight_bits(values, "a mask").astype(np.float32) / np.float32(255)
        raise InvalidRequest(f"a mask must be an array (height, width), not {source.shape}")
    read = read_picture(source, most_pixels=most_pixels, background=None, profile=False)
    if channel == "alpha":
        if read.alpha is None:
            raise InvalidRequest("the mask has no transparent part, and those would be made new")
        return np.float32(1) - read.alpha.astype(np.float32) / np.float32(255)
    if read.alpha is not None:
        raise InvalidRequest(
            "the mask is transparent in parts: say channel='alpha' if those are to be made new, or give one "
            "in grey where white is new"
        )
    least, most = read.pixels.min(-1), read.pixels.max(-1)
    if int((most - least).max()) > _COLOURED:
        raise InvalidRequest("the mask is coloured: give one in grey where white is new, or say color(...)")
    return read.pixels[..., 1].astype(np.float32) / np.float32(255)


def _stretched(mask: Mask, width: int, height: int, resize: bool) -> Mask:
    """The mask at another size of the same proportions."""
    rows, columns = mask.shape
    said = f"the mask has {columns} x {rows} pixels and the picture {width} x {height}"
    scale = math.sqrt(width * height / (columns * rows))
    same = abs(columns * scale - width) <= 0.5 and abs(rows * scale - height) <= 0.5
    if not resize or not same:
        raise InvalidRequest(f"{said}; " + ("scale it to that size" if same else "they must be equal"))
    stretched = Image.fromarray(mask).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(stretched).clip(0, 1)
