"""Key tables: which tensor of a published file is which parameter of ours, as text.

A row has three columns, ``ours  original  diffusers``: the name of a module (its ``.weight``, ``.bias`` and all
below follow) or of one parameter. Text behind ``#`` is a comment. In a column stand

* ``{i}``          an index; the row is repeated for each of its values, the same in all columns;
* ``to_[q,k,v]``   several tensors, which are one when joined along dimension 0, in this order; ``[q,k,v,mlp*4]``
  says that the last has four times the rows of the others;
* ``~name``        the two halves of the tensor along dimension 0 stand in the other order than ours;
* ``name/n``       ours, of equal rows, take turns in the tensor: an n-th of the rows of each, n times (heads of
  queries, keys and values that follow each other);
* ``name : conv->linear``  ours is a convolution of kernel 1, (O, I, 1, 1), the file's is a matrix, (O, I);
  ``linear->conv`` is the reverse, ``linear->line`` the same for one axis, (O, I, 1); vectors (biases) are as they are;
* ``name : transpose``     the file's matrix is the transpose of ours;
* ``-``            this layout does not have it; in the column ``ours``: the file's tensor is not used.

The longest name that fits decides, so a row for one parameter may stand beside a row for its module. A table only
renames and rearranges; ``links.py`` proves for given names that nothing is left over on either side.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Self

LAYOUTS = ("original", "diffusers")
TURNS = ("conv->linear", "linear->conv", "linear->line", "transpose")

Range = int | Iterable[int | str]

_HOLE = re.compile(r"\{(\w+)\}")
_LIST = re.compile(r"^(?P<before>[^\[\]]*)\[(?P<names>[^\[\]]+)\](?P<after>[^\[\]]*)$")
_ITEM = re.compile(r"^(?P<name>[\w.]*?)(\*(?P<share>[1-9]\d*))?$")
_NAME = re.compile(r"^[\w-]+(\.[\w-]+)*$")


@dataclass(frozen=True, slots=True)
class Column:
    """One cell of a row: the names of its tensors, their shares of the rows, and how they differ from ours."""

    names: tuple[str, ...]
    shares: tuple[int, ...] = (1,)
    swap: bool = False
    turn: str = ""
    rounds: int = 1


@dataclass(frozen=True, slots=True)
class Row:
    """One row without placeholders; a column is None where the layout does not have it."""

    ours: Column | None
    original: Column | None
    diffusers: Column | None

    def column(self, layout: str) -> Column | None:
        """The column of ``layout``, which is "ours", "original" or "diffusers"."""
        found: Column | None = getattr(self, layout)
        return found


@dataclass(frozen=True)
class KeyTable:
    """Rows, and per layout the patterns (``*`` for anything) of file keys that are not used.

    ``index`` finds a row by layout and name; it is made from the rows. Raises ValueError if a name stands in two
    rows.
    """

    rows: tuple[Row, ...]
    ignore: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    index: Mapping[str, Mapping[str, tuple[Row, int]]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        index: dict[str, dict[str, tuple[Row, int]]] = {layout: {} for layout in ("ours", *LAYOUTS)}
        for row in self.rows:
            for layout, names in index.items():
                column = row.column(layout)
                for number, name in enumerate(column.names if column else ()):
                    if name in names:
                        raise ValueError(f"two rows of a key table name {name!r} in the column {layout}")
                    names[name] = row, number
        if unknown := set(self.ignore) - set(LAYOUTS):
            raise ValueError(f"{sorted(unknown)} are no layouts; known: {', '.join(LAYOUTS)}")
        object.__setattr__(self, "index", index)

    @classmethod
    def parse(
        cls,
        text: str,
        ranges: Mapping[str, Range] | None = None,
        ignore: Mapping[str, Iterable[str]] | None = None,
    ) -> Self:
        """The table that ``text`` writes down, with the values of each ``{placeholder}`` in ``ranges``.

        A range is a count (0, 1, ...) or the values themselves. Raises ValueError that names the line.
        """
        lines = (line.partition("#")[0] for line in text.splitlines())
        triples = [_split(line) for line in lines if line.strip()]
        values = {k: range(v) if isinstance(v, int) else tuple(v) for k, v in (ranges or {}).items()}
        expanded = (row for triple in triples for row in _expand(triple, values))
        return cls.of(expanded, ignore)

    @classmethod
    def of(cls, triples: Iterable[Sequence[str]], ignore: Mapping[str, Iterable[str]] | None = None) -> Self:
        """The table of rows made by a program: triples (ours, original, diffusers) without placeholders."""
        rows = tuple(row(*triple) for triple in triples)
        return cls(rows, {layout: tuple(patterns) for layout, patterns in (ignore or {}).items()})

    def __add__(self, other: KeyTable) -> KeyTable:
        """The rows and ignored keys of both."""
        ignore = {
            layout: (*self.ignore.get(layout, ()), *other.ignore.get(layout, ()))
            for layout in (*self.ignore, *other.ignore)
        }
        return KeyTable(self.rows + other.rows, ignore)

    def prefixed(self, ours: str = "", original: str = "", diffusers: str = "") -> KeyTable:
        """The same table with a prefix before all names of each column, ignored keys included."""
        prefixes = {"ours": ours, "original": original, "diffusers": diffusers}

        def longer(column: Column | None, prefix: str) -> Column | None:
            return column and replace(column, names=tuple(prefix + name for name in column.names))

        rows = tuple(Row(**{k: longer(each.column(k), p) for k, p in prefixes.items()}) for each in self.rows)
        ignore = {k: tuple(prefixes[k] + p for p in patterns) for k, patterns in self.ignore.items()}
        return KeyTable(rows, ignore)

    def find(self, layout: str, name: str) -> tuple[Row, int, str] | None:
        """The row for ``name`` in ``layout``, which tensor of its column it is, and the rest of the name."""
        names = self.index[layout]
        end = len(name)
        while end > 0:
            if hit := names.get(name[:end]):
                return *hit, name[end:]
            end = name.rfind(".", 0, end)
        return None

    def ignored(self, layout: str, name: str) -> bool:
        """Whether the file key ``name`` of ``layout`` is known and not used."""
        found = self.find(layout, name)
        if found is not None and found[0].ours is None:
            return True
        return any(fnmatchcase(name, pattern) for pattern in self.ignore.get(layout, ()))


def row(ours: str, original: str, diffusers: str) -> Row:
    """The row of three cells without placeholders; raises ValueError that shows it."""
    cells = _column(ours), _column(original), _column(diffusers)
    if cells[0] and (cells[0].swap or cells[0].turn or cells[0].rounds > 1):
        raise ValueError(f"{ours!r}: ~, / and : belong into the column of a file")
    for cell in cells[1:]:
        lists = (cell and len(cell.names) > 1) or (cells[0] and len(cells[0].names) > 1)
        if cell and cell.turn == "transpose" and lists:
            raise ValueError(f"{ours!r}: transpose does not go with a list of tensors")
        if cell and cell.rounds > 1 and (len(cell.names) > 1 or cell.swap or cell.turn == "transpose"):
            raise ValueError(f"{ours!r}: turns are those of one tensor, as it stands")
    return Row(*cells)


def _column(cell: str) -> Column | None:
    """The cell ``cell`` as a value, None for ``-``."""
    if cell.strip() == "-":
        return None
    name, colon, turn = (part.strip() for part in cell.partition(":"))
    if colon and turn not in TURNS:
        raise ValueError(f"{cell!r}: {turn!r} is not known; known: {', '.join(TURNS)}")
    swap = name.startswith("~")
    name, slash, rounds = name.removeprefix("~").partition("/")
    if slash and not (rounds.isascii() and rounds.isdigit() and int(rounds)):
        raise ValueError(f"{cell!r}: {rounds!r} is no number of turns")
    names, shares = _list(name)
    if wrong := [name for name in names if not _NAME.match(name)]:
        raise ValueError(f"{cell!r}: {wrong[0]!r} is no name of a tensor")
    return Column(names, shares, swap, turn, int(rounds or 1))


def _list(name: str) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The names that ``name`` stands for, and their shares."""
    found = _LIST.match(name)
    if not found:
        return (name,), (1,)
    items = [_ITEM.match(item.strip()) for item in found["names"].split(",")]
    names = tuple(found["before"] + item["name"] + found["after"] for item in items if item)
    if len(names) < max(2, len(items)):
        raise ValueError(f"{name!r} is no list of two or more names")
    return names, tuple(int(item["share"] or 1) for item in items if item)


