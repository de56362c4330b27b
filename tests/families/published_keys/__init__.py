"""Keys and shapes of the published networks, as data; see make.py for where they come from."""

from __future__ import annotations

import hashlib
import json
import lzma
from pathlib import Path

HERE = Path(__file__).parent
Keys = dict[str, tuple[int, ...]]


def digest(keys: Keys) -> str:
    """The sha256 of the sorted lines ``key sides``."""
    return hashlib.sha256("".join(lines(keys)).encode()).hexdigest()


def lines(keys: Keys) -> list[str]:
    """A line for each key: its name, and its sides with commas."""
    return [f"{key} {','.join(map(str, shape))}\n" for key, shape in sorted(keys.items())]


def index() -> dict[str, dict]:
    """What is known of each network: source, and of each layout count, parameters and digest."""
    return json.loads((HERE / "index.json").read_text())


def read(name: str, layout: str) -> Keys:
    """The keys of the network ``name`` in ``layout``."""
    text = lzma.decompress((HERE / f"{name}.{layout}.xz").read_bytes()).decode()
    rows = (line.partition(" ") for line in text.splitlines())
    return {key: tuple(int(side) for side in sides.split(",") if side) for key, _, sides in rows}
