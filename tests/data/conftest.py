from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sfumato.data.pictures import open_pictures
from sfumato.data.tar import TarPictures

TINY = Path(__file__).parent.parent / "assets" / "emoji-tiny.tar"


@pytest.fixture(scope="session")
def tiny_path() -> Path:
    return TINY


@pytest.fixture(scope="session")
def tiny() -> TarPictures:
    pictures = open_pictures(TINY)
    assert isinstance(pictures, TarPictures)
    return pictures


@pytest.fixture(scope="session")
def tiny_rows() -> list[dict[str, Any]]:
    return [json.loads(line) for line in TINY.with_suffix(".jsonl").read_text("utf-8").splitlines()]


@pytest.fixture
def copy_of_tiny(tmp_path: Path, tiny_rows: list[dict[str, Any]]) -> Callable[..., Path]:
    """A copy with other rows: ``copy(rows=..., raw=..., tar=...)`` gives the path of the tar."""

    def copy(
        rows: list[dict[str, Any]] | None = None, raw: bytes | None = None, tar: bytes | None = None
    ) -> Path:
        path = tmp_path / "set.tar"
        path.write_bytes(TINY.read_bytes() if tar is None else tar)
        lines = "".join(json.dumps(row) + "\n" for row in (tiny_rows if rows is None else rows))
        path.with_suffix(".jsonl").write_bytes(lines.encode() if raw is None else raw)
        return path

    return copy
