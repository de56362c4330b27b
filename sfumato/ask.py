"""The ask: what a coroutine hands down at an ``await``, and what the engine answers."""

from __future__ import annotations

from collections.abc import Coroutine, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Ask:
    """A question to the engine: a model's verb with its arguments. ``await ask`` returns the answer.

    With ``grad`` the answer is differentiable with respect to the tensors of the arguments.
    """

    verb: str
    model: Any
    arguments: tuple[Any, ...] = field(default=())
    grad: bool = False

    def __await__(self) -> Generator[Ask, Any, Any]:
        """Hand this ask to whoever drives the coroutine and return what comes back."""
        answer = yield self
        return answer


@dataclass(frozen=True, eq=False)
class Asks:
    """Several asks at once; the answer is a list with an answer, or an exception, for each."""

    parts: tuple[Ask, ...]

    def __await__(self) -> Generator[Asks, Any, Any]:
        """Hand all of them down together."""
        answers = yield self
        return answers


async def gather(coroutines: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Run several coroutines side by side and return their results in order.

    What they ask at the same time goes down as one ``Asks``, so that rows which walk at their own pace still
    share calls of the network. The first exception that a coroutine lets through closes the others and is raised.
    """
    results: list[Any] = [None] * len(coroutines)
    pending: dict[int, Any] = dict.fromkeys(range(len(coroutines)))
    try:
        while pending:
            asked: dict[int, Ask | Asks] = {}
            for i, answer in pending.items():
                try:
                    if isinstance(answer, BaseException):
                        asked[i] = coroutines[i].throw(answer)
                    else:
                        asked[i] = coroutines[i].send(answer)
                except StopIteration as end:
                    results[i] = end.value
            parts = [(i, one) for i, ask in asked.items() for one in _parts(ask)]
            answers = await Asks(tuple(one for _, one in parts)) if parts else []
            replies: dict[int, list[Any]] = {i: [] for i in asked}
            for (i, _), answer in zip(parts, answers, strict=True):
                replies[i].append(answer)
            pending = {i: replies[i] if isinstance(asked[i], Asks) else replies[i][0] for i in asked}
    finally:
        for coroutine in coroutines:
            coroutine.close()
    return results


def _parts(ask: Ask | Asks) -> tuple[Ask, ...]:
    return ask.parts if isinstance(ask, Asks) else (ask,)
