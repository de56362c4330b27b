"""Moving pictures as files: PNG (APNG), WebP and GIF, each with its recipe."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, PngImagePlugin

from sfumato.errors import InvalidRequest
from sfumato.files import write_bytes
from sfumato.picture.images import Picture, to_image
from sfumato.picture.png import DESCRIPTION, RECIPE_CHUNK
from sfumato.picture.recipe import Recipe

KINDS = (".png", ".webp", ".gif")
"""The endings of files that move. PNG and WebP keep every pixel; GIF has 256 colours a frame."""


def check_moving(path: str | os.PathLike[str]) -> Path:
    """``path``; InvalidRequest if no moving picture can have that name."""
    target = Path(path)
    if target.suffix.lower() not in KINDS:
        raise InvalidRequest(
            f"cannot write {target}: the name of a moving picture ends in {', '.join(KINDS)}"
        )
    return target


def save_moving(
    path: str | os.PathLike[str],
    frames: Sequence[Picture],
    recipe: Recipe,
    *,
    fps: float = 12,
    once: bool = False,
) -> Path:
    """Write ``frames``, all of one size, to ``path``, whole or not at all; the ending says in which format.

    Shown over and over, or ``once``. Frames stand for whole milliseconds (GIF: hundredths of a second). Raises
    InvalidRequest as ``check_moving`` does, OutputError if the file cannot be written.
    """
    target = check_moving(path)
    return write_bytes(target, encode_moving(frames, recipe, target.suffix.lower(), fps=fps, once=once))


def encode_moving(
    frames: Sequence[Picture], recipe: Recipe, ending: str, *, fps: float = 12, once: bool = False
) -> bytes:
    """The bytes of a moving picture; a recipe that is read back with ``read_recipe`` is among them."""
    first, *rest = (to_image(frame) for frame in frames)
    buffer = io.BytesIO()
    lasting = {"save_all": True, "append_images": rest, "duration": round(1000 / fps), "loop": int(once)}
    if ending == ".png":
        texts = PngImagePlugin.PngInfo()
        texts.add_itxt(RECIPE_CHUNK, recipe.to_json())
        first.save(buffer, "PNG", pnginfo=texts, **lasting)
        return buffer.getvalue()
    told = json.dumps(json.loads(recipe.to_json()))  # in ASCII, which comments are written in
    if ending == ".webp":
        exif = Image.Exif()
        exif[DESCRIPTION] = told
        first.save(buffer, "WEBP", lossless=True, exif=exif, **lasting)
        return buffer.getvalue()
    if once:
        del lasting["loop"]
    first.save(buffer, "GIF", comment=told, **lasting)
    return buffer.getvalue()
