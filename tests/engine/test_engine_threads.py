"""The engine driven by a thread of its own, by whoever waits, and under asyncio."""

from __future__ import annotations

import asyncio
import threading

import pytest
import torch

from sfumato.engine.engine import Engine
from sfumato.engine.rounds import Rounds
from sfumato.engine.run import run
from sfumato.errors import Cancelled, InvalidRequest
from tests.engine.fakes import fake, walk

LONG = 20.0


class Gate:
    """A network that stops in its first call until it is let on."""

    def __init__(self) -> None:
        self.entered, self.open = threading.Event(), threading.Event()

    def __call__(self, x, cond) -> None:
        self.entered.set()
        assert self.open.wait(LONG)


def test_many_threads_submit_and_each_gets_its_own() -> None:
    model, _ = fake()
    found: dict[int, torch.Tensor] = {}

    def client(first: int) -> None:
        requests = {
            seed: engine.submit(walk(model, seed, rows=1 + seed % 3)) for seed in range(first, first + 5)
        }
        found.update({seed: request.result(LONG) for seed, request in requests.items()})

    with Engine() as engine:
        threads = [threading.Thread(target=client, args=(5 * k,)) for k in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LONG)
    assert sorted(found) == list(range(40))
    for seed, rows in found.items():
        assert torch.equal(rows, run(walk(fake()[0], seed, rows=1 + seed % 3)))


