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
    """Drive ``task`` to its end and return its result.

    ``listen(ask, answer)`` is told of everything answered: progress and previews come from there. An
    exception while answering is thrown into the coroutine, which may clean up; the coroutine is closed in any case.
    """
    try:
        ask = task.send(None)
        while True:
            if not isinstance(ask, Ask | Asks):
                raise InvalidRequest(
                    "a task may only await the model's verbs (embed, encode, denoise, decode); "
                    f"this one awaited {type(ask).__name__}: asyncio and the like do not run here"
                )
            try:
                reply: Any = answer(ask) if isinstance(ask, Ask) else [attempt(one) for one in ask.parts]
            except Exception as error:
                ask = task.throw(error)
                continue
            if listen is not None:
                told = zip(ask.parts, reply, strict=True) if isinstance(ask, Asks) else [(ask, reply)]
                for one, said in told:
                    listen(one, said)
            ask = task.send(reply)
    except StopIteration as end:
        result: T = end.value
        return result
    finally:
        task.close()


def attempt(ask: Ask) -> object:
    """The answer to ``ask``, or the exception that answering it raised."""
    try:
        return answer(ask)
    except Exception as error:
        return error
