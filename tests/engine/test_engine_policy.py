from __future__ import annotations

from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from sfumato.engine.policy import fill, served

WANTS = st.lists(st.integers(0, 50), max_size=12)


@given(WANTS, st.integers(0, 40), st.integers(1, 40))
def test_a_call_is_full_unless_all_get_what_they_want(wants: list[int], room: int, share: int) -> None:
    given_rows = fill(wants, room, share)
    assert all(0 <= got <= want for got, want in zip(given_rows, wants, strict=True))
    assert sum(given_rows) == min(room, sum(wants))


@given(WANTS, st.integers(0, 40), st.integers(1, 40))
def test_nobody_gets_more_than_a_share_while_another_has_less_and_wants_more(wants, room, share) -> None:
    given_rows = fill(wants, room, share)
    if any(got < min(want, share) for got, want in zip(given_rows, wants, strict=True)):
        assert max(given_rows) <= share


@given(WANTS, st.integers(0, 40), st.integers(1, 40))
def test_the_order_of_the_queue_decides(wants, room, share) -> None:
    """Who comes later takes nothing from what the first of the queue get, up to a share."""
    given_rows = fill(wants, room, share)
    for n in range(len(wants)):
        fewer = fill(wants[:n], room, share)
        for want, now, then in zip(wants, given_rows, fewer, strict=False):
            assert min(now, share, want) == min(then, share, want)


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=10), st.integers(1, 20), st.integers(1, 20))
def test_a_small_request_waits_for_no_more_calls_than_stand_before_it(wants, room, share) -> None:
    share = min(share, room)
    small = min(share, wants[-1])
    queue = deque([[i, want] for i, want in enumerate(wants[:-1])] + [[len(wants) - 1, small]])
    for _ in range(len(wants)):
        got = fill([want for _, want in queue], room, share)
        for entry, count in list(zip(queue, got, strict=True)):
            done = served(entry[1], count, share)
            entry[1] -= count
            if done:
                queue.remove(entry)
                if entry[1]:
                    queue.append(entry)
    assert all(i != len(wants) - 1 for i, _ in queue)


def test_one_who_is_alone_gets_the_whole_call() -> None:
    assert fill([1000], 16, 4) == [16]
    assert fill([1000, 2, 0, 9], 16, 4) == [10, 2, 0, 4]
    assert fill([], 16, 4) == []
