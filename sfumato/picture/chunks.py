"""The text inside PNG files, read chunk by chunk within fixed limits and without decoding any pixel."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from sfumato.errors import DataError
from sfumato.picture.images import check_size

SIGNATURE = b"\x89PNG\r\n\x1a\n"
"""The first eight bytes of every PNG file."""

MAX_TEXT = 2**21
"""A text that is asked for takes at most this many bytes, before and after decompression."""

_MAX_CHUNKS = 100_000
_READ = 2**20
_TEXT_KINDS = (b"tEXt", b"zTXt", b"iTXt")


def read_texts(file: BinaryIO, size: int, wanted: tuple[str, ...]) -> dict[str, str]:
    """The texts named in ``wanted`` that the PNG ``file`` of ``size`` bytes holds (the first of each name).

    The whole file is walked: a wrong checksum anywhere, a cut end or a text beyond MAX_TEXT raises DataError,
    and a header that announces too many pixels raises InvalidRequest before anything else is read.
    """
    found: dict[str, str] = {}
    for kind, data, length in _chunks(file, size):
        if kind not in _TEXT_KINDS:
            continue
        key, separator, rest = data.partition(b"\0")
        name = key.decode("latin-1")
        if not separator or name not in wanted or name in found:
            continue
        if length > MAX_TEXT:
            raise DataError(f"its text {name!r} takes more than {MAX_TEXT} bytes")
        try:
            found[name] = _text(kind, rest)
        except (ValueError, zlib.error) as error:
            raise DataError(f"its text {name!r} is damaged: {error}") from error
    return found


def _chunks(file: BinaryIO, size: int) -> Iterator[tuple[bytes, bytes, int]]:
    """Kind, data and length of each chunk up to the end; data is kept of header and text, in part if long."""
    if file.read(len(SIGNATURE)) != SIGNATURE:
        raise DataError("it is not a PNG file")
    left = size - len(SIGNATURE)
    pixels = False
    for number in range(_MAX_CHUNKS):
        if left < 12:
            raise DataError("its end is missing")
        length, kind = struct.unpack(">I4s", file.read(8))
        left -= 12 + length
        if not kind.isalpha():
            raise DataError(f"its chunk {number + 1} has no proper name")
        if left < 0:
            raise DataError("its end is missing")
        if (number == 0) != (kind == b"IHDR") or (number == 0 and length != 13):
            raise DataError("its header is damaged")
        data = _body(file, kind, length, MAX_TEXT if kind in (b"IHDR", *_TEXT_KINDS) else 0)
        if kind == b"IHDR":
            width, height = struct.unpack(">II", data[:8])
            if not width or not height:
                raise DataError("its header announces no pixels")
            check_size(width, height)
        pixels = pixels or kind == b"IDAT"
        if kind == b"IEND":
            if not pixels:
                raise DataError("it has no pixels")
            return
        yield kind, data, length
    raise DataError(f"it has more than {_MAX_CHUNKS} chunks")


def _body(file: BinaryIO, kind: bytes, length: int, keep: int) -> bytes:
    """Read the data of a chunk and compare its checksum; return the first ``keep`` bytes of it."""
    kept = b""
    checksum = zlib.crc32(kind)
    left = length
    while left:
        block = file.read(min(left, _READ))
        if not block:
            raise DataError("its end is missing")
        checksum = zlib.crc32(block, checksum)
        kept += block[: keep - len(kept)]
        left -= len(block)
    if file.read(4) != checksum.to_bytes(4, "big"):
        raise DataError(f"its chunk {kind.decode()!r} has a wrong checksum")
    return kept


def _text(kind: bytes, data: bytes) -> str:
    """The text of a tEXt, zTXt or iTXt chunk, from what follows its name; ValueError if it is malformed."""
    if kind == b"tEXt":
        return data.decode("latin-1")
    if kind == b"zTXt":
        if data[:1] != b"\0":
            raise ValueError("unknown compression")
        return _inflated(data[1:]).decode("latin-1")
    compressed, method = data[:1], data[1:2]
    parts = data[2:].split(b"\0", 2)
    if len(parts) != 3 or compressed not in (b"\0", b"\1") or method != b"\0":
        raise ValueError("its beginning is malformed")
    return (_inflated(parts[2]) if compressed == b"\1" else parts[2]).decode()


def _inflated(data: bytes) -> bytes:
    inflater = zlib.decompressobj()
    text = inflater.decompress(data, MAX_TEXT)
    if not inflater.eof:
        raise ValueError(f"it is cut short or more than {MAX_TEXT} bytes when decompressed")
    return text
