"""The engine: it drives many requests at once, and rows of different requests share calls of the network."""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from inspect import iscoroutine
from types import TracebackType
from typing import Any, Self, TypeVar

import torch
from torch import Tensor

from sfumato.ask import Ask, Asks
from sfumato.engine.request import Request, Watch
from sfumato.engine.rounds import Rounds
from sfumato.errors import Cancelled, InvalidRequest
from sfumato.model import Model

T = TypeVar("T")

MAX_ROWS = 16
"""Rows a call: on CPUs a row costs least about here, and the next call is not far (docs/benchmarks.md)."""


class Engine:
    """Drives requests: gathers what they wait for, answers it in shared calls, gives each exactly its rows.

    Rows that may share a call have one model, verb, shape, dtype and kind of condition; levels, guidance, samplers,
    steps and seeds are each request's own. Pictures are the same alone and in company up to the rounding of the
    network, whose kernels choose their order of addition by the size of a call. Two modes give the same bits:
    ``exact`` answers every picture in calls of its own, as ``run`` does, and ``bucket`` fills every call up to one
    size.

    All methods may be called from any thread. Someone has to drive: a thread of the engine's own (``start`` and
    ``stop``, or ``with Engine(model) as engine``), whoever calls ``run_until_idle`` or ``step``, or whoever waits for
    a ``result``. Coroutines and listeners run in the driver's thread, one at a time.

    ::

        with Engine(model) as engine:
            requests = [engine.submit(Text2Image(prompt="a rocket", seed=s)) for s in range(8)]
            pictures = [request.result() for request in requests]
    """

    def __init__(
        self,
        model: Model | None = None,
        *,
        max_rows: int | None = None,
        share: int | None = None,
        max_requests: int = 256,
        exact: bool = False,
        bucket: int | None = None,
    ) -> None:
        """An engine without requests.

        ``model`` is given to tasks that are submitted as they are; coroutines bring their own. A call has at most
        ``max_rows`` rows (16), of which a request gets ``share`` (a quarter of them, at least 2) while others wait
        (see policy). ``max_requests`` are under way at a time, the rest is queued in order. ``bucket`` is the number
        of rows of every call. InvalidRequest for numbers below 1 and for modes that exclude each other.
        """
        if bucket is not None and (exact or max_rows is not None):
            raise InvalidRequest("bucket sets the size of every call: leave out exact and max_rows beside it")
        rows = max_rows if max_rows is not None else bucket if bucket is not None else MAX_ROWS
        share = max(2, rows // 4) if share is None else share
        for name, value in (("max_rows", rows), ("share", share), ("max_requests", max_requests)):
            if value < 1:
                raise InvalidRequest(f"{name} = {value} is outside what is allowed: 1 and above")
        self.model, self._max_requests = model, max_requests
        self._changed = threading.Condition()  # guards what threads share: the next five
        self._open: dict[int, Request[Any]] = {}
        self._arrived: deque[Request[Any]] = deque()
        self._cancelling = False
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._turn = threading.Lock()  # held by whoever drives; guards the next
        self._rounds = Rounds(max_rows=rows, share=share, exact=exact, bucket=bucket or 0)
        self._calling = threading.Lock()  # one use of a network at a time
        self._driver: int | None = None
        self._numbers = itertools.count(1)

    def submit(
        self,
        task: Coroutine[Ask | Asks, Any, T] | Callable[[Model], Coroutine[Ask | Asks, Any, T]],
        *,
        listen: Watch | None = None,
        name: str | None = None,
    ) -> Request[T]:
        """Queue ``task``, a coroutine or what makes one of the engine's model, and return its handle at once.

        ``listen`` is told of every answer as a Progress. If it raises, its own request is closed and fails with that
        error (or is cancelled, if that is a Cancelled). InvalidRequest for what is no task, and while the engine stops.
        """
        coroutine: Any = task
        if callable(task) and self.model is not None:
            coroutine = task(self.model)
        if not iscoroutine(coroutine):
            hint = " of an engine that has a model" if callable(task) and self.model is None else ""
            raise InvalidRequest(f"submit takes a coroutine, or a task{hint}; this is {type(task).__name__}")
        number = next(self._numbers)
        request: Request[T] = Request(self, number, name or f"request {number}", coroutine, listen)
        with self._changed:
            if self._stopping:
                coroutine.close()
                raise InvalidRequest("the engine is stopping and takes no more requests")
            self._open[request.id] = request
            self._arrived.append(request)
            self._changed.notify_all()
        return request

    def step(self) -> bool:
        """One round: begin what has arrived, answer one call, resume whoever has got all it waits for.

        False if there was nothing to do.
        """
        with self._driving():
            return self._round()

    def run_until_idle(self) -> None:
        """Drive until no request is left."""
        while self.step():
            pass

    @property
    def idle(self) -> bool:
        """Whether no request is queued or under way."""
        return not self._open

    @property
    def started(self) -> bool:
        """Whether a thread of the engine's own drives it."""
        return self._thread is not None

    def start(self) -> Self:
        """Drive in a thread of the engine's own until ``stop``; InvalidRequest if it runs already."""
        with self._changed:
            if self._thread is not None:
                raise InvalidRequest("the engine runs already")
            self._thread = threading.Thread(target=self._loop, name="sfumato engine", daemon=True)
            self._thread.start()
        return self

    def stop(self, *, drain: bool = True) -> None:
        """End the thread: after all requests have ended, or, without ``drain``, now, and cancel them.

        Nothing can be submitted meanwhile. InvalidRequest from within a task or a listener.
        """
        self._refuse_driver("stop()")
        with self._changed:
            thread, self._stopping = self._thread, True
            left = [] if drain else list(self._open.values())
            self._changed.notify_all()
        try:
            for request in left:
                request.cancel()
            if thread is not None:
                thread.join()
            elif drain:
                self.run_until_idle()
        finally:
            with self._changed:
                self._stopping, self._thread = False, None

    def __enter__(self) -> Self:
        """Start."""
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop: after all requests have ended, or at once if an error leaves the block."""
        self.stop(drain=error is None)

    def cancel(self, request: Request[Any]) -> bool:
        """What ``Request.cancel`` does."""
        if request.ended:
            return False
        with self._changed:
            request.cancelling = self._cancelling = True
            self._changed.notify_all()
        self._sweep_if_free()
        return True

    def drive(self, request: Request[Any], timeout: float | None) -> None:
        """Return when ``request`` has ended or ``timeout`` seconds have passed; drive if no thread does."""
        if not request.ended:
            self._refuse_driver("waiting for a request")
        until = None if timeout is None else time.monotonic() + timeout
        while not (request.ended or self.started or (until is not None and time.monotonic() >= until)):
            self.step()
        if not request.ended:
            request.await_end(None if until is None else max(0.0, until - time.monotonic()))

    def closed(self, request: Request[Any]) -> None:
        """Note that ``request`` ends."""
        with self._changed:
            self._open.pop(request.id, None)

    def decode(self, model: Model, latent: Tensor) -> Tensor:
        """The pixels of ``latent`` now, between two calls: for previews."""
        with self._calling, torch.no_grad():
            return model.codec.decode(latent)

    @contextmanager
    def _driving(self) -> Iterator[None]:
        self._refuse_driver("step()")
        with self._turn:
            self._driver = threading.get_ident()
            try:
                yield
            finally:
                self._driver = None
        self._sweep_if_free()

    def _sweep_if_free(self) -> None:
        """Close what is to be cancelled here and now, unless somebody drives, who then does it between two calls."""
        while self._cancelling and self._turn.acquire(blocking=False):
            self._driver = threading.get_ident()
            try:
                self._sweep()
            finally:
                self._driver = None
                self._turn.release()

    def _refuse_driver(self, what: str) -> None:
        if self._driver == threading.get_ident():
            raise InvalidRequest(f"{what} is not for tasks and listeners: they run while the engine waits")

    def _loop(self) -> None:
        """What the engine's thread does."""
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._open or self._stopping)
                    if self._stopping and self.idle:
                        return
                self.step()
        except BaseException as error:
            # A fault of the engine itself: nobody would ever answer those who wait.
            with self._turn, self._changed:
                left = list(self._open.values())
                self._arrived.clear()
                self._rounds.queue.clear()
                self._thread = None
            for request in left:
                request.fail(error)
            raise

    def _round(self) -> bool:
        self._sweep()
        while len(self._rounds.queue) < self._max_requests:
            with self._changed:
                if not self._arrived:
                    break
                request = self._arrived.popleft()
            self._rounds.begin(request)
        busy = bool(self._rounds.queue)
        with self._calling:
            self._rounds.answer()
        self._sweep()
        self._rounds.resume()
        interrupt, self._rounds.interrupt = self._rounds.interrupt, None
        if interrupt is not None and threading.current_thread() is not self._thread:
            raise interrupt
        return busy

    def _sweep(self) -> None:
        """Close what is to be cancelled."""
        with self._changed:
            if not self._cancelling:
                return
            self._cancelling = False
            gone = [one for one in self._arrived if one.cancelling]
            self._arrived = deque(one for one in self._arrived if not one.cancelling)
        for request in (*gone, *self._rounds.take_out(lambda one: one.cancelling)):
            request.fail(Cancelled(f"{request.name} was cancelled"))
