"""Pictures that come in: a file, its bytes, a Pillow picture or an array, as 8-bit sRGB with alpha kept apart."""

from __future__ import annotations

import hashlib
import os
import stat
import struct
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor, PngImagePlugin, TiffImagePlugin

from sfumato.errors import DataError, InvalidRequest, MissingExtra, OutOfMemory
from sfumato.picture.images import MAX_PIXELS
from sfumato.picture.kinds import check_size, opener
from sfumato.picture.levels import Bytes, Low, flatten, from_array, low_bytes
from sfumato.picture.png import MAX_FILE

Source: TypeAlias = str | os.PathLike[str] | bytes | bytearray | memoryview | Image.Image | NDArray[Any]
"""What a picture is read from: a path, the bytes of a file, a Pillow picture or an array."""

_ORIENTATION = 0x0112
_BITS_PER_SAMPLE = 258
_DEEP = (PngImagePlugin.PngImageFile, TiffImagePlugin.TiffImageFile)
_QUIET = threading.Lock()
"""Held while Pillow decodes: warnings are silenced for the whole process, and one picture at a time bounds memory."""


@dataclass(frozen=True, eq=False)
class Read:
    """A picture that was read.

    ``pixels`` is uint8 (H, W, 3) in sRGB, ``alpha`` uint8 (H, W) with 0 for transparent, or None where all is
    opaque. ``notes`` says in sentences what had to be chosen or changed. ``hash`` is the SHA-256, in hex, of
    height, width and number of channels as three big-endian 32-bit numbers, the colours' bytes and the
    alpha's: equal pictures have equal hashes, whatever file they were in.
    """

    pixels: Bytes
    alpha: Bytes | None
    notes: tuple[str, ...]
    hash: str

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.pixels.shape[1], self.pixels.shape[0]


def read_picture(
    source: Source, *, most_pixels: int = MAX_PIXELS, background: str | None = "white", profile: bool = True
) -> Read:
    """The picture in ``source``, upright, in sRGB, its transparent parts laid over ``background``.

    A text is a path. Of an animation or of many pages the first is taken. ``background`` is a colour as in CSS;
    None leaves the colours under transparency as they are stored. ``profile=False`` leaves the colours as stored
    where a colour profile would change them. Arrays are as in ``levels.from_array``.

    Raises InvalidRequest for what cannot be opened, is too large (``most_pixels`` is compared with the header,
    before any pixel is decoded) or is no picture by its type; DataError for files that are damaged or of another
    kind; MissingExtra for HEIF without the extra ``heif``; OutOfMemory where decoding does not fit.
    """
    ground = None if background is None else colour(background)
    notes: list[str] = []
    if isinstance(source, np.ndarray):
        if source.ndim >= 2:
            check_size(source.shape[1], source.shape[0], most_pixels)
        pixels, alpha = from_array(source)
    else:
        where, start = _opening(source)
        try:
            pixels, alpha = _decoded(start, most_pixels, profile, notes)
        except MissingExtra:
            raise
        except InvalidRequest as error:
            raise InvalidRequest(f"cannot read {where}: {error}") from error
        except DataError as error:
            raise DataError(f"cannot read {where}: {error}") from error
        except MemoryError as error:
            raise OutOfMemory(f"cannot read {where}: decoding it takes more memory than there is") from error
        except Image.DecompressionBombError as error:
            raise InvalidRequest(f"cannot read {where}: it holds too many pixels") from error
        except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, struct.error and more
            said = " ".join(f"{error}".split()) or type(error).__name__
            raise DataError(f"cannot read {where}: it is damaged or cut short ({said:.120})") from error
    if alpha is not None and (alpha == 255).all():
        alpha = None
    if alpha is not None and ground is not None:
        _lay(pixels, alpha, ground)
        notes.append(f"its transparent parts were laid over {background}")
    return Read(pixels, alpha, tuple(notes), picture_hash(pixels, alpha))


def picture_hash(pixels: Bytes, alpha: Bytes | None = None) -> str:
    """The hash of a picture (see ``Read``) from its uint8 colours (H, W, 3) and its alpha (H, W)."""
    height, width = pixels.shape[:2]
    digest = hashlib.sha256(struct.pack(">III", height, width, 3 if alpha is None else 4))
    digest.update(np.ascontiguousarray(pixels).data)
    if alpha is not None:
        digest.update(np.ascontiguousarray(alpha).data)
    return digest.hexdigest()


def colour(text: str) -> tuple[int, int, int]:
    """Red, green and blue of a colour written as in CSS: ``#00ff00``, ``#0f0``, ``rgb(0, 255, 0)``, ``lime``."""
    try:
        red, green, blue, *_ = ImageColor.getrgb(text.strip())
    except ValueError:
        raise InvalidRequest(
            f"{text[:40]!r} is not a colour; write it as in CSS: '#00ff00', 'rgb(0, 255, 0)' or 'lime'"
        ) from None
    return red, green, blue


