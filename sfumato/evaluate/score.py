"""KID and FD-EffNetLite0 of a folder of pictures against real ones, beside what real pictures get.

::

    sfumato evaluate score --pictures FOLDER --corpus emoji-128.tar --split test_style

The reference is the real pictures of one split, on white (so score pictures whose prompts name no other
background), each picture once. Both sides and the floor are cut to one n by a seeded draw, because FD depends
on n; the floor is the same two numbers between two disjoint sets of n real pictures of ``train``. Without
``--pictures``, n more real pictures of ``train`` are scored in their place: what a generator that had learned
``train`` perfectly would get.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from sfumato.data.compose import BACKGROUNDS, on_background
from sfumato.data.pictures import PictureSet
from sfumato.errors import DataError, InvalidRequest, UnknownName
from sfumato.evaluate.features import features, read_on_white
from sfumato.evaluate.frechet import Frechet, frechet
from sfumato.evaluate.kernel import Kernel, kid
from sfumato.evaluate.moments import Moments
from sfumato.nn.efficientnet import EfficientNetLite0

_T = TypeVar("_T")
_KINDS = {".png", ".webp", ".jpg", ".jpeg"}
_FLOOR = "train"


@dataclass(frozen=True)
class Distances:
    """Both distances between two sets of features."""

    kid: Kernel
    fd: Frechet

    def __str__(self) -> str:
        """``KID 0.0351 ± 0.0012 (n = 556, 556), FD-EffNetLite0 60.81 (n = 556, 556)``."""
        return f"{self.kid}, {self.fd}"


@dataclass(frozen=True)
class Score:
    """Distances of the pictures to the ``split``, of real pictures to each other, and the seconds it took."""

    split: str
    pictures: Distances
    floor: Distances
    seconds: float

    def __str__(self) -> str:
        """Three lines."""
        return (
            f"pictures to {self.split}: {self.pictures}\n"
            f"real to real ({_FLOOR}): {self.floor}\n"
            f"{self.seconds:.1f} s"
        )


def distances(a: Tensor, b: Tensor) -> Distances:
    """KID and FD of features ``a`` (n, d) and ``b`` (m, d)."""
    return Distances(kid(a, b), frechet(Moments.of(a), Moments.of(b)))


def score(
    pictures: Sequence[Path] | None,
    corpus: PictureSet,
    split: str,
    *,
    model: EfficientNetLite0,
    seed: int = 0,
    batch: int = 64,
) -> Score:
    """Score picture files against ``split`` of the corpus, at the largest n that all sides have.

    ``pictures`` None means real pictures of ``train``. ``seed`` draws which pictures count, where there are
    more than n. Raises UnknownName for a split that is not there, InvalidRequest for fewer than 4 pictures on
    a side, DataError for files that cannot be read.
    """
    start = time.perf_counter()
    by_split: dict[str, list[int]] = {}
    for index, record in enumerate(corpus.records):
        by_split.setdefault(record.split, []).append(index)
    for name in (split, _FLOOR):
        if name not in by_split:
            raise UnknownName("split", name, by_split)
    n = min(len(by_split[split]), len(by_split[_FLOOR]) // (2 if pictures is not None else 3))
    if pictures is not None:
        n = min(n, len(pictures))
    if n < 4:
        raise InvalidRequest(f"scores need 4 pictures or more on every side; one has {n}")
    draw = torch.Generator().manual_seed(seed)
    train = _draw(by_split[_FLOOR], len(by_split[_FLOOR]), draw)

    def real(chosen: Sequence[int]) -> Tensor:
        white = BACKGROUNDS["white"]
        return features((on_background(corpus.read(i), white) for i in chosen), model, batch=batch)

    reference = real(_draw(by_split[split], n, draw))
    if pictures is None:
        scored = real(train[2 * n : 3 * n])
    else:
        scored = features(map(read_on_white, _draw(pictures, n, draw)), model, batch=batch)
    floor = distances(real(train[:n]), real(train[n : 2 * n]))
    return Score(split, distances(scored, reference), floor, time.perf_counter() - start)


def picture_files(folder: Path) -> list[Path]:
    """The PNG, WebP and JPEG files of ``folder``, by name; DataError if there are none."""
    try:
        found = sorted(path for path in folder.iterdir() if path.suffix.lower() in _KINDS)
    except OSError as error:
        raise DataError(f"cannot read the folder {folder}: {error.strerror}") from error
    if not found:
        raise DataError(f"{folder} holds no pictures ({', '.join(sorted(_KINDS))})")
    return found


def _draw(items: Sequence[_T], n: int, draw: torch.Generator) -> list[_T]:
    """``n`` of ``items``, without repeats."""
    return [items[i] for i in torch.randperm(len(items), generator=draw)[:n].tolist()]
