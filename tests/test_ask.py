"""Several coroutines side by side: what they ask together goes down together."""

from __future__ import annotations

import pytest

from sfumato.ask import Ask, Asks, gather


def drive(coroutine, answer):
    """Answer everything with ``answer(ask)``; returns the result and the sizes of what came down."""
    sizes = []
    try:
        asked = coroutine.send(None)
        while True:
            sizes.append(len(asked.parts) if isinstance(asked, Asks) else 1)
            if isinstance(asked, Asks):
                replies = []
                for one in asked.parts:
                    try:
                        replies.append(answer(one))
                    except ValueError as error:
                        replies.append(error)
                asked = coroutine.send(replies)
            else:
                asked = coroutine.send(answer(asked))
    except StopIteration as end:
        return end.value, sizes


async def count_to(n: int, name: str) -> list:
    return [await Ask(name, None, (i,)) for i in range(n)]


def test_each_gets_its_own_answers_and_they_are_asked_together() -> None:
    result, sizes = drive(
        gather([count_to(3, "a"), count_to(1, "b"), count_to(0, "c"), count_to(2, "d")]),
        lambda ask: (ask.verb, *ask.arguments),
    )
    assert result == [[("a", 0), ("a", 1), ("a", 2)], [("b", 0)], [], [("d", 0), ("d", 1)]]
    assert sizes == [3, 2, 1]


def test_they_nest() -> None:
    async def outer() -> list:
        return await gather([gather([count_to(2, "a"), count_to(1, "b")]), count_to(2, "c")])

    result, sizes = drive(outer(), lambda ask: ask.verb)
    assert result == [[["a", "a"], ["b"]], ["c", "c"]]
    assert sizes == [3, 2]


def test_an_error_reaches_the_one_that_asked_and_closes_the_others_when_it_gets_out() -> None:
    closed = []

    async def careful() -> str:
        try:
            await Ask("bad", None)
        except ValueError:
            return "caught"
        return "not told"

    async def careless(name: str) -> None:
        try:
            await Ask("good", None)
            await Ask(name, None)
        finally:
            closed.append(name)

    def answer(ask: Ask) -> str:
        if ask.verb == "bad":
            raise ValueError("no")
        return "yes"

    assert drive(gather([careful()]), answer)[0] == ["caught"]
    with pytest.raises(ValueError, match="no"):
        drive(gather([careless("bad"), careless("good")]), answer)
    assert sorted(closed) == ["bad", "good"]
