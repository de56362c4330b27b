"""The models that are known by name; light to import, so that listing them is instant."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from sfumato.errors import WeightsError
from sfumato.files import write_bytes

MODELS = {"emoji": "text to a 128 x 128 emoji in nine styles and twelve background colours; built in"}
"""Each model with one line on what it makes."""

ASSETS = Path(__file__).parent.parent / "assets" / "emoji"
MANIFEST = "manifest.json"


def read_manifest(folder: Path = ASSETS) -> dict[str, dict[str, str]]:
    """The manifest of a built-in model: ``files`` (name -> sha256). WeightsError if it cannot be read."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
        files = manifest["files"]
        if not all(isinstance(k, str) and isinstance(v, str) for k, v in files.items()):
            raise TypeError("files must map names to hashes")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(
            f"the manifest of the built-in model in {folder} cannot be read: {error}; install sfumato again"
        ) from error
    return manifest  # type: ignore[no-any-return]


def model_hash(hashes: dict[str, str]) -> str:
    """One sha256 for all files of a model, from their names and hashes."""
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()


def facts(name: str) -> dict[str, Any]:
    """What the files of model ``name`` say: how many, bytes in all, hash."""
    files = read_manifest()["files"]
    size = sum((ASSETS / f).stat().st_size for f in files if (ASSETS / f).exists())
    return {"files": len(files), "bytes": size, "hash": model_hash(files)}


def write_manifest(folder: Path) -> Path:
    """Write the manifest of the weights and vocabulary in ``folder``: each file's sha256."""
    names = sorted(p.name for p in folder.iterdir() if p.suffix in (".safetensors", ".txt"))
    files = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
    return write_bytes(folder / MANIFEST, (json.dumps({"files": files}, indent=1) + "\n").encode())
