"""Groups: what a request waits for as rows by key, and calls of rows whose failures reach only those they belong to."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from sfumato.ask import Ask, Asks
from sfumato.engine.answer import Row, Unit, build, call, lacks_memory, no_memory, split


class Part:
    """One ask of a question: its answers so far, or the error that ended it."""

    def __init__(self, ask: Ask) -> None:
        """Nothing is answered yet."""
        self.ask = ask
        self.units: list[Unit] = []
        self.error: Exception | None = None
        try:
            self.units = split(ask)
        except Exception as error:
            self.error = error
        self.answers: list[Any] = [None] * sum(len(unit) for unit in self.units)

    def reply(self) -> Any:
        """The reply, or the exception that answering raised."""
        if self.error is None:
            try:
                return build(self.ask, self.answers)
            except Exception as error:
                self.error = error
        return self.error


class Question:
    """What a request waits for: an ask, or several at once, and their rows that have no answer yet, by key."""

    def __init__(self, ask: Ask | Asks, alone: Callable[[Ask], bool]) -> None:
        """Split ``ask`` into rows; the pictures of asks that are ``alone`` share no call with anything."""
        self.several = isinstance(ask, Asks)
        self.parts = [Part(one) for one in (ask.parts if isinstance(ask, Asks) else (ask,))]
        self.waiting: dict[Hashable, deque[Unit]] = {}
        self._part_of = {id(part.ask): part for part in self.parts}
        for part in self.parts:
            for unit in part.units:
                if alone(part.ask):
                    self.waiting[unit] = deque([unit])
                else:
                    queue = self.waiting.setdefault(unit[0].key, deque())
                    queue.extend((row,) for row in unit)

    @property
    def key(self) -> Hashable:
        """The key of the rows that have waited longest; rows of other keys wait their turn."""
        return next(iter(self.waiting))

    def wants(self, key: Hashable) -> int:
        """How many units of ``key`` have no answer yet."""
        return len(self.waiting.get(key, ()))

    def first(self, key: Hashable, count: int) -> list[Row]:
        """The rows of the first ``count`` units of ``key``; they stay until they are settled."""
        queue = self.waiting[key]
        return [row for i in range(count) for row in queue[i]]

    def settle(self, key: Hashable, rows: Sequence[Row], answers: Sequence[Any]) -> None:
        """Take ``answers``, or exceptions, for the first ``rows`` of ``key``."""
        queue, failed = self.waiting[key], False
        for row, found in zip(rows, answers, strict=True):
            if row is queue[0][-1]:
                queue.popleft()
            part = self._part_of[id(row.ask)]
            if isinstance(found, Exception):
                part.error, failed = part.error or found, True
            else:
                part.answers[row.place] = found
        if failed:  # what else they asked for is not needed any more
            for units in self.waiting.values():
                kept = [unit for unit in units if self._part_of[id(unit[0].ask)].error is None]
                units.clear()
                units.extend(kept)
            self.waiting = {name: units for name, units in self.waiting.items() if units}
        elif not queue:
            del self.waiting[key]

    def reply(self) -> Any:
        """The reply of one ask, an answer or an exception; of several asks the list of these."""
        replies = [part.reply() for part in self.parts]
        return replies if self.several else replies[0]


def call_each(
    rows: Sequence[Row], *, size: int = 0, halved: Callable[[int], None] | None = None
) -> list[Any]:
    """One answer, or exception, for each of ``rows``, which have equal keys, in one call if that succeeds.

    Where memory does not suffice for all, the rows are answered by halves, down to one row; ``halved`` is told of
    each new size. Without ``halved`` they are not, because the size of a call is promised. After any other error
    each ask's rows (they stand together) are answered by themselves, so that the error finds the ask that it
    belongs to. ``size`` is that of ``answer.call``.
    """
    try:
        return call(rows, size)
    except Exception as error:
        failed = error
    if lacks_memory(failed):
        # The traceback holds the frames of the network, and these the memory that the halves need.
        failed.__traceback__ = None
        if len(rows) > 1 and halved is not None:
            middle = (len(rows) + 1) // 2
            halved(middle)
            return [
                found
                for part in (rows[:middle], rows[middle:])
                for found in call_each(part, size=size, halved=halved)
            ]
        return [no_memory(rows, size) for _ in rows]
    by_ask: list[list[Row]] = []
    for row in rows:
        if by_ask and by_ask[-1][0].ask is row.ask:
            by_ask[-1].append(row)
        else:
            by_ask.append([row])
    if len(by_ask) == 1:
        return [failed] * len(rows)
    return [found for own in by_ask for found in call_each(own, size=size, halved=halved)]
