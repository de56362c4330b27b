"""Policy: whose rows go into the next call.

Requests stand in a queue. The one at its head chooses the kind of call; room that it leaves is filled by those behind
it, in order, with rows of the same kind. While others wait for the same kind nobody gets more than a share of a call,
and whoever has had that share goes to the queue's end. So a request of a thousand rows takes what nobody else wants
and delays a small one by at most its share: a request that wants no more than a share is in one of the next calls as
many as stand before it, however much those want.
"""

from __future__ import annotations

from collections.abc import Sequence


def fill(wants: Sequence[int], room: int, share: int) -> list[int]:
    """How many rows each gets of a call with ``room``, for ``wants`` in the order of the queue.

    Up to ``share`` each in that order first; what is left then goes, in the same order, to those who want more. The
    call is full unless all get what they want.
    """
    given = [0] * len(wants)
    for most in (share, room):
        for i, want in enumerate(wants):
            more = min(want - given[i], max(0, most - given[i]), room)
            given[i] += more
            room -= more
    return given


def served(want: int, given: int, share: int) -> bool:
    """Whether one who wanted ``want`` rows has had its turn with ``given`` and goes to the queue's end."""
    return given >= min(want, share)
