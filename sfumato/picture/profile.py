"""Colour profiles: what turns the stored values of a picture into sRGB."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from PIL import Image, ImageCms, features

MAX_PROFILE = 16 << 20
"""Longer profiles (in bytes) are not looked at."""

Transform: TypeAlias = Callable[[Image.Image], Image.Image]
"""An 8-bit picture in the profile's colours to one of mode RGB in sRGB."""

_SPACES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK", "Lab": "LAB"}
_STEPS = 17


def to_srgb(profile: object, mode: str) -> tuple[Transform | None, str]:
    """The transform from ``profile`` to sRGB for pictures of ``mode`` (RGB, L, CMYK or LAB), and what to say of it.

    The transform is None where there is nothing to do or nothing that can be done; the text then says why, or
    is empty. A profile that moves no colour of an even lattice by more than one level is sRGB: pixels stay as
    they are. The intent is perceptual, as for ImageCms. A picture in Lab needs no profile.
    """
    if mode == "LAB" and not profile:
        return _transform(ImageCms.createProfile("LAB"), mode), "its Lab colours were converted to sRGB"
    if not profile:
        return None, ""
    if not features.check("littlecms2"):
        return None, "its colour profile was ignored: this Pillow was built without LittleCMS"
    if not isinstance(profile, bytes) or len(profile) > MAX_PROFILE:
        return None, "its colour profile was ignored: it is damaged"
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = _SPACES.get(opened.profile.xcolor_space.strip(), "")
        if space != mode and not (space == "RGB" and mode == "L"):
            return None, "its colour profile was ignored: it is for pictures of another kind"
        transform = _transform(opened, space)
        if space == "RGB" and _is_srgb(transform):
            return None, ""
        name = "".join(c for c in str(opened.profile.profile_description or "") if c.isprintable())
    except MemoryError:
        raise
    except Exception:  # LittleCMS refuses a damaged profile as OSError, PyCMSError, ValueError or TypeError
        return None, "its colour profile was ignored: it is damaged"
    return transform, f"its colours were converted from {name[:60].strip() or 'its profile'} to sRGB"


def _transform(profile: Any, space: str) -> Transform:
    made = ImageCms.buildTransform(
        profile, ImageCms.createProfile("sRGB"), space, "RGB", ImageCms.Intent.PERCEPTUAL
    )

    def apply(image: Image.Image) -> Image.Image:
        done = ImageCms.applyTransform(image if image.mode == space else image.convert(space), made)
        assert done is not None
        return done

    return apply


def _is_srgb(transform: Transform) -> bool:
    lattice = _lattice()
    moved = np.asarray(transform(Image.fromarray(lattice))).astype(np.int16) - lattice
    return bool(np.abs(moved).max() <= 1)


@lru_cache(1)
def _lattice() -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    line = np.round(np.linspace(0, 255, _STEPS)).astype(np.uint8)
    cube = np.stack(np.meshgrid(line, line, line, indexing="ij"), -1)
    return cube.reshape(_STEPS, _STEPS * _STEPS, 3)
