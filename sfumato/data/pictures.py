"""One protocol for all sources of pictures, and the function that picks the reader for a path."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Protocol

from sfumato.data.decode import Pixels
from sfumato.data.folder import FolderPictures, has_pictures
from sfumato.data.idx import IdxPictures, find_pair, is_idx
from sfumato.data.record import Record
from sfumato.data.tar import TarPictures
from sfumato.errors import InvalidRequest

ACCEPTED = (
    "a .tar of pictures with its .jsonl of records beside it (either file, or their folder), "
    "a folder of pictures with captions (x.png with x.txt, or metadata.jsonl), "
    "or IDX files (train-images-idx3-ubyte[.gz] with its labels)"
)


class PictureSet(Protocol):
    """Pictures with records, readable in any order and from many threads."""

    @property
    def path(self) -> Path:
        """The file or folder that was opened."""

    @property
    def records(self) -> tuple[Record, ...]:
        """What is known of each picture."""

    def __len__(self) -> int:
        """How many pictures there are."""

    def read(self, index: int) -> Pixels:
        """Picture ``index`` as uint8 RGBA (H, W, 4); DataError if it is damaged."""

    def sha256(self) -> str:
        """A hash of the pictures' bytes."""


def open_pictures(path: str | os.PathLike[str]) -> PictureSet:
    """The reader for what ``path`` is; InvalidRequest that says what is accepted if it is nothing known."""
    place = Path(path)
    if not place.exists():
        raise InvalidRequest(f"{place} does not exist; data can be {ACCEPTED}")
    if place.is_dir():
        return _open_folder(place)
    if place.suffix == ".tar":
        return TarPictures(place, _lines_of(place))
    if place.suffix == ".jsonl":
        if place.name == "metadata.jsonl":
            return FolderPictures(place.parent)
        return TarPictures(_tar_of(place), place)
    if is_idx(place):
        return IdxPictures(*find_pair(place))
    raise InvalidRequest(f"{place} is of no known kind; data can be {ACCEPTED}")


def _open_folder(folder: Path) -> PictureSet:
    tars = [tar for tar in sorted(folder.glob("*.tar")) if _lines_or_none(tar)]
    if len(tars) > 1:
        names = ", ".join(tar.name for tar in tars)
        raise InvalidRequest(f"{folder} has several sets of pictures ({names}); give the path of one")
    if tars:
        return TarPictures(tars[0], _lines_of(tars[0]))
    if has_pictures(folder):
        return FolderPictures(folder)
    images = sorted(p for p in folder.glob("*-images*") if is_idx(p))
    if images:
        training = [p for p in images if p.name.startswith("train")]
        return IdxPictures(*find_pair((training or images)[0]))
    raise InvalidRequest(f"{folder} holds no pictures; data can be {ACCEPTED}")


def _lines_or_none(tar: Path) -> Path | None:
    stems = (tar.stem, re.sub(r"-\d+$", "", tar.stem))
    return next((p for p in (tar.with_name(f"{s}.jsonl") for s in stems) if p.is_file()), None)


def _lines_of(tar: Path) -> Path:
    lines = _lines_or_none(tar)
    if lines is None:
        raise InvalidRequest(f"{tar} has no records beside it; put {tar.stem}.jsonl in the same folder")
    return lines


def _tar_of(lines: Path) -> Path:
    exact = lines.with_suffix(".tar")
    sized = [p for p in lines.parent.glob("*.tar") if _lines_or_none(p) == lines]
    tars = [exact] if exact.is_file() else sorted(sized)
    if len(tars) != 1:
        found = ", ".join(p.name for p in tars) or "none"
        raise InvalidRequest(f"{lines} needs one tar beside it, such as {exact.name}; found: {found}")
    return tars[0]
