"""Pillow pictures of every mode, and arrays of every kind, to 8-bit sRGB colours and an alpha channel.

Deep values are rounded to the nearest level: 65535 becomes 255 and v becomes v / 257. Pillow gives only the high
byte of 16-bit colours; the low one comes from reading the file again with its bytes taken in the other order.
"""

from __future__ import annotations

import sys
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from sfumato.errors import DataError, InvalidRequest
from sfumato.picture.profile import to_srgb

Bytes: TypeAlias = NDArray[np.uint8]

_STRIP = 1 << 20
_SWAPPED = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
_RAW = ("RGB", "RGBA", "RGBX", "CMYK")


class Low(NamedTuple):
    """The low bytes of 16-bit colours; if ``grey``, both bytes of grey and of alpha, in four channels."""

    image: Image.Image
    grey: bool


def flatten(
    image: Image.Image, low: Low | None, profile: bool, depth: int, notes: list[str]
) -> tuple[Bytes, Bytes | None]:
    """The colours (H, W, 3) of a loaded ``image``, in sRGB, and its alpha channel (H, W) if it has one.

    ``low`` holds the low bytes of 16-bit colours (see ``low_bytes``), ``depth`` is the bits of a grey value in
    the file. With ``profile`` colours are converted to sRGB. Works in strips, so that little is held besides.
    """
    width, height = image.size
    rows = max(1, _STRIP // max(width, 1))
    first, _ = _strip(image, low, 0, 1, depth)
    transform, told = to_srgb(image.info.get("icc_profile") if profile else None, first.mode)
    if first.mode == "CMYK" and transform is None:
        told = f"{told}; " if told else ""
        told += "its CMYK colours were converted without a profile, by the plain formula"
    if told:
        notes.append(told)
    if low is not None or image.mode.startswith("I"):
        notes.append(f"its values of {depth if depth > 8 else 16} bits were rounded to 8")
    pixels = np.empty((height, width, 3), np.uint8)
    alphas = np.empty((height, width), np.uint8)
    opaque = True
    for top in range(0, height, rows):
        strip, alpha = _strip(image, low, top, min(top + rows, height), depth)
        if transform or strip.mode != "RGB":
            strip = transform(strip) if transform else strip.convert("RGB")
        pixels[top : top + rows] = np.asarray(strip)
        alphas[top : top + rows] = 255 if alpha is None else alpha
        opaque = opaque and (alpha is None or bool((alpha == 255).all()))
    return pixels, None if opaque else alphas


def low_bytes(image: ImageFile.ImageFile) -> Low | None:
    """Turn a picture just opened, and not loaded, into that of the low bytes of its 16-bit colours.

    None, and nothing done, if its colours are not of 16 bits.
    """
    tiles = []
    swapped = ""
    for tile in image.tile:
        raw, *rest = (tile.args,) if isinstance(tile.args, str) else tile.args or ("",)
        if raw == "LA;16B" and image.mode == "RGBA":
            swapped = "RGBA"
        elif isinstance(raw, str) and raw.partition(";16")[0] in _RAW and raw[:-1].endswith(";16"):
            swapped = raw[:-1] + _SWAPPED[raw[-1]]
        else:
            return None
        args = swapped if isinstance(tile.args, str) else (swapped, *rest)
        tiles.append(ImageFile._Tile(tile.codec_name, tile.extents, tile.offset, args))
    if not tiles:
        return None
    image.tile = tiles
    return Low(image, swapped == "RGBA")


def from_array(array: NDArray[Any]) -> tuple[Bytes, Bytes | None]:
    """An array (H, W) or (H, W, 1 to 4) as colours and alpha; 1 or 3 are colours, one more is alpha.

    uint8 is taken as it is, uint16 divided by 257, floats must lie in [0, 1]. InvalidRequest says what is wrong.
    """
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 2, 3, 4)):
        raise InvalidRequest(
            f"a picture must be an array (height, width) or (height, width, 1 to 4), not {array.shape}"
        )
    levels = eight_bits(array, "a picture")
    if levels.ndim == 2:
        levels = levels[..., None]
    alpha = levels[..., -1].copy() if levels.shape[2] in (2, 4) else None
    colours = levels[..., : 3 if levels.shape[2] > 2 else 1]
    return np.array(np.broadcast_to(colours, (*levels.shape[:2], 3)), order="C"), alpha


