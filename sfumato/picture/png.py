"""Pictures as PNG files that carry their recipe, and what can be read back from picture files."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from PIL import Image, PngImagePlugin

from sfumato.errors import DataError, InvalidRequest
from sfumato.files import write_bytes
from sfumato.picture.chunks import MAX_TEXT, SIGNATURE, read_texts
from sfumato.picture.images import Picture, check_size, to_image
from sfumato.picture.infotext import write_infotext
from sfumato.picture.recipe import Recipe

RECIPE_CHUNK = "sfumato"
"""The iTXt chunk that holds the recipe as JSON."""

INFOTEXT_CHUNK = "parameters"
"""The text chunk that other programs read."""

MAX_FILE = 2**29
"""Larger files (in bytes) are not read."""

DESCRIPTION = 0x010E
"""EXIF's ImageDescription, where a WebP file has its recipe."""

_EXIF_IFD = 0x8769
_USER_COMMENT = 0x9286


def encode_png(picture: Picture, recipe: Recipe | None = None) -> bytes:
    """The bytes of a PNG file of ``picture``; equal pictures and recipes give equal bytes.

    With a recipe they carry it twice: whole in the chunk ``sfumato`` and as A1111 text in ``parameters``.
    Without one they carry no text at all; metadata of a Pillow image is never passed on.
    """
    texts = PngImagePlugin.PngInfo()
    if recipe is not None:
        texts.add_itxt(RECIPE_CHUNK, recipe.to_json())
        texts.add_text(INFOTEXT_CHUNK, write_infotext(recipe))
    buffer = io.BytesIO()
    to_image(picture).save(buffer, "PNG", pnginfo=texts, compress_level=6)
    return buffer.getvalue()


def save_png(path: str | os.PathLike[str], picture: Picture, recipe: Recipe | None = None) -> Path:
    """Write ``encode_png`` of ``picture`` to ``path``, whole or not at all.

    Raises InvalidRequest if the name does not end in .png, OutputError if it cannot be written.
    """
    target = Path(path)
    if target.suffix.lower() != ".png":
        raise InvalidRequest(f"cannot write {target}: the name of the picture must end in .png")
    return write_bytes(target, encode_png(picture, recipe))


def read_recipe(path: str | os.PathLike[str]) -> Recipe:
    """The recipe in a PNG file, or a moving GIF or WebP, of sfumato, without decoding the picture.

    Raises InvalidRequest if there is no such file or it is too large, DataError if it is no picture, is
    damaged, or holds no recipe; the text then says if there is A1111 text for ``read_infotext`` instead.
    """
    source = Path(path)
    with _opened(source) as (file, size):
        if not _is_png(file):
            told = _moving_recipe(file)
            if told is not None:
                return Recipe.from_json(told)
            _user_comment(file)
            raise DataError("it holds no recipe: only PNG files and moving pictures of sfumato do")
        texts = read_texts(file, size, (RECIPE_CHUNK, INFOTEXT_CHUNK))
        if RECIPE_CHUNK in texts:
            return Recipe.from_json(texts[RECIPE_CHUNK])
        if INFOTEXT_CHUNK in texts:
            raise DataError(
                "it holds no recipe of sfumato, only the A1111 text of another program: use read_infotext"
            )
        raise DataError("it holds no recipe")


def read_infotext(path: str | os.PathLike[str]) -> str | None:
    """The A1111 text of a PNG (chunk ``parameters``), JPEG or WebP file (EXIF comment); None without one.

    Take it apart with ``parse_infotext``. Raises as ``read_recipe`` does for what is no picture or damaged.
    """
    source = Path(path)
    with _opened(source) as (file, size):
        if not _is_png(file):
            return _user_comment(file)
        return read_texts(file, size, (INFOTEXT_CHUNK,)).get(INFOTEXT_CHUNK)


@contextmanager
def _opened(source: Path) -> Iterator[tuple[BinaryIO, int]]:
    """``source`` open for reading and its size; errors raised meanwhile are told with its name."""
    try:
        status = source.stat()
        if not stat.S_ISREG(status.st_mode):
            raise InvalidRequest("it is not a file")
        if status.st_size > MAX_FILE:
            raise InvalidRequest(f"it is too large: more than {MAX_FILE} bytes")
        with open(source, "rb") as file:
            yield file, status.st_size
    except OSError as error:
        raise InvalidRequest(f"cannot read {source}: {error.strerror or error}") from error
    except DataError as error:
        raise DataError(f"cannot read {source}: {error}") from error
    except InvalidRequest as error:
        raise InvalidRequest(f"cannot read {source}: {error}") from error


def _is_png(file: BinaryIO) -> bool:
    head = file.read(len(SIGNATURE))
    file.seek(0)
    return head == SIGNATURE


def _moving_recipe(file: BinaryIO) -> str | None:
    """The comment of a GIF, or the EXIF description of a WebP file, if it can be a recipe: an object of JSON."""
    try:
        with Image.open(file, formats=("GIF", "WEBP")) as image:
            told = image.info.get("comment") if image.format == "GIF" else image.getexif().get(DESCRIPTION)
    except Exception:  # no such file, or damaged in one of a dozen ways: told by who reads it next
        told = None
    file.seek(0)
    text = told.decode("ascii", "replace") if isinstance(told, bytes) else told
    return text if isinstance(text, str) and text.startswith("{") and len(text) <= MAX_TEXT else None


def _user_comment(file: BinaryIO) -> str | None:
    """The EXIF UserComment of a JPEG or WebP file; DataError if it is neither, or damaged."""
    try:
        with Image.open(file, formats=("JPEG", "WEBP")) as image:
            width, height = image.size
            comment = image.getexif().get_ifd(_EXIF_IFD).get(_USER_COMMENT)
    except Image.DecompressionBombError as error:
        raise InvalidRequest("the picture has too many pixels") from error
    except Exception as error:  # Pillow raises errors of a dozen kinds on damaged files
        raise DataError("it is no PNG, JPEG or WebP picture, or it is damaged") from error
    check_size(width, height)
    if comment is None:
        return None
    data = comment.encode() if isinstance(comment, str) else comment
    if not isinstance(data, bytes):
        raise DataError("its comment is not text")
    if len(data) > MAX_TEXT:
        raise DataError(f"its comment takes more than {MAX_TEXT} bytes")
    return _decoded(data)


def _decoded(data: bytes) -> str:
    """The text of a UserComment: eight bytes name its encoding, and UNICODE means UTF-16."""
    encoding, body = data[:8], data[8:]
    if encoding == b"UNICODE\0":
        marked = body[:2] in (b"\xff\xfe", b"\xfe\xff")
        return body.decode("utf-16" if marked else "utf-16-be", "replace")
    if encoding in (b"ASCII\0\0\0", bytes(8)):
        return body.decode("utf-8", "replace")
    return data.decode("utf-8", "replace")
