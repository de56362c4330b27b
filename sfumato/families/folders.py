"""Folders that are whole or absent, and the files in them that are no weights."""

from __future__ import annotations

import contextlib
import json
import secrets
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from sfumato.errors import OutputError
from sfumato.files import sync_folder, why_unwritable, write_bytes
from sfumato.weights.folder import PICKLED, SAFE

KEPT = "original_only.safetensors"
"""Where a folder keeps the tensors that its layout has no name for."""
MOST_COPIED = 30_000_000  # bytes: settings and vocabularies are smaller


def into_folder(target: Path, write: Callable[[Path], list[str]]) -> list[str]:
    """Call ``write`` with a folder beside ``target`` that becomes it when all is there."""
    part = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    try:
        part.mkdir()
        notes = write(part)
        part.rename(target)
        sync_folder(target.parent)
    except OSError as error:
        raise OutputError(why_unwritable(target, error)) from error
    finally:
        with contextlib.suppress(OSError):
            if part.exists():
                shutil.rmtree(part)
    return notes


def copy_settings(source: Path, target: Path) -> int:
    """Copy what lies in a folder and its subfolders and holds no weights; returns how many files."""
    count = 0
    for path in sorted((*source.glob("*"), *source.glob("*/*"))):
        weights = path.name.endswith((*SAFE, *PICKLED)) or ".index." in path.name
        if not path.is_file() or (weights and path.name != KEPT) or path.name.startswith("."):
            continue
        if path.name != KEPT and path.stat().st_size > MOST_COPIED:
            continue
        other = target / path.relative_to(source)
        other.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, other)
        count += 1
    return count


def write_json(path: Path, told: Mapping[str, object]) -> None:
    """Write the settings ``told``."""
    write_bytes(path, (json.dumps(told, indent=2, sort_keys=True) + "\n").encode())
