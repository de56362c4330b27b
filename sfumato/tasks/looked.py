"""Pictures that are part of a prompt: the field ``look``, which every task has, and how it is written."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import PlainSerializer, PlainValidator, ValidationInfo, WithJsonSchema

from sfumato.condition import Look
from sfumato.tasks.given import PNG, raster

MOST = 16
"""How many pictures one prompt may have."""
STRONGEST = 10.0
DESCRIPTION = (
    "a picture that is part of the prompt, for models that read some, and how strongly it is seen: "
    "FILE or FILE:0.5"
)
_STRENGTH = re.compile(r"(?P<file>.+):(?P<strength>[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?)", re.DOTALL)


def parted(value: Any) -> tuple[Any, float]:
    """A picture and how strongly it is seen, 1 unless it is said: ``"cat.png:0.5"``, ``(picture, 0.5)``.

    A name that is a file as it stands has no strength in it.
    """
    if isinstance(value, Look):
        return value, value.strength
    if isinstance(value, tuple | list) and len(value) == 2 and isinstance(value[1], int | float):
        return value[0], float(value[1])
    if isinstance(value, str) and (found := _STRENGTH.fullmatch(value)) and not os.path.exists(value):
        return found["file"], float(found["strength"])
    return value, 1.0


def several(value: Any) -> Sequence[Any]:
    """The pictures of the field as it was given: a list of them, a single one, or None."""
    return () if value is None else value if isinstance(value, tuple | list) else [value]


def read_looks(value: Any) -> tuple[tuple[Any, ...], list[str]]:
    """The pictures of the field, paths and bytes among them read, with their strengths; and notes on them."""
    from sfumato.picture.read import read_picture

    made, notes = [], []
    for one in several(value):
        picture, strength = parted(one)
        read = read_picture(getattr(picture, "pixels", picture))
        made.append((read.pixels, strength))
        notes += [f"look: {note}" for note in read.notes]
    return tuple(made), notes


def _looks(value: Any, info: ValidationInfo) -> tuple[Look, ...]:
    given = several(value)
    if len(given) > MOST:
        raise ValueError(f"look has {len(given)} pictures, and at most {MOST} are allowed")
    made = []
    for one in given:
        picture, strength = parted(one)
        if isinstance(picture, Look):  # a field that was read before
            made.append(picture)
            continue
        if not 0 <= strength <= STRONGEST:
            raise ValueError(f"look: a strength of {strength:g} is not allowed; use 0 to {STRONGEST:g}")
        found = raster(picture, "look")
        made.append(Look(found.pixels, found.hash, strength))
    return tuple(made)


def _told(looks: tuple[Look, ...]) -> list[str]:
    return [f"sha256:{look.hash}:{look.strength:g}" for look in looks]


Looks = Annotated[
    tuple[Look, ...],
    PlainValidator(_looks),
    PlainSerializer(_told),
    WithJsonSchema({"type": "array", "items": PNG, "maxItems": MOST}),
]
"""A field of pictures, each with a strength."""