def test_threads_that_wait_drive_together_where_there_is_no_engine_thread() -> None:
    model, _ = fake()
    engine = Engine()
    requests = [engine.submit(walk(model, seed, steps=20)) for seed in range(4)]
    found: list[int] = []

    def wait(k: int) -> None:
        requests[k].result(LONG)
        found.append(k)

    threads = [threading.Thread(target=wait, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
    assert sorted(found) == [0, 1, 2, 3]


def test_a_request_is_cancelled_from_another_thread_while_a_call_is_under_way() -> None:
    gate = Gate()
    model, network = fake(gate)
    closed = []

    async def task() -> None:
        try:
            await walk(model, 1)
        finally:
            closed.append(threading.current_thread().name)

    with Engine() as engine:
        request, other = engine.submit(task()), engine.submit(walk(model, 2))
        assert gate.entered.wait(LONG)
        assert request.cancel()
        assert not request.ended  # the call is under way
        gate.open.set()
        with pytest.raises(Cancelled):
            request.result(LONG)
        assert torch.equal(other.result(LONG), run(walk(fake()[0], 2)))
    assert closed == ["sfumato engine"]
    assert network.calls[1] == 1  # its rows left the calls after that one


def test_a_result_may_be_waited_for_only_so_long() -> None:
    gate = Gate()
    model, _ = fake(gate)
    with Engine() as engine:
        request = engine.submit(walk(model))
        with pytest.raises(TimeoutError):
            request.result(0.01)
        with pytest.raises(TimeoutError):
            request.exception(0)
        gate.open.set()
        assert request.exception(LONG) is None
    assert Engine().submit(walk(model)).exception(LONG) is None
    late = Engine().submit(walk(model))
    with pytest.raises(TimeoutError):
        late.result(0)
    late.cancel()


def test_leaving_the_block_waits_for_what_was_submitted() -> None:
    model, _ = fake()
    with Engine() as engine:
        requests = [engine.submit(walk(model, seed)) for seed in range(5)]
    assert [request.state for request in requests] == ["done"] * 5
    assert not engine.started
    late = engine.submit(walk(model, 9))
    engine.stop()
    assert late.state == "done"


def test_an_error_in_the_block_cancels_what_was_submitted() -> None:
    gate = Gate()
    model, _ = fake(gate)
    requests = []

    def fail() -> None:
        with Engine(max_requests=1) as engine:
            requests.extend(engine.submit(walk(model, seed, steps=1000)) for seed in range(3))
            assert gate.entered.wait(LONG)
            threading.Timer(0.05, gate.open.set).start()
            raise RuntimeError("outside")

    with pytest.raises(RuntimeError, match="outside"):
        fail()
    assert [request.state for request in requests] == ["cancelled"] * 3


def test_an_engine_that_stops_takes_nothing_more_and_can_be_started_again() -> None:
    gate = Gate()
    model, _ = fake(gate)
    engine = Engine().start()
    with pytest.raises(InvalidRequest, match="runs already"):
        engine.start()
    request = engine.submit(walk(model))
    assert gate.entered.wait(LONG)
    stopper = threading.Thread(target=engine.stop)
    stopper.start()
    refused = False
    while not refused:
        try:
            engine.submit(walk(model))
        except InvalidRequest as error:
            refused = "is stopping" in str(error)
    gate.open.set()
    stopper.join(LONG)
    assert request.state == "done"
    with engine:
        assert engine.submit(walk(model)).exception(LONG) is None


def test_stop_is_refused_to_a_listener() -> None:
    model, _ = fake()
    with Engine() as engine:
        request = engine.submit(walk(model), listen=lambda event: engine.stop())
        assert "not for tasks and listeners" in str(request.exception(LONG))


def test_what_is_no_exception_ends_its_own_request_in_the_engines_thread() -> None:
    model, _ = fake()

    async def leaves() -> None:
        await walk(model, steps=1)
        raise SystemExit(3)

    with Engine() as engine:
        request, other = engine.submit(leaves()), engine.submit(walk(model))
        assert isinstance(request.exception(LONG), SystemExit)
        assert other.exception(LONG) is None
        assert engine.submit(walk(model)).exception(LONG) is None


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_fault_of_the_engine_itself_leaves_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self) -> None:
        raise ZeroDivisionError("a fault")

    monkeypatch.setattr(Rounds, "answer", broken)
    model, _ = fake()
    engine = Engine()
    requests = [engine.submit(walk(model)) for _ in range(3)]
    thread = engine.start()._thread
    for request in requests:
        with pytest.raises(ZeroDivisionError):
            request.result(LONG)
    thread.join(LONG)
    assert not engine.started


def test_previews_may_be_asked_for_from_another_thread() -> None:
    model, _ = fake()
    with Engine() as engine:
        request = engine.submit(walk(model, steps=200))
        shapes = set()
        while not request.ended:
            seen = request.preview()
            shapes.add(None if seen is None else tuple(seen.shape))
    assert shapes <= {None, (2, 3)}
    assert request.preview().shape == (2, 3)


def test_asyncio_waits_for_requests() -> None:
    model, _ = fake()

    async def client() -> list[torch.Tensor]:
        with Engine() as engine:
            requests = [engine.submit(walk(model, seed)) for seed in range(4)]
            return await asyncio.gather(*(request.wait() for request in requests))

    for seed, rows in enumerate(asyncio.run(client())):
        assert torch.equal(rows, run(walk(fake()[0], seed)))


def test_asyncio_cancels_a_request_with_who_waits_for_it() -> None:
    gate = Gate()
    model, _ = fake(gate)

    async def client(engine: Engine):
        request = engine.submit(walk(model, steps=1000))
        waiter = asyncio.create_task(request.wait())
        await asyncio.to_thread(gate.entered.wait, LONG)
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        return request

    with Engine() as engine:
        request = asyncio.run(client(engine))
        gate.open.set()
        assert isinstance(request.exception(LONG), Cancelled)


def test_asyncio_is_told_when_nobody_drives() -> None:
    model, _ = fake()
    engine = Engine()
    request = engine.submit(walk(model))
    with pytest.raises(InvalidRequest, match=r"start\(\) it"):
        asyncio.run(request.wait())
    engine.run_until_idle()
    assert asyncio.run(request.wait()).shape == (1, 2, 3)


def test_asyncio_gets_the_error_of_a_request() -> None:
    model, _ = fake()

    async def client() -> None:
        with Engine() as engine:
            await engine.submit(walk(model, prompt="nothing")).wait()

    with pytest.raises(InvalidRequest, match="'nothing'"):
        asyncio.run(client())
