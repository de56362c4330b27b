"""From a key table to the tensors of one file: which fill which, proved to leave nothing over on either side.

A ``Link`` ties some of our parameters to some tensors of a file that hold the same values. Joined along dimension 0
both sides are one tensor, up to the order of its halves, turns, a transpose, or kernel axes of size 1. ``links``
makes them from our names, ``links_from`` from a file's, ``prove`` compares with the file, ``pieces`` says which
values go where.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from sfumato.errors import WeightsError
from sfumato.weights.keys import LAYOUTS, Column, KeyTable, Row

Shape = tuple[int, ...]
SHOWN = 10  # names of a kind in an error
LONGEST = 300  # characters of one


@dataclass(frozen=True, slots=True)
class Link:
    """Parameters ``ours`` and tensors ``theirs`` of a file that hold the same values, with the file's column."""

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    column: Column

    def their_shapes(self, shapes: Sequence[Shape]) -> tuple[Shape, ...]:
        """The shapes in the file when those of our parameters are ``shapes``; WeightsError if there are none."""
        whole = self._whole(shapes)
        turn = self.column.turn
        if turn == "transpose" and len(whole) == 2:
            whole = whole[::-1]
        elif turn == "conv->linear" and len(whole) > 1:
            if len(whole) != 4 or whole[2:] != (1, 1):
                raise WeightsError(
                    f"{self.ours[0]} has the shape {whole}, not that of a convolution of kernel 1"
                )
            whole = whole[:2]
        elif turn in ("linear->conv", "linear->line") and len(whole) > 1:
            if len(whole) != 2:
                raise WeightsError(f"{self.ours[0]} has the shape {whole}, not that of a matrix")
            whole = (*whole, 1) if turn == "linear->line" else (*whole, 1, 1)
        if self.column.rounds > 1 and (
            len(set(shapes)) > 1 or not whole or shapes[0][0] % self.column.rounds
        ):
            raise WeightsError(
                f"{', '.join(self.ours)} cannot take {self.column.rounds} turns: their shapes are {list(shapes)}"
            )
        return _parted(self.ours[0], whole, self.column)

    def _whole(self, shapes: Sequence[Shape]) -> Shape:
        """The shape of our parameters joined along dimension 0."""
        if len(shapes) == 1:
            return shapes[0]
        if any(not shape or shape[1:] != shapes[0][1:] for shape in shapes):
            raise WeightsError(f"{', '.join(self.ours)} cannot be joined: their shapes are {list(shapes)}")
        return (sum(shape[0] for shape in shapes), *shapes[0][1:])

    @property
    def transposed(self) -> bool:
        """Whether the file holds the transpose, of a matrix."""
        return self.column.turn == "transpose"

    @property
    def turns(self) -> bool:
        """Whether ours take turns in the file's tensor: so many that reading it piece by piece would take long."""
        return self.column.rounds > 1


