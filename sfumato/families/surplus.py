"""What lies in a checkpoint and is read by nothing; no torch is needed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from sfumato.families.signatures import networks
from sfumato.weights.source import Source

MAY: dict[str, tuple[str, ...]] = {
    "sd3": ("text_3",),
    "flux": ("looker", "redux"),
    "kontext": ("looker", "redux"),
}
"""Of each family the places of networks that it reads where they are, and does without."""


def surplus(family: str, needs: Sequence[str], there: Iterable[str]) -> list[str]:
    """The places ``there`` whose networks a model of ``family``, which ``needs`` some, does not read."""
    return [place for place in there if place not in (*needs, *MAY.get(family, ()))]


def idle(places: Mapping[str, str]) -> list[str]:
    """A note on each network of a surplus place, by its kind."""
    return [
        f"nothing of this family reads {place} ({kind}), which is there" for place, kind in places.items()
    ]


def unread(source: Source) -> list[str]:
    """A note on each component of a folder that has weights and is no network of ours: checkers of pictures, say."""
    used = {id(one) for one in networks(source).values()}
    left = {name: part for name, part in source.parts.items() if part.entries and id(part) not in used}
    return [
        f"{name} has {len(part.entries):,} tensors, {sum(e.bytes for e in part.entries.values()) / 1e9:.2f} GB, "
        "that nothing here reads"
        for name, part in left.items()
    ]
