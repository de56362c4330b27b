"""Which pictures are held out, and how much each weighs.

* ``test_concept``: families seen in no style (4 %).
* ``test_style``: the family is known from three sets or more, but not in this style (5 %); 3d and glossy are
  two renderings of one model and are held out together.
* ``val``: single pictures (2 %).
* No held-out picture has a near twin of its own set in train: such pictures go back to train.

Choices are hashes of names, so they stay when sets are added.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

SHADED = frozenset({"fluent-3d", "fluent-emoji"})
NOT_HELD_OUT = frozenset({"component", "other"})
TWIN = (6 / 255) ** 2
"""Mean squared difference of two thumbnails (in units of full scale) below which they are twins."""


def chance(name: str) -> float:
    """A number from 0 to 1 that depends on the name alone."""
    return int(hashlib.sha256(f"sfumato-v1:{name}".encode()).hexdigest()[:8], 16) / 2**32


def assign(rows: Sequence[dict[str, Any]], all_members: Iterable[tuple[str, str]]) -> None:
    """Set ``split`` and ``w`` of each row.

    ``all_members`` are (family, set) of every picture, skin tones too: a family counts once in each set, so
    that what has many variants does not swamp a sampler.
    """
    many = Counter(all_members)
    styles: defaultdict[str, set[str]] = defaultdict(set)
    for family, name in many:
        styles[family].add(name)
    for row in rows:
        row["split"] = _split(row, len(styles[row["family"]]))
        row["w"] = round(1 / many[row["family"], row["set"]], 4)


def _split(row: dict[str, Any], styles: int) -> str:
    if row["group"] in NOT_HELD_OUT:
        return "train"
    family, rendering = row["family"], "shaded" if row["set"] in SHADED else row["set"]
    if chance(f"concept:{family}") < 0.04:
        return "test_concept"
    if styles >= 3 and chance(f"style:{family}:{rendering}") < 0.05:
        return "test_style"
    return "val" if chance(f"val:{row['id']}") < 0.02 else "train"


def twins(held_out: NDArray[np.uint8], train: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Which of the held-out thumbnails (a row each) have a twin among those of train."""
    if not len(held_out) or not len(train):
        return np.zeros(len(held_out), np.bool_)
    a, b = (x.astype(np.float32) / 255 for x in (held_out, train))
    squares = (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T
    near: NDArray[np.bool_] = squares.min(1) / a.shape[1] < TWIN
    return near
