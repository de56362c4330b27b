"""Random access to the pictures of a tar whose records lie in a JSON-lines file beside it."""

from __future__ import annotations

import hashlib
import os
import tarfile
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sfumato.data.decode import MAX_BYTES, MAX_PIXELS, Pixels, decode
from sfumato.data.record import Record, json_lines, record_of
from sfumato.errors import DataError


class TarPictures:
    """The pictures of ``tar`` that the lines of ``lines`` describe.

    A line gives the place of its picture as ``offset`` and ``size`` in the tar, or its ``file`` name, which
    is then looked up in the tar's headers. Reading shares one file handle and no position, so threads, forked
    processes and pickled copies may read at once.
    """

    def __init__(self, tar: str | os.PathLike[str], lines: str | os.PathLike[str]) -> None:
        """Read all records and check that every picture lies inside the tar; decode nothing yet."""
        self.path, self.lines = Path(tar), Path(lines)
        try:
            self._handle = os.open(self.path, os.O_RDONLY)
        except OSError as error:
            raise DataError(f"cannot read {self.path}: {error.strerror or error}") from error
        self._close = weakref.finalize(self, os.close, self._handle)
        self._records: tuple[Record, ...]
        self._records, self._spans, self._at_line = self._index()

    def _index(self) -> tuple[tuple[Record, ...], list[tuple[int, int]], list[int]]:
        records: list[Record] = []
        spans: list[tuple[int, int]] = []
        numbers: list[int] = []
        seen: set[str] = set()
        length = os.fstat(self._handle).st_size
        members = _Members(self.path)
        for number, row in json_lines(self.lines):
            try:
                record = record_of(row)
                spans.append(_span(row, length, members.find))
                if record.id in seen:
                    raise ValueError("an earlier line has the same id")
            except (ValueError, TypeError) as error:
                name = str(row.get("id", "without id"))[:80]
                raise DataError(f"{self.lines} line {number}, record {name!r}: {error}") from error
            seen.add(record.id)
            records.append(record)
            numbers.append(number)
        if not records:
            raise DataError(f"{self.lines} has no records")
        return tuple(records), spans, numbers

    @property
    def records(self) -> tuple[Record, ...]:
        """What is known of each picture, in the order of the lines."""
        return self._records

    def __len__(self) -> int:
        """How many pictures there are."""
        return len(self._records)

    def read(self, index: int) -> Pixels:
        """Picture ``index`` as uint8 RGBA (H, W, 4); DataError if its bytes are damaged."""
        return decode(self.encoded(index), self._where(index), MAX_PIXELS)

    def encoded(self, index: int) -> bytes:
        """The bytes of picture ``index`` as the tar holds them (WebP, PNG, ...)."""
        offset, size = self._spans[index]
        try:
            data = os.pread(self._handle, size, offset)
        except OSError as error:
            raise DataError(f"{self._where(index)}: {error.strerror or error}") from error
        if len(data) != size:
            raise DataError(f"{self._where(index)}: the tar was cut short ({len(data)} of {size} bytes)")
        return data

    def sha256(self) -> str:
        """The hash of the whole tar, in hexadecimal."""
        with open(self.path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def close(self) -> None:
        """Let go of the file; reading afterwards fails. Also done when the object is collected."""
        self._close()

    def __reduce__(self) -> tuple[type[TarPictures], tuple[Path, Path]]:
        return (TarPictures, (self.path, self.lines))

    def _where(self, index: int) -> str:
        return f"{self.path}, record {self._records[index].id!r} ({self.lines} line {self._at_line[index]})"


class _Members:
    """Where the files of a tar lie, read from its headers when first asked for."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._places: dict[str, tuple[int, int]] | None = None

    def find(self, name: str) -> tuple[int, int]:
        if self._places is None:
            self._places = self._scan()
        if name not in self._places:
            raise ValueError(f"the tar has no file {name!r:.120}")
        return self._places[name]

    def _scan(self) -> dict[str, tuple[int, int]]:
        try:
            with tarfile.open(self._path, "r:") as tar:
                return {m.name: (m.offset_data, m.size) for m in tar if m.isreg()}
        except (tarfile.TarError, OSError, ValueError, EOFError) as error:
            raise DataError(f"{self._path} is not a whole tar file ({error})") from error


def _span(row: dict[str, Any], length: int, find: Callable[[str], tuple[int, int]]) -> tuple[int, int]:
    if "offset" in row or "size" in row:
        offset, size = row.get("offset"), row.get("size")
        if type(offset) is not int or type(size) is not int:
            raise ValueError(
                f"'offset' and 'size' must be whole numbers, not {offset!r:.40} and {size!r:.40}"
            )
    elif isinstance(row.get("file"), str):
        offset, size = find(row["file"])
    else:
        raise ValueError("neither 'offset' and 'size' nor a 'file' name")
    if not 0 < size <= MAX_BYTES:
        raise ValueError(f"a picture of {size} bytes; from 1 to {MAX_BYTES} are allowed")
    if offset < 0 or offset + size > length:
        raise ValueError(
            f"bytes {offset} to {offset + size} lie outside the tar of {length} bytes: is it cut short?"
        )
    return offset, size
