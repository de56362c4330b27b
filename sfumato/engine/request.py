"""Requests: a coroutine on its way through an engine, as those see it who wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from torch import Tensor

from sfumato.ask import Ask, Asks
from sfumato.engine.group import Question
from sfumato.errors import Cancelled, InvalidRequest
from sfumato.model import Model
from sfumato.process.estimate import Estimate

if TYPE_CHECKING:
    from sfumato.engine.engine import Engine

T = TypeVar("T")
State = Literal["queued", "running", "done", "failed", "cancelled"]


@dataclass(frozen=True, eq=False)
class Progress:
    """An answer that a request has got: the ``asked``-th in all, the ``evaluations``-th of the network.

    ``estimate`` is that of the first condition where the network was asked, else None.
    """

    request: Request[Any]
    verb: str
    asked: int
    evaluations: int
    estimate: Estimate | None


Watch = Callable[[Progress], None]
"""Who is told of every answer. What it raises ends its own request."""


class Request(Generic[T]):
    """A handle on a coroutine that an engine drives; made by ``Engine.submit``.

    All methods and attributes may be used from any thread. ``asked`` counts answers, ``evaluations``
    those of the network, ``estimate`` is the newest one of these, for the first condition.
    """

    def __init__(
        self,
        engine: Engine,
        number: int,
        name: str,
        task: Coroutine[Ask | Asks, Any, T],
        listen: Watch | None,
    ) -> None:
        """A request that waits to be begun."""
        self.id, self.name = number, name
        self.state: State = "queued"
        self.asked, self.evaluations = 0, 0
        self.estimate: Estimate | None = None
        self.cancelling, self.records = False, True
        self.question: Question | None = None
        self.task, self.listen = task, listen
        self._engine = engine
        self._model: Model | None = None
        self._end: Future[T] = Future()
        self._end.set_running_or_notify_cancel()  # so that asyncio cannot end it behind the engine's back

    def __repr__(self) -> str:
        """Name, state and how far it is."""
        return f"<Request {self.id} {self.name!r} {self.state}, {self.evaluations} evaluations>"

    @property
    def ended(self) -> bool:
        """Whether it is done, failed or cancelled."""
        return self._end.done()

    def result(self, timeout: float | None = None) -> T:
        """What the coroutine returned; waits for it.

        Where no thread drives the engine, this call does. Raises what the coroutine raised, Cancelled, or
        TimeoutError after ``timeout`` seconds.
        """
        self._engine.drive(self, timeout)
        return self._end.result(0)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """What ``result`` would raise, None if it would return."""
        self._engine.drive(self, timeout)
        return self._end.exception(0)

    async def wait(self) -> T:
        """``result`` for asyncio; a started engine is needed. Cancelling who waits cancels the request.

        ::

            with Engine(model) as engine:
                picture = await engine.submit(task).wait()
        """
        if not self.ended and not self._engine.started:
            raise InvalidRequest("nobody drives this engine: start() it before you await its requests")
        try:
            return await asyncio.wrap_future(self._end)
        except asyncio.CancelledError:
            self.cancel()
            raise

    def cancel(self) -> bool:
        """Stop the request between two calls of the network; False if it has ended already.

        Its coroutine is closed, so that its ``finally`` blocks run, and ``result`` raises Cancelled, unless it comes
        to its end first. Others are not touched.
        """
        return self._engine.cancel(self)

    def preview(self) -> Tensor | None:
        """The first picture as the newest estimate has it, (C, H, W); None before the first estimate.

        It is decoded in the calling thread, after the call that is under way.
        """
        if self.estimate is None or self._model is None:
            return None
        return self._engine.decode(self._model, self.estimate.x0[:1])[0]

    def await_end(self, timeout: float | None) -> None:
        """Return when the request has ended or after ``timeout`` seconds."""
        wait_for([self._end], timeout)

    def hear(self, ask: Ask, reply: Any) -> None:
        """Note an answer and tell the listener; raises what the listener raises."""
        self.asked += 1
        estimate: Estimate | None = None
        if ask.verb == "denoise":
            self.evaluations += 1
            estimate = reply[0]
            self._model, self.estimate = ask.model, estimate
        if self.listen is not None:
            self.listen(Progress(self, ask.verb, self.asked, self.evaluations, estimate))

    def finish(self, value: T) -> None:
        """The coroutine has returned ``value``."""
        self.state, self.question = "done", None
        self._engine.closed(self)
        self._end.set_result(value)

    def fail(self, error: BaseException) -> None:
        """Close the coroutine, whatever it does about that, and keep ``error``; a Cancelled cancels."""
        try:
            self.task.close()
        except BaseException as late:
            if error.__cause__ is None:
                error.__cause__ = late
        self.state, self.question = "cancelled" if isinstance(error, Cancelled) else "failed", None
        self._engine.closed(self)
        self._end.set_exception(error)
