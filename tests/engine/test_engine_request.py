"""Requests: cancelling, listening, previews, and what a task may do with other requests."""

from __future__ import annotations

import pytest
import torch

from sfumato.engine.engine import Engine
from sfumato.engine.run import run
from sfumato.errors import Cancelled, InvalidRequest
from tests.engine.fakes import SHAPE, fake, walk


class Fault(Exception):
    """What a faulty task or listener raises."""


def test_a_queued_and_a_running_request_are_cancelled_and_others_do_not_notice() -> None:
    model, _ = fake()
    steps = []

    async def careful() -> None:
        try:
            await walk(model, steps=5)
        finally:
            steps.append("cleaned")

    engine = Engine(max_requests=2)
    running, other, queued = (
        engine.submit(careful()),
        engine.submit(walk(model, 3)),
        engine.submit(careful(), name="x"),
    )
    engine.step()
    engine.step()
    assert (running.state, queued.state) == ("running", "queued")
    assert queued.cancel()
    assert steps == []  # its coroutine never began
    assert running.cancel()
    assert steps == ["cleaned"]
    for request in (running, queued):
        assert request.state == "cancelled"
        assert not request.cancel()
        with pytest.raises(Cancelled):
            request.result()
    assert str(queued.exception()) == "x was cancelled"
    engine.run_until_idle()
    assert engine.idle
    assert torch.equal(other.result(), run(walk(fake()[0], 3)))
    assert not other.cancel()


def test_a_coroutine_that_fails_while_it_is_closed_is_cancelled_all_the_same() -> None:
    model, _ = fake()

    async def untidy() -> None:
        try:
            await walk(model)
        finally:
            raise Fault("while cleaning")

    engine = Engine()
    request = engine.submit(untidy())
    engine.step()
    request.cancel()
    assert request.state == "cancelled"
    assert isinstance(request.exception().__cause__, Fault)


def test_listeners_hear_of_every_answer_of_their_own_request() -> None:
    model, _ = fake()
    engine = Engine()
    heard = []
    seen = []

    def listen(event) -> None:
        heard.append(event)
        seen.append(event.request.preview())

    request = engine.submit(walk(model, 1, rows=2, guided=True), listen=listen)
    engine.submit(walk(model, 2, steps=9))
    engine.run_until_idle()
    assert [event.verb for event in heard] == ["embed", "embed", "denoise", "denoise", "denoise", "decode"]
    assert [event.asked for event in heard] == [1, 2, 3, 4, 5, 6]
    assert [event.evaluations for event in heard] == [0, 0, 1, 2, 3, 3]
    assert all(event.request is request for event in heard)
    assert heard[2].estimate.x0.shape == (2, *SHAPE)
    assert heard[-1].estimate is None
    assert request.estimate is heard[4].estimate
    assert seen[:2] == [None, None]
    for event, shown in zip(heard[2:5], seen[2:5], strict=True):
        assert torch.equal(shown, event.estimate.x0[0])
    assert torch.equal(request.preview(), seen[4])


@pytest.mark.parametrize(("stop", "state"), [(Fault("enough"), "failed"), (Cancelled("enough"), "cancelled")])
def test_a_listener_that_raises_ends_its_own_request_alone(stop, state: str) -> None:
    model, _ = fake()
    cleaned = []

    async def task() -> None:
        try:
            await walk(model)
        finally:
            cleaned.append(True)

    def listen(event) -> None:
        if event.evaluations == 2:
            raise stop

    engine = Engine()
    request, other = engine.submit(task(), listen=listen), engine.submit(walk(model, 2))
    assert request.preview() is None
    engine.run_until_idle()
    assert request.state == state
    assert request.exception() is stop
    assert cleaned == [True]
    assert torch.equal(other.result(), run(walk(fake()[0], 2)))


def test_tasks_and_listeners_may_submit_and_cancel_but_not_wait() -> None:
    model, _ = fake()
    engine = Engine(model)
    inner = []

    async def outer() -> str:
        await walk(model, steps=1)
        inner.append(engine.submit(walk(model, 5)))
        with pytest.raises(InvalidRequest, match="not for tasks and listeners"):
            inner[0].result()
        with pytest.raises(InvalidRequest, match="not for tasks and listeners"):
            engine.step()
        inner.append(engine.submit(walk(model, 6)))
        inner[1].cancel()
        return "out"

    assert engine.submit(outer()).result() == "out"
    engine.run_until_idle()
    assert [request.state for request in inner] == ["done", "cancelled"]


def test_a_task_cancels_itself() -> None:
    model, _ = fake()
    engine = Engine()
    mine = []

    async def task() -> None:
        await walk(model, steps=1)
        mine[0].cancel()
        await walk(model, steps=1)

    mine.append(engine.submit(task()))
    engine.run_until_idle()
    assert mine[0].state == "cancelled"
