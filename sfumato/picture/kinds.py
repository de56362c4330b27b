"""The kinds of picture files, known by their first bytes, and what opens each without decoding a pixel."""

from __future__ import annotations

import contextlib
import ctypes
import io
import logging
import struct
from collections.abc import Callable
from functools import cache

from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
    _imaging,
    features,
)

from sfumato.errors import DataError, InvalidRequest, MissingExtra

KINDS = ("PNG", "JPEG", "WebP", "AVIF", "GIF", "TIFF", "BMP", "HEIF")
"""The kinds of files that are read, by their first bytes; the file's name does not count."""

MAX_SCANS = 100
"""JPEG files with more scans are refused: each decodes the whole picture again, and encoders write about ten."""

# Without any handler, Python would write what Pillow logs of damaged files on standard error.
logging.getLogger("PIL").addHandler(logging.NullHandler())

_OTHERS = (
    (b"%PDF", "a PDF document"),
    (b"8BPS", "a Photoshop document"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"version https://git-lfs", "a Git LFS pointer, whose file was not fetched"),
    (b"<svg", "an SVG drawing"),
    (b"<?xml", "an XML or SVG document"),
    (b"<!doctype html", "a web page"),
    (b"<html", "a web page"),
)


def opener(data: bytes, most: int) -> Callable[[], ImageFile.ImageFile]:
    """What opens a file's bytes, by their beginning; DataError if they are of no kind that is read."""
    kind: Callable[[io.BytesIO], ImageFile.ImageFile]
    if not data:
        raise DataError("it is empty")
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        kind = PngImagePlugin.PngImageFile
    elif data.startswith(b"\xff\xd8\xff"):
        if data.count(b"\xff\xda") > MAX_SCANS:
            raise DataError(f"it has more than {MAX_SCANS} scans")
        kind = JpegImagePlugin.jpeg_factory
    elif data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        check_size(*_webp_size(data), most)
        kind = WebPImagePlugin.WebPImageFile
    elif data.startswith((b"GIF87a", b"GIF89a")):
        kind = GifImagePlugin.GifImageFile
    elif data.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        _quiet_libtiff()
        kind = TiffImagePlugin.TiffImageFile
    elif data.startswith(b"BM"):
        kind = BmpImagePlugin.BmpImageFile
    elif data[4:8] == b"ftyp":
        kind = _boxed(data)
    else:
        other = next(
            (name for magic, name in _OTHERS if data[:64].lstrip().lower().startswith(magic.lower())), ""
        )
        raise DataError(f"it is {other or 'no picture'}; {', '.join(KINDS)} are read")
    return lambda: kind(io.BytesIO(data))


@cache
def _quiet_libtiff() -> None:
    """Keep libtiff from writing of damaged files on standard error: Pillow raises an error as well.

    Pillow has no switch for it, so the library that it loaded is asked, where it can be found in it.
    """
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(_imaging.__file__)
        for name in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
            set_handler = getattr(library, name)
            set_handler.argtypes, set_handler.restype = [ctypes.c_void_p], ctypes.c_void_p
            set_handler(None)


def _webp_size(data: bytes) -> tuple[int, int]:
    """Width and height of a WebP file: Pillow's decoder takes memory for its canvas when it is opened."""
    name, body = data[12:16], data[20:30]
    if len(body) < 10 or name not in (b"VP8X", b"VP8L", b"VP8 "):
        raise DataError("its header is damaged or cut short")
    if name == b"VP8X":
        return 1 + int.from_bytes(body[4:7], "little"), 1 + int.from_bytes(body[7:10], "little")
    if name == b"VP8L":
        bits = int.from_bytes(body[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = struct.unpack("<HH", body[6:10])
    return width & 0x3FFF, height & 0x3FFF


def _boxed(data: bytes) -> Callable[[io.BytesIO], ImageFile.ImageFile]:
    """What opens AVIF and HEIF files: they differ by the brands in their first box."""
    length = min(int.from_bytes(data[:4], "big"), 256)
    brands = {data[8:12], *(data[at : at + 4] for at in range(16, length, 4))}
    if brands & {b"avif", b"avis"}:
        if not features.check("avif"):
            raise DataError(
                "it is AVIF, which this Pillow was built without; install a wheel of Pillow 11.3 or later"
            )
        from PIL import AvifImagePlugin

        return AvifImagePlugin.AvifImageFile
    if not brands & {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}:
        raise DataError(f"it is a film or another file of its kind, no picture; {', '.join(KINDS)} are read")
    try:
        import pillow_heif
    except ImportError:
        raise MissingExtra("pillow-heif", "heif", "reading HEIF pictures") from None
    return pillow_heif.HeifImageFile


def check_size(width: int, height: int, most: int) -> None:
    """Raise InvalidRequest if a picture of this size is empty or has more than ``most`` pixels."""
    if width < 1 or height < 1:
        raise InvalidRequest(f"a picture of {width} x {height} pixels is empty")
    if width * height > most:
        raise InvalidRequest(
            f"a picture of {width} x {height} pixels is too large: at most {most} pixels are allowed"
        )
