"""Just enough reading of the corpus (a tar and its JSONL records) for scoring and judging."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

from PIL import Image

from sfumato.errors import DataError

Record: TypeAlias = dict[str, Any]


def read_records(path: Path, fields: Iterable[str]) -> list[Record]:
    """The records of the JSONL file ``path``; DataError if unreadable or one lacks one of ``fields``."""
    try:
        records: list[Record] = [json.loads(line) for line in path.read_text("utf-8").splitlines() if line]
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read the records of {path}: {error}") from error
    for number, record in enumerate(records):
        missing = [field for field in fields if field not in record]
        if missing:
            raise DataError(f"record {number} of {path} has no {', '.join(missing)}")
    return records


def read_pictures(tar: Path, records: Iterable[Record]) -> Iterator[Image.Image]:
    """The picture of each record, at ``offset`` and ``size`` of ``tar``; DataError if one is damaged."""
    try:
        with open(tar, "rb") as file:
            for record in records:
                file.seek(record["offset"])
                picture = Image.open(io.BytesIO(file.read(record["size"])))
                picture.load()
                yield picture
    except (OSError, SyntaxError) as error:
        raise DataError(f"cannot read the pictures of {tar}: {error}") from error