_Start: TypeAlias = Callable[[], Image.Image]


def _opening(source: Source) -> tuple[str, _Start | bytes]:
    """What to call the source, and its bytes, or what opens it."""
    if isinstance(source, Image.Image):
        return "the picture", lambda: source
    if isinstance(source, bytes | bytearray | memoryview):
        if len(source) > MAX_FILE:
            raise InvalidRequest(f"cannot read the picture: it is more than {MAX_FILE} bytes")
        return "the picture", bytes(source)
    if not isinstance(source, str | os.PathLike):
        raise InvalidRequest(
            f"a picture must be a path, bytes, a Pillow picture or an array, not {type(source).__name__}"
        )
    path = Path(source)
    where = "".join(each if each.isprintable() else "?" for each in str(path)[:200])
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise InvalidRequest(f"cannot read {where}: it is a folder; name a picture in it")
        if not stat.S_ISREG(status.st_mode):
            raise InvalidRequest(f"cannot read {where}: it is not a file")
        with open(path, "rb") as file:
            data = file.read(MAX_FILE + 1)
    except (OSError, ValueError) as error:
        if isinstance(error, InvalidRequest):
            raise
        said = error.strerror if isinstance(error, OSError) else None
        raise InvalidRequest(f"cannot read {where}: {said or error}") from error
    if len(data) > MAX_FILE:
        raise InvalidRequest(f"cannot read {where}: it is more than {MAX_FILE} bytes")
    return where, data


def _decoded(start: _Start | bytes, most: int, profile: bool, notes: list[str]) -> tuple[Bytes, Bytes | None]:
    """Colours and alpha, upright; the size is compared before anything is decoded."""
    with _QUIET, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        begin = opener(start, most) if isinstance(start, bytes) else start
        image = begin()
        size = image.size
        check_size(*size, most)
        if isinstance(start, bytes) and getattr(image, "is_animated", False):
            notes.append("it holds more than one picture: the first was taken")
        low: Low | None = None
        if isinstance(start, bytes) and isinstance(image, _DEEP):
            second = begin()
            assert isinstance(second, _DEEP)
            low = low_bytes(second)
            if low is not None:
                second.load()
        depth = _depth(start, image)
        image.load()
        if image.size != size:
            raise DataError("it is of another size than its header says")
        pixels, alpha = flatten(image, low, profile, depth, notes)
        turn = _orientation(image, notes)
    if turn > 1:
        pixels = _turned(pixels, turn)
        alpha = None if alpha is None else _turned(alpha, turn)
        notes.append(f"it was turned upright (EXIF orientation {turn})")
    return pixels, alpha


def _depth(start: _Start | bytes, image: Image.Image) -> int:
    """Bits of a grey value in the file: PNG and TIFF have other numbers than 8."""
    if isinstance(image, PngImagePlugin.PngImageFile) and isinstance(start, bytes):
        return start[24] or 8
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        bits = image.tag_v2.get(_BITS_PER_SAMPLE, (8,))
        return int(bits[0]) if isinstance(bits, tuple) and bits and bits[0] in (12, 16) else 8
    return 8


def _orientation(image: Image.Image, notes: list[str]) -> int:
    """The EXIF orientation, 1 (upright) to 8; Pillow has already turned TIFF and AVIF, and then says 1."""
    try:
        turn = image.getexif().get(_ORIENTATION, 1)
    except MemoryError:
        raise
    except Exception:  # damaged EXIF raises errors of a dozen kinds
        notes.append("its EXIF data are damaged and were ignored")
        return 1
    return turn if isinstance(turn, int) and 1 <= turn <= 8 else 1


def _turned(array: Bytes, turn: int) -> Bytes:
    """The stored array upright. 5 to 8 are stored with rows for columns; the rest is mirrored."""
    if turn > 4:
        array = array.swapaxes(0, 1)
    down = turn in (3, 4, 7, 8)
    across = turn in (2, 3, 6, 7)
    return np.ascontiguousarray(array[:: -1 if down else 1, :: -1 if across else 1])


def _lay(pixels: Bytes, alpha: Bytes, ground: tuple[int, int, int]) -> None:
    """Lay ``pixels`` over one colour in place, each value rounded to the nearest."""
    rows = max(1, (1 << 20) // pixels.shape[1])
    for top in range(0, pixels.shape[0], rows):
        part = slice(top, top + rows)
        cover = alpha[part, :, None].astype(np.uint16)
        mixed = pixels[part] * cover + np.array(ground, np.uint16) * (255 - cover) + 127
        pixels[part] = mixed // 255
