"""What is known of one picture, and the JSON lines that carry it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sfumato.errors import DataError

MAX_LINE = 1 << 20
"""Bytes that one JSON line may have."""

_FIXED_GROUPS = frozenset({"flags", "symbols", "component", "other"})
_FIXED_SUBGROUP = re.compile(r"hand|arrow|alphanum|keycap|time$")
_SIDED = re.compile(r"\b(left|right|arrows?|hands?|letters?|flag)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Record:
    """One picture: what it shows, in which style, how it may be used and what may be done to it.

    ``weight`` is how often a sampler should draw it relative to the others; ``flippable`` says whether its
    mirror image still deserves its captions (not so for flags, letters, symbols, arrows, clocks and hands).
    ``tags`` are other words for what it shows.
    """

    id: str
    label: str
    captions: tuple[str, ...]
    style: str = ""
    split: str = "train"
    group: str = ""
    family: str = ""
    weight: float = 1.0
    licence: str = ""
    attribution: str = ""
    flippable: bool = False
    tags: tuple[str, ...] = ()


def may_flip(label: str, group: str, subgroup: str) -> bool:
    """Whether a mirrored emoji of this label and these CLDR groups still shows what its label says.

    Pictures of unknown group are left alone.
    """
    if group in _FIXED_GROUPS or not group:
        return False
    return not _FIXED_SUBGROUP.search(subgroup) and not _SIDED.search(label)


def record_of(row: Mapping[str, Any]) -> Record:
    """The Record in one parsed JSON line; raises ValueError or TypeError that says which field is wrong."""
    name, label = _text(row, "id"), _text(row, "label", "")
    group, split = _text(row, "group", ""), _text(row, "split", "train")
    captions = row.get("captions", [label] if label else [])
    if not isinstance(captions, list) or not captions or not all(isinstance(c, str) for c in captions):
        raise ValueError("'captions' must be a list of one or more texts")
    tags = row.get("tags", [])
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise ValueError("'tags' must be a list of texts")
    weight = row.get("w", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < math.inf:
        raise ValueError(f"'w' must be a finite number of 0 or more, not {weight!r}")
    flippable = row.get("flippable", may_flip(label, group, _text(row, "subgroup", "")))
    if not isinstance(flippable, bool):
        raise ValueError(f"'flippable' must be true or false, not {flippable!r}")
    return Record(
        id=name,
        label=label or captions[0],
        captions=tuple(captions),
        style=_text(row, "style", ""),
        split=split,
        group=group,
        family=_text(row, "family", ""),
        weight=float(weight),
        licence=_text(row, "license", ""),
        attribution=_text(row, "attribution", ""),
        flippable=flippable,
        tags=tuple(tags),
    )


def _text(row: Mapping[str, Any], key: str, default: str | None = None) -> str:
    value = row.get(key, default)
    if not isinstance(value, str) or (default is None and not value):
        raise ValueError(f"{key!r} must be a text, not {value!r:.60}")
    return value


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a JSON-lines file with their line numbers (from 1); empty lines are passed over.

    Raises DataError naming the file and the line for anything that is not one JSON object a line.
    """
    try:
        with open(path, "rb") as file:
            number = 0
            while line := file.readline(MAX_LINE + 1):
                number += 1
                if len(line) > MAX_LINE:
                    raise DataError(f"{path} line {number}: longer than {MAX_LINE} bytes")
                if line.strip():
                    yield number, _parse(path, number, line)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error


def _parse(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} line {number}: not JSON ({error})") from error
    if not isinstance(row, dict):
        raise DataError(f"{path} line {number}: a JSON object was expected, not {type(row).__name__}")
    return row
