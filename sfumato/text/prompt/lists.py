"""Lists for wildcards: text files in a folder, one line for each choice."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from sfumato.errors import DataError, InvalidRequest, UnknownName

LARGEST = 16 * 2**20
"""How many bytes a list may have."""


class Folder:
    """The lists in ``root`` and the folders under it: ``dir/name`` is the file ``dir/name.txt``.

    Empty lines and lines that begin with ``#`` are left out. ``*`` in a name stands for any characters but ``/``, and
    ``**`` for any at all; the lines of all lists that fit follow in the order of their names.
    """

    def __init__(self, root: str | Path) -> None:
        """Raise InvalidRequest if ``root`` is not a folder."""
        self.root = Path(root)
        if not self.root.is_dir():
            raise InvalidRequest(f"the folder of lists {root} does not exist")
        self.read: dict[Path, list[str]] = {}

    def names(self) -> list[str]:
        """The names of all lists."""
        files = self.root.rglob("*.txt")
        return sorted(
            path.relative_to(self.root).with_suffix("").as_posix() for path in files if path.is_file()
        )

    def __call__(self, name: str) -> Sequence[str]:
        """The lines of the list ``name``; UnknownName if there is none, DataError if it is not UTF-8 text."""
        if "*" in name:
            wanted = [found for found in self.names() if _fits(found, name)]
        else:
            # No name leads out of the folder: dots are not followed.
            plain = ".." not in name.split("/") and not name.startswith("/")
            wanted = [name] if plain and (self.root / f"{name}.txt").is_file() else []
        if not wanted:
            raise UnknownName("list", name, self.names())
        return [line for found in wanted for line in self._lines(self.root / f"{found}.txt")]

    def _lines(self, path: Path) -> list[str]:
        if path not in self.read:
            if (size := path.stat().st_size) > LARGEST:
                raise DataError(f"the list {path} has {size} bytes; at most {LARGEST} are read")
            try:
                text = path.read_text("utf-8-sig")
            except (OSError, UnicodeDecodeError) as error:
                raise DataError(f"the list {path} cannot be read as UTF-8 text: {error}") from error
            lines = (line.strip() for line in text.split("\n"))
            self.read[path] = [line for line in lines if line and not line.startswith("#")]
        return self.read[path]


def _fits(name: str, pattern: str) -> bool:
    if "**" in pattern:
        return fnmatchcase(name, pattern.replace("**", "*"))
    parts, wanted = name.split("/"), pattern.split("/")
    return len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted))