def _parted(name: str, whole: Shape, column: Column) -> tuple[Shape, ...]:
    """``whole`` cut along dimension 0 in the column's shares."""
    rows, total = (whole[0] if whole else 0), sum(column.shares)
    if column.swap and (rows % 2 or not whole):
        raise WeightsError(f"{name} has the shape {whole}, which has no two halves to swap")
    if len(column.shares) == 1:
        return (whole,)
    if rows % total or not whole:
        raise WeightsError(f"{name} has the shape {whole}, which cannot be cut in shares of {column.shares}")
    return tuple((rows // total * share, *whole[1:]) for share in column.shares)


def links(table: KeyTable, layout: str, names: Iterable[str]) -> list[Link]:
    """The links that fill our parameters ``names`` from a file in ``layout``, each parameter by exactly one.

    Raises WeightsError with the parameters that the table does not know, or that ``layout`` does not have.
    """
    grouped, unknown = _group(table, "ours", names)
    found: list[Link] = []
    absent: list[str] = []
    for (row, rest), filled in grouped.items():
        column, own = row.column(layout), row.ours
        if column is None or own is None or len(filled) < len(own.names):
            absent.extend(filled.values())
        else:
            ours = tuple(filled[number] for number in range(len(own.names)))
            found.append(Link(ours, tuple(name + rest for name in column.names), column))
    _refuse(layout, {"the table has no row for": unknown, "the layout does not have": absent})
    return found


def links_from(table: KeyTable, layout: str, names: Iterable[str]) -> list[Link]:
    """The links from a file's tensors ``names`` to our parameters; ignored keys are left out.

    Raises WeightsError with the names that the table does not know, or of which a part is missing.
    """
    used = [name for name in names if not table.ignored(layout, name)]
    grouped, unknown = _group(table, layout, used)
    found: list[Link] = []
    parts: list[str] = []
    for (row, rest), filled in grouped.items():
        column, own = row.column(layout), row.ours
        if column is None or own is None or len(filled) < len(column.names):
            parts.extend(filled.values())
        else:
            theirs = tuple(filled[number] for number in range(len(column.names)))
            found.append(Link(tuple(name + rest for name in own.names), theirs, column))
    _refuse(layout, {"the table has no row for": unknown, "only some of the tensors are there of": parts})
    return found


def prove(table: KeyTable, layout: str, found: Sequence[Link], names: Collection[str]) -> None:
    """Check that ``found`` uses every key of a file with ``names`` exactly once, save ignored ones.

    Raises WeightsError with the first ten keys of each kind that do not fit, and the nearest names.
    """
    wanted = [name for link in found for name in link.theirs]
    twice = [name for name, count in Counter(wanted).items() if count > 1]
    has, want = set(names), set(wanted)
    missing = [name for name in wanted if name not in has]
    extra = [name for name in names if name not in want and not table.ignored(layout, name)]
    _refuse(
        layout,
        {
            "wanted twice": twice,
            "not in the file": _with_nearest(missing, extra),
            "in the file and not wanted": _with_nearest(extra, missing),
        },
    )


def pieces(
    link: Link, ours: Sequence[int], theirs: Sequence[int]
) -> Iterator[tuple[int, int, int, int, int]]:
    """Which values go where: (which of theirs, from its value, which of ours, from its value, how many).

    ``ours`` and ``theirs`` are the numbers of values of the tensors on each side; both sums are equal.
    """
    if link.turns:
        part = ours[0] // link.column.rounds
        for turn in range(link.column.rounds * len(ours)):
            number, mine = divmod(turn, len(ours))
            yield 0, turn * part, mine, number * part, part
        return
    total = sum(ours)
    shift = total // 2 if link.column.swap else 0
    starts = [sum(ours[:n]) for n in range(len(ours))]
    at = 0
    for which, size in enumerate(theirs):
        first = 0
        while first < size:
            place = (at + shift) % total
            mine = max(n for n, start in enumerate(starts) if start <= place and ours[n])
            stop = total if place >= shift or not shift else shift
            count = min(size - first, starts[mine] + ours[mine] - place, stop - place)
            yield which, first, mine, place - starts[mine], count
            first, at = first + count, at + count


def _group(
    table: KeyTable, layout: str, names: Iterable[str]
) -> tuple[dict[tuple[Row, str], dict[int, str]], list[str]]:
    """``names`` by row and rest of the name, each with its number in the column; and those of no row."""
    if layout not in ("ours", *LAYOUTS):
        raise ValueError(f"{layout!r} is no layout; known: {', '.join(LAYOUTS)}")
    grouped: dict[tuple[Row, str], dict[int, str]] = {}
    unknown = []
    for name in names:
        hit = table.find(layout, name)
        if hit is None:
            unknown.append(name)
        else:
            grouped.setdefault((hit[0], hit[2]), {})[hit[1]] = name
    return grouped, unknown


def _with_nearest(names: Sequence[str], others: Sequence[str]) -> list[str]:
    """``names``, the first ten with the nearest of ``others``."""
    told = list(names)
    for number, name in enumerate(names[:SHOWN]):
        near = difflib.get_close_matches(name, others[:500], n=1, cutoff=0.7)
        told[number] = f"{name} (nearest: {near[0]})" if near else name
    return told


def _refuse(layout: str, faults: dict[str, Sequence[str]]) -> None:
    """Raise WeightsError if one of ``faults`` has names."""
    told = []
    for what, names in faults.items():
        if names:
            more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
            told.append(f"{what}: {', '.join(name[:LONGEST] for name in names[:SHOWN])}{more}")
    if told:
        raise WeightsError(f"these weights do not fit in the layout {layout!r}; {'; '.join(told)}")
