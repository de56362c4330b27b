"""The driver that runs one task: it answers the asks of a coroutine until the coroutine returns."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from sfumato.ask import Ask, Asks
from sfumato.engine.answer import answer
from sfumato.errors import InvalidRequest

T = TypeVar("T")
Listener = Callable[[Ask, object], None]


def run(task: Coroutine[Ask | Asks, Any, T], listen: Listener | None = None) -> T:
    """Drive ``task`` to its end and return its result; every picture goes through networks in calls of its own.

    ``listen(ask, answer)`` is told of everything answered: progress and previews come from there. An
    exception while answering is thrown into the coroutine, which may clean up; the coroutine is closed in any case.
    """
    try:
        ask = advance(task, None)
        while True:
            reply: Any = attempt(ask) if isinstance(ask, Ask) else [attempt(one) for one in ask.parts]
            if listen is not None and not isinstance(reply, Exception):
                told = zip(ask.parts, reply, strict=True) if isinstance(ask, Asks) else [(ask, reply)]
                for one, said in told:
                    listen(one, said)
            ask = advance(task, reply)
    except StopIteration as end:
        result: T = end.value
        return result
    finally:
        task.close()


def advance(task: Coroutine[Ask | Asks, Any, Any], reply: Any) -> Ask | Asks:
    """Resume ``task`` with ``reply``, which is thrown if it is an exception, and return what it asks next.

    StopIteration holds its result when it returns. InvalidRequest if it awaits anything but a model.
    """
    ask = task.throw(reply) if isinstance(reply, Exception) else task.send(reply)
    parts = ask.parts if isinstance(ask, Asks) else (ask,)
    for part in parts:
        if not isinstance(part, Ask):
            raise InvalidRequest(
                "a task may only await the model's verbs (embed, encode, denoise, decode); "
                f"this one awaited {type(part).__name__}: asyncio and the like do not run here"
            )
    return ask


def attempt(ask: Ask) -> object:
    """The answer to ``ask``, or the exception that answering it raised."""
    try:
        return answer(ask)
    except Exception as error:
        return error