def _split(line: str) -> tuple[str, str, str]:
    """The three cells of a line; a colon joins what stands around it."""
    cells = re.sub(r"\s+:\s+", ":", line.strip()).split()
    if len(cells) != 3:
        raise ValueError(
            f"a row has three columns, ours, original and diffusers, not {len(cells)}: {line.strip()!r}"
        )
    return cells[0], cells[1], cells[2]


def _expand(
    cells: tuple[str, str, str], ranges: Mapping[str, Sequence[int | str]]
) -> Iterable[tuple[str, ...]]:
    """The row ``cells`` once for every combination of its placeholders' values."""
    holes = [dict.fromkeys(_HOLE.findall(cell)) for cell in cells if cell != "-"]
    if any(set(other) != set(holes[0]) for other in holes[1:]):
        raise ValueError(f"the columns of a row have different placeholders: {'  '.join(cells)!r}")
    names = list(holes[0]) if holes else []
    if missing := [name for name in names if name not in ranges]:
        raise ValueError(f"the placeholder {{{missing[0]}}} has no range: {'  '.join(cells)!r}")
    for values in itertools.product(*(ranges[name] for name in names)):
        chosen = dict(zip(names, map(str, values), strict=True))
        yield tuple(_HOLE.sub(lambda hole, chosen=chosen: chosen[hole[1]], cell) for cell in cells)  # type: ignore[misc]
