"""IDX files, the form of MNIST and Fashion-MNIST: grey pictures of one size, and a class number each.

On Debian, ``dataset-fashion-mnist`` puts a set in ``/usr/share/datasets/fashion-mnist``.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import re
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sfumato.data.decode import Pixels
from sfumato.data.record import Record
from sfumato.errors import DataError, InvalidRequest

FASHION = (
    "t-shirt",
    "trousers",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
"""The classes of Fashion-MNIST, by number."""

MAX_VALUES = 1 << 30
_IMAGES = re.compile(r"(?P<part>.+)-images[-.]idx3-ubyte(\.gz)?")


def is_idx(path: Path) -> bool:
    """Whether the file is named as the pictures of an IDX pair."""
    return _IMAGES.fullmatch(path.name) is not None and path.is_file()


def find_pair(images: Path) -> tuple[Path, Path]:
    """The file of pictures and the file of labels that belongs to it; InvalidRequest if there is none."""
    for separator in "-.":
        for ending in ("", ".gz"):
            part = images.name.split("-images")[0]
            labels = images.with_name(f"{part}-labels{separator}idx1-ubyte{ending}")
            if labels.is_file():
                return images, labels
    raise InvalidRequest(f"{images} has no labels beside it, such as {labels.name}")


class IdxPictures:
    """The pictures of one IDX pair, all held in memory; a record's label is the name of its class.

    Classes are named after Fashion-MNIST if the path says so, after the lines of ``classes.txt`` beside the
    files if that exists, and "class 7" otherwise.
    """

    def __init__(self, images: Path, labels: Path) -> None:
        """Read both files whole; DataError if either is damaged or they do not belong together."""
        self._path = images
        self._pixels = read_idx(images, dimensions=3)
        numbers = read_idx(labels, dimensions=1)
        if len(numbers) != len(self._pixels):
            raise DataError(f"{labels} has {len(numbers)} labels for {len(self._pixels)} pictures")
        if self._pixels.size == 0:
            raise DataError(f"{images} holds no pictures")
        part = images.name.split("-images")[0]
        fashion = "fashion" in str(images.absolute()).lower()
        names = _class_names(images.parent, fashion)
        split = "test" if part == "t10k" else part
        self._records = tuple(
            _record(f"{part}/{i}", int(number), split, names, fashion) for i, number in enumerate(numbers)
        )

    @property
    def path(self) -> Path:
        """The file of pictures."""
        return self._path

    @property
    def records(self) -> tuple[Record, ...]:
        """What is known of each picture."""
        return self._records

    def __len__(self) -> int:
        """How many pictures there are."""
        return len(self._records)

    def read(self, index: int) -> Pixels:
        """Picture ``index`` as uint8 RGBA (H, W, 4), opaque."""
        grey = self._pixels[index]
        return np.stack([grey, grey, grey, np.full_like(grey, 255)], axis=-1)

    def sha256(self) -> str:
        """The hash of the pictures' bytes."""
        return hashlib.sha256(self._pixels.tobytes()).hexdigest()


def read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """The array of bytes in an IDX file, plain or gzipped; DataError unless it has so many dimensions."""
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as file:
            head = file.read(4 + 4 * dimensions)
            shape = _shape(path, head, dimensions)
            count = math.prod(shape)
            data = file.read(count + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot read {path}: {error}") from error
    if len(data) != count:
        have = "more" if len(data) > count else f"only {len(data)}"
        raise DataError(f"{path}: its header announces {count} values, it has {have}")
    return np.frombuffer(data, np.uint8).reshape(shape)


def _shape(path: Path, head: bytes, dimensions: int) -> tuple[int, ...]:
    if len(head) < 4 + 4 * dimensions or head[:2] != b"\0\0":
        raise DataError(f"{path} is not an IDX file, or cut short")
    kind, have = head[2], head[3]
    if kind != 8 or have != dimensions:
        raise DataError(f"{path}: bytes in {dimensions} dimensions expected, not type {kind} in {have}")
    shape = struct.unpack(f">{dimensions}I", head[4:])
    if math.prod(shape) > MAX_VALUES:
        raise DataError(f"{path}: its header announces {math.prod(shape)} values, more than {MAX_VALUES}")
    return shape


def _class_names(folder: Path, fashion: bool) -> tuple[str, ...]:
    listed = folder / "classes.txt"
    if listed.is_file():
        return tuple(line.strip() for line in listed.read_text("utf-8", "replace").splitlines())
    return FASHION if fashion else ()


def _record(name: str, number: int, split: str, names: tuple[str, ...], fashion: bool) -> Record:
    label = names[number] if number < len(names) and names[number] else f"class {number}"
    return Record(
        id=name,
        label=label,
        captions=(label,),
        split=split,
        group=label,
        family=label,
        licence="MIT" if fashion else "",
        attribution="Fashion-MNIST, (c) Zalando SE" if fashion else "",
        flippable=fashion,
    )
