"""Pictures and masks as fields of a task: checked arrays that cannot be changed and know their hash."""

from __future__ import annotations

import hashlib
import struct
from typing import Annotated, Any, get_args, get_type_hints

import numpy as np
from numpy.typing import NDArray
from pydantic import PlainSerializer, PlainValidator, ValidationInfo, WithJsonSchema

MOST_PIXELS = 8192 * 8192
"""Larger pictures and masks are refused before anything is computed."""


class Raster:
    """A picture that was given: uint8 (H, W, 3), read only; equal where all its values are."""

    def __init__(self, pixels: NDArray[Any]) -> None:
        """Keep a copy of ``pixels``."""
        self.pixels: NDArray[Any] = _frozen(pixels)
        self.hash = _hash(self.pixels)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.pixels.shape[1], self.pixels.shape[0]

    def __eq__(self, other: object) -> bool:
        """Whether the other is a picture of the same values."""
        return isinstance(other, Raster) and self.hash == other.hash

    def __hash__(self) -> int:
        """By its values."""
        return hash(self.hash)

    def __repr__(self) -> str:
        """Its size and the beginning of its hash."""
        return f"Raster({self.size[0]}x{self.size[1]}, {self.hash[:12]})"


class Area(Raster):
    """A mask that was given: float32 (H, W) from 0 to 1, read only; 1 is what a task may change."""


def picture_fields(task: type[Any]) -> dict[str, type[Raster]]:
    """The fields of the dataclass ``task`` that are pictures (Raster) or masks (Area), by name."""
    found: dict[str, type[Raster]] = {}
    for name, hint in get_type_hints(task).items():
        for kind in (hint, *get_args(hint)):
            if isinstance(kind, type) and issubclass(kind, Raster):
                found[name] = kind
    return found


def _frozen(values: NDArray[Any]) -> NDArray[Any]:
    kept = np.array(values, order="C", copy=True)
    kept.setflags(write=False)
    return kept


def _hash(values: NDArray[Any]) -> str:
    """SHA-256 of height, width and channels (as picture.read has it) and the values; a mask has 1 channel."""
    height, width = values.shape[:2]
    told = struct.pack(">III", height, width, 3 if values.ndim == 3 else 1)
    return hashlib.sha256(told + values.tobytes()).hexdigest()


def _picture(value: Any, info: ValidationInfo) -> Raster:
    return raster(value, info.field_name)


def raster(value: Any, name: str | None) -> Raster:
    """The picture that ``value`` is, an array or one of ours; ValueError tells ``name`` and what is wrong with it."""
    if type(value) is Raster:
        return value
    pixels = getattr(value, "pixels", value)  # a finished picture of ours
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8:
        kind = f"{pixels.dtype} {pixels.shape}" if isinstance(pixels, np.ndarray) else type(value).__name__
        raise ValueError(f"{name} must be a picture: a uint8 array (height, width, 3), not {kind}")
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, axis=2)
    if pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ValueError(f"{name} must be a uint8 array (height, width, 3), and its shape is {pixels.shape}")
    _check_size(name, pixels)
    return Raster(pixels)


def _mask(value: Any, info: ValidationInfo) -> Area:
    name = info.field_name
    if isinstance(value, Area):
        return value
    values = getattr(value, "pixels", value)
    if not isinstance(values, np.ndarray) or values.ndim != 2:
        shape = f"of the shape {values.shape}" if isinstance(values, np.ndarray) else type(value).__name__
        raise ValueError(f"{name} must be an array (height, width) of bools, bytes or floats, not {shape}")
    if values.dtype not in (np.bool_, np.uint8) and not np.issubdtype(values.dtype, np.floating):
        raise ValueError(f"{name} must be an array of bools, bytes or floats from 0 to 1, not {values.dtype}")
    _check_size(name, values)
    area = values.astype(np.float32) / np.float32(255 if values.dtype == np.uint8 else 1)
    if not bool(np.isfinite(area).all()) or area.min() < 0 or area.max() > 1:
        raise ValueError(f"{name} has values that are not from 0 (kept) to 1 (changed)")
    return Area(area)


def _check_size(name: str | None, values: NDArray[Any]) -> None:
    height, width = values.shape[:2]
    if not height or not width:
        raise ValueError(f"{name} of {width}x{height} pixels is empty")
    if height * width > MOST_PIXELS:
        raise ValueError(f"{name} of {width}x{height} pixels is too large; at most {MOST_PIXELS} pixels")


def _maybe_picture(value: Any, info: ValidationInfo) -> Raster | None:
    return None if value is None else _picture(value, info)


def _maybe_mask(value: Any, info: ValidationInfo) -> Area | None:
    return None if value is None else _mask(value, info)


def _told(value: Raster | None) -> str | None:
    return None if value is None else f"sha256:{value.hash}"


_SHOWN = {"type": "string", "contentEncoding": "base64"}
PNG: dict[str, Any] = {**_SHOWN, "contentMediaType": "image/png"}
"""A picture in the schema of a task."""

Picture = Annotated[Raster, PlainValidator(_picture), PlainSerializer(_told), WithJsonSchema(PNG)]
"""A field that is a picture."""

MaybePicture = Annotated[
    Raster | None,
    PlainValidator(_maybe_picture),
    PlainSerializer(_told),
    WithJsonSchema({"anyOf": [PNG, {"type": "null"}]}),
]
"""A field that is a picture or None."""

Mask = Annotated[Area, PlainValidator(_mask), PlainSerializer(_told), WithJsonSchema(PNG)]
"""A field that is a mask."""

MaybeMask = Annotated[
    Area | None,
    PlainValidator(_maybe_mask),
    PlainSerializer(_told),
    WithJsonSchema({"anyOf": [PNG, {"type": "null"}]}),
]
"""A field that is a mask or None."""
