"""A folder of pictures with captions, in the forms that people have them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from sfumato.data.decode import Pixels, decode, whole_file
from sfumato.data.record import Record, json_lines, record_of
from sfumato.errors import DataError

SUFFIXES = frozenset({".png", ".webp", ".jpg", ".jpeg", ".gif", ".bmp"})
METADATA = "metadata.jsonl"


def has_pictures(folder: Path) -> bool:
    """Whether FolderPictures would find something to read in ``folder``."""
    return (folder / METADATA).is_file() or next(_walk(folder), None) is not None


class FolderPictures:
    """The pictures below a folder.

    If it has ``metadata.jsonl``, each line names a picture (``file_name``) and its ``text`` or ``captions``,
    and may give any other field of a record. Else every picture counts, with the lines of ``x.txt`` beside
    ``x.png`` as its captions, or else its own name with spaces for ``-`` and ``_``.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """Read all captions; decode no picture yet."""
        self._path = Path(folder)
        metadata = self._path / METADATA
        found = list(_from_metadata(metadata) if metadata.is_file() else _from_names(self._path))
        if not found:
            raise DataError(f"{self._path} holds no pictures")
        self._files = [file for file, _ in found]
        self._records = tuple(record for _, record in found)

    @property
    def path(self) -> Path:
        """The folder."""
        return self._path

    @property
    def records(self) -> tuple[Record, ...]:
        """What is known of each picture; an id is the picture's path below the folder."""
        return self._records

    def __len__(self) -> int:
        """How many pictures there are."""
        return len(self._records)

    def read(self, index: int) -> Pixels:
        """Picture ``index`` as uint8 RGBA (H, W, 4); DataError if it is damaged."""
        return decode(whole_file(self._files[index]), str(self._files[index]))

    def sha256(self) -> str:
        """The hash of all names and picture bytes, in order."""
        digest = hashlib.sha256()
        for file, record in zip(self._files, self._records, strict=True):
            digest.update(record.id.encode("utf-8", "surrogateescape") + b"\0")
            digest.update(hashlib.sha256(whole_file(file)).digest())
        return digest.hexdigest()


def _walk(folder: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if Path(name).suffix.lower() in SUFFIXES and not name.startswith("."):
                yield Path(place, name)


def _from_names(folder: Path) -> Iterator[tuple[Path, Record]]:
    for file in _walk(folder):
        captions = _captions_of(file)
        name = file.relative_to(folder).as_posix()
        yield file, Record(id=name, label=captions[0], captions=captions)


def _captions_of(file: Path) -> tuple[str, ...]:
    words = file.with_suffix(".txt")
    if not words.is_file():
        return (file.stem.replace("-", " ").replace("_", " ").strip() or file.stem,)
    try:
        lines = tuple(line.strip() for line in words.read_text("utf-8").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the captions in {words}: {error}") from error
    if not lines:
        raise DataError(f"{words} has no caption; write one a line, or remove the file")
    return lines


def _from_metadata(metadata: Path) -> Iterator[tuple[Path, Record]]:
    for number, row in json_lines(metadata):
        try:
            yield _inside(metadata.parent, row.get("file_name")), record_of(_renamed(row))
        except (ValueError, TypeError) as error:
            raise DataError(f"{metadata} line {number}: {error}") from error


def _renamed(row: dict[str, Any]) -> dict[str, Any]:
    """The row in the words of a record: ``file_name`` is the id, ``text`` the only caption."""
    captions = {"captions": [row["text"]]} if "text" in row and "captions" not in row else {}
    return {"id": row["file_name"], **row, **captions}


def _inside(folder: Path, name: object) -> Path:
    if not isinstance(name, str) or not name or "\0" in name:
        raise ValueError(f"'file_name' must be the name of a picture, not {name!r:.60}")
    parts = PurePosixPath(name)
    if parts.is_absolute() or ".." in parts.parts:
        raise ValueError(f"'file_name' {name!r} leads out of the folder")
    file = folder / parts
    if not file.is_file():
        raise ValueError(f"there is no file {name!r}")
    return file
