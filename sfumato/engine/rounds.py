"""Rounds: the queue of requests under way, one call of the network after the other. Knows nothing of threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from typing import Any

import torch

from sfumato.ask import Ask
from sfumato.engine.answer import Row
from sfumato.engine.group import Question, call_each
from sfumato.engine.policy import fill, served
from sfumato.engine.request import Request
from sfumato.engine.run import advance

REMEMBERED = 100
"""For how many calls of a kind the size that memory sufficed for is remembered; then a full call is tried again."""


class Rounds:
    """The requests under way, in the order of the policy; one driver at a time.

    The numbers are those of Engine. Between ``answer`` and ``resume`` a caller may take requests out.
    """

    def __init__(self, *, max_rows: int, share: int, exact: bool, bucket: int) -> None:
        """Nothing under way."""
        self.max_rows, self.share, self.exact, self.bucket = max_rows, share, exact, bucket
        self.queue: deque[Request[Any]] = deque()
        self.interrupt: BaseException | None = None
        self._memory: dict[Hashable, tuple[int, int]] = {}

    def begin(self, request: Request[Any]) -> None:
        """Let ``request`` run to its first question."""
        request.state = "running"
        self._advance(request, None)

    def take_out(self, wanted: Callable[[Request[Any]], bool]) -> list[Request[Any]]:
        """Remove those that are ``wanted`` from the queue and return them."""
        out = [one for one in self.queue if wanted(one)]
        for one in out:
            self.queue.remove(one)
        return out

    def answer(self) -> None:
        """One call: the head of the queue says of which kind, the policy whose rows.

        What interrupts the call (Ctrl-C) leaves everything as it was before.
        """
        open_questions = [(one, one.question) for one in self.queue if one.question and one.question.waiting]
        if not open_questions:
            return
        key = open_questions[0][1].key
        asking = [(one, question) for one, question in open_questions if question.wants(key)]
        room, calls = self._memory.get(key, (self.max_rows, 0))
        share = min(self.share, room)
        wants = [question.wants(key) for _, question in asking]
        given = fill(wants, room, share)
        parts = [question.first(key, count) for (_, question), count in zip(asking, given, strict=True)]
        answers = self._call(key, [row for part in parts for row in part])
        if calls:
            self._forget(key, calls)
        start = 0
        for (one, question), part, want, count in zip(asking, parts, wants, given, strict=True):
            question.settle(key, part, answers[start : start + len(part)])
            start += len(part)
            if served(want, count, share):
                self.queue.remove(one)
                self.queue.append(one)

    def resume(self) -> None:
        """Let every request go on that has got all it waits for."""
        for request in list(self.queue):
            question = request.question
            if question is None or question.waiting:
                continue
            self.queue.remove(request)
            reply = question.reply()
            replies = reply if question.several else [reply]
            try:
                for part, said in zip(question.parts, replies, strict=True):
                    if not isinstance(said, Exception):
                        request.hear(part.ask, said)
            except BaseException as error:
                self._fail(request, error)
            else:
                self._advance(request, reply)

    def _call(self, key: Hashable, rows: list[Row]) -> list[Any]:
        def halved(size: int) -> None:
            least, _ = self._memory.get(key, (size, 0))
            self._memory[key] = (min(least, size), REMEMBERED)

        if self.exact or self.bucket:
            return call_each(rows, size=0 if self.alone(rows[0].ask) else self.bucket)
        return call_each(rows, halved=halved)

    def _forget(self, key: Hashable, calls: int) -> None:
        room, left = self._memory[key]
        if left > calls:  # it was halved again just now
            return
        self._memory[key] = (room, left - 1)
        if left == 1:
            del self._memory[key]

    def alone(self, ask: Ask) -> bool:
        """Whether the pictures of ``ask`` share calls with nothing.

        In the exact mode that is the promise; gradients would run through other requests' rows; a text encoder
        chooses its own batches, which a bucket cannot fill.
        """
        return self.exact or ask.grad or (self.bucket > 0 and ask.verb == "embed")

    def _advance(self, request: Request[Any], reply: Any) -> None:
        """Let ``request`` go on to its next question, or to its end.

        Whether gradients are recorded is torch's state of the thread; a task that changes it around an ``await``
        changes it for itself alone.
        """
        outside = torch.is_grad_enabled()
        torch.set_grad_enabled(request.records)
        try:
            ask = advance(request.task, reply)
            request.records = torch.is_grad_enabled()
            request.question = Question(ask, self.alone)
        except StopIteration as end:
            request.finish(end.value)
        except BaseException as error:
            self._fail(request, error)
        else:
            self.queue.append(request)
        finally:
            torch.set_grad_enabled(outside)

    def _fail(self, request: Request[Any], error: BaseException) -> None:
        """End ``request``; what is no Exception (Ctrl-C) concerns the driver too and is kept for it."""
        request.fail(error)
        if not isinstance(error, Exception):
            self.interrupt = error