def eight_bits(array: NDArray[Any], what: str) -> Bytes:
    """uint8 as it is, uint16 divided by 257, floats in [0, 1] times 255, each to the nearest level."""
    if array.dtype == np.uint8:
        same: Bytes = array
        return same
    if array.dtype.newbyteorder("=") == np.uint16:
        nearest: Bytes = ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)
        return nearest
    if not np.issubdtype(array.dtype, np.floating):
        raise InvalidRequest(f"{what} must be uint8, uint16 or floats in [0, 1], not {array.dtype}")
    check_unit(array, what)
    levels: Bytes = np.rint(array.astype(np.result_type(array, np.float32)) * 255).astype(np.uint8)
    return levels


def check_unit(array: NDArray[Any], what: str) -> None:
    """Raise InvalidRequest unless all of a float array lies in [0, 1]."""
    least, most = (float(array.min()), float(array.max())) if array.size else (0.0, 0.0)
    if not np.isfinite(least + most):
        raise InvalidRequest(f"{what} holds values that are not finite; floats must lie in [0, 1]")
    if least < 0 or most > 1:
        raise InvalidRequest(
            f"{what} holds floats from {least:g} to {most:g}, which must lie in [0, 1]: "
            "give (x + 1) / 2 for values in [-1, 1], and uint8 for 0 to 255"
        )


def _strip(
    image: Image.Image, low: Low | None, top: int, bottom: int, depth: int
) -> tuple[Image.Image, Bytes | None]:
    """Some rows as mode RGB, L, CMYK or LAB, and their alpha."""
    box = (0, top, image.width, bottom)
    strip = image.crop(box)
    mode, key = strip.mode, image.info.get("transparency")
    if low is not None:
        return _deep(np.asarray(strip), np.asarray(low.image.crop(box)), mode, key, low.grey)
    if mode.startswith("I"):
        values = np.asarray(strip).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise DataError("its whole numbers are not of 16 bits: they must lie between 0 and 65535")
        most = 4095 if depth == 12 else 65535
        levels = ((2 * 255 * values + most) // (2 * most)).clip(0, 255).astype(np.uint8)
        return Image.fromarray(levels), _keyed(values == key if isinstance(key, int) else None)
    if mode == "F":
        try:
            return Image.fromarray(eight_bits(np.asarray(strip), "it")), None
        except InvalidRequest as error:
            raise DataError(str(error)) from error
    if mode in ("1", "L"):
        grey = strip.convert("L")
        if not isinstance(key, int):
            return grey, None
        level = 255 * (key > 0) if mode == "1" else key * (255 // (2 ** min(depth, 8) - 1))
        return grey, _keyed(np.asarray(grey) == level)
    if mode == "RGB" and isinstance(key, tuple):
        return strip, _keyed((np.asarray(strip) == np.array(key)).all(-1))
    if mode in ("RGB", "CMYK", "LAB"):
        return strip, None
    if mode in ("LA", "La", "PA", "RGBA", "RGBa") or (mode == "P" and image.has_transparency_data):
        whole = strip.convert("LA" if mode == "La" else "RGBA").convert("RGBA")
        return whole.convert("RGB"), np.asarray(whole)[..., 3]
    return strip.convert("RGB"), None


def _deep(high: Bytes, low: Bytes, mode: str, key: object, grey: bool) -> tuple[Image.Image, Bytes | None]:
    """16-bit colours from their bytes: 256 h + l is nearest to level h, or to one beside it."""
    keyed = None
    if grey:
        high, low = low[..., ::2], low[..., 1::2]
    elif mode == "RGB" and isinstance(key, tuple):
        keyed = (high.astype(np.int64) * 256 + low == np.array(key)).all(-1)
    beyond = low.astype(np.int16) - high
    levels = high + (beyond > 128).astype(np.uint8) - (beyond < -128).astype(np.uint8)
    if grey:
        return Image.fromarray(np.ascontiguousarray(levels[..., 0])), levels[..., 1]
    if mode == "RGBA":
        return Image.fromarray(np.ascontiguousarray(levels[..., :3])), levels[..., 3]
    return Image.frombytes(mode, (levels.shape[1], levels.shape[0]), levels.tobytes()), _keyed(keyed)


def _keyed(equal: NDArray[np.bool_] | None) -> Bytes | None:
    """Alpha where one value stands for transparent."""
    return None if equal is None else np.where(equal, 0, 255).astype(np.uint8)
