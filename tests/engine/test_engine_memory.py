"""Where memory does not suffice: smaller calls first, and an error only for what does not fit by itself."""

from __future__ import annotations

import pytest
import torch

from sfumato.engine.engine import Engine
from sfumato.engine.rounds import REMEMBERED
from sfumato.engine.run import run
from sfumato.errors import OutOfMemory, SfumatoError
from tests.engine.fakes import fake, walk

ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you tried"
    ),
    MemoryError(),
]


def above(most: int, error: Exception = ERRORS[1]):
    def trouble(x, cond) -> None:
        if len(x) > most:
            raise error

    return trouble


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("most", [1, 2, 5])
def test_calls_are_halved_until_they_fit(most: int, error: Exception) -> None:
    model, network = fake(above(most, error))
    engine = Engine(max_rows=16)
    requests = [engine.submit(walk(model, seed, rows=rows)) for seed, rows in enumerate((3, 9, 1))]
    engine.run_until_idle()
    plain, _ = fake()
    for seed, (rows, request) in enumerate(zip((3, 9, 1), requests, strict=True)):
        assert torch.equal(request.result(), run(walk(plain, seed, rows=rows)))
    assert network.calls[0] == 13
    assert [size for size in network.calls if size <= most]


def test_the_smaller_size_is_remembered_for_a_while() -> None:
    model, network = fake(above(4))
    engine = Engine(max_rows=16)
    engine.submit(walk(model, rows=16, steps=1)).result()
    assert network.calls == [16, 8, 4, 4, 8, 4, 4]
    network.calls.clear()
    engine.submit(walk(model, rows=16, steps=REMEMBERED // 4)).result()
    assert set(network.calls) == {4}
    assert len(network.calls) == REMEMBERED
    network.calls.clear()
    engine.submit(walk(model, rows=16, steps=1)).result()
    assert network.calls[0] == 16


def test_a_row_that_does_not_fit_by_itself_fails_alone_and_says_what_would_do() -> None:
    def trouble(x, cond) -> None:
        if (cond.label == 1).any():
            raise ERRORS[0]

    model, _ = fake(trouble)
    engine = Engine()
    bad = engine.submit(walk(model, 1, prompt="bad", rows=2))
    good = [engine.submit(walk(model, seed, guided=True)) for seed in range(3)]
    engine.run_until_idle()
    plain, _ = fake()
    for seed, request in enumerate(good):
        assert torch.equal(request.result(), run(walk(plain, seed, guided=True)))
    error = bad.exception()
    assert isinstance(error, OutOfMemory)
    assert isinstance(error, SfumatoError)
    assert error.exit_code == 6
    assert "one row, each (2, 3) float32; make smaller pictures" in str(error)


def test_run_and_the_exact_mode_say_it_too_and_try_nothing_else() -> None:
    for drive in (run, lambda task: Engine(exact=True).submit(task).result()):
        model, network = fake(above(1))
        with pytest.raises(OutOfMemory, match="denoise 2 rows"):
            drive(walk(model, guided=True))
        assert network.calls == [2]


def test_another_runtime_error_is_not_taken_for_it() -> None:
    error = RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    model, network = fake(above(0, error))
    request = Engine().submit(walk(model, rows=4))
    assert request.exception() is error
    assert network.calls == [4]
