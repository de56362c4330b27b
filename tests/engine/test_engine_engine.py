"""The engine's rounds: whose rows meet, and that what happens to one request happens to it alone."""

from __future__ import annotations

import asyncio

import pytest
import torch

from sfumato.ask import Ask, Asks, gather
from sfumato.engine.engine import Engine
from sfumato.engine.run import run
from sfumato.errors import InvalidRequest, UnknownName
from tests.engine.fakes import AT, SHAPE, fake, walk


class Fault(Exception):
    """What a faulty network or task raises."""


def bad_label(x, cond) -> None:
    if (cond.label == 1).any():
        raise Fault("this label breaks it")


def test_rows_of_different_requests_share_a_call() -> None:
    model, network = fake()
    engine = Engine(max_rows=16)
    kinds = [(1, 3, False), (3, 5, True), (2, 1, True)]
    requests = [
        engine.submit(walk(model, seed, rows=rows, steps=steps, guided=guided))
        for seed, (rows, steps, guided) in enumerate(kinds)
    ]
    assert [request.state for request in requests] == ["queued"] * 3
    engine.run_until_idle()
    # The first begins while the others still embed a second prompt; then 1 + 6 + 4 rows; then one after the other ends.
    assert network.calls == [1, 11, 7, 6, 6, 6]
    plain, _ = fake()
    for seed, (request, (rows, steps, guided)) in enumerate(zip(requests, kinds, strict=True)):
        assert request.state == "done"
        assert request.evaluations == steps
        alone = run(walk(plain, seed, rows=rows, steps=steps, guided=guided))
        assert torch.equal(request.result(), alone)


def test_models_shapes_dtypes_and_conditions_that_differ_do_not_meet() -> None:
    model, network = fake()
    other, second = fake()

    async def of(model, shape, dtype) -> torch.Tensor:
        (found,) = await model.denoise(torch.ones(2, *shape, dtype=dtype), AT, model.conditioner(["good"]))
        return found.x0

    engine = Engine()
    wanted = [
        (model, (3,), torch.float32),
        (model, (4,), torch.float32),
        (model, (3,), torch.float64),
        (other, (3,), torch.float32),
    ]
    requests = [engine.submit(of(*one)) for one in wanted]
    engine.run_until_idle()
    assert network.calls == [2, 2, 2]
    assert second.calls == [2]
    for (_, shape, dtype), request in zip(wanted, requests, strict=True):
        assert torch.equal(request.result(), torch.full((2, *shape), 0.2, dtype=dtype))


def test_a_prompt_that_several_ask_for_is_encoded_once() -> None:
    model, _ = fake()
    heard = []
    plain = model.conditioner
    object.__setattr__(model, "conditioner", lambda prompts: heard.append(tuple(prompts)) or plain(prompts))

    async def labels(*prompts: str) -> list[int]:
        return (await model.embed(prompts)).label.tolist()

    engine = Engine()
    requests = [engine.submit(labels(*p)) for p in (["good", ""], ["bad"], ["good"], ["", "good", "bad"])]
    assert [request.result() for request in requests] == [[0, 2], [1], [0], [2, 0, 1]]
    assert heard == [("good", "", "bad")]


def test_a_huge_request_does_not_starve_small_ones() -> None:
    model, network = fake()
    engine = Engine(max_rows=8)
    huge = engine.submit(walk(model, 0, rows=1000, steps=2))
    small = [engine.submit(walk(model, seed, steps=5)) for seed in range(1, 7)]
    rounds = 0
    while not all(request.ended for request in small):
        engine.step()
        rounds += 1
    assert rounds < 20
    assert not huge.ended
    assert huge.evaluations == 0
    engine.run_until_idle()
    assert torch.equal(huge.result(), run(walk(fake()[0], 0, rows=1000, steps=2)))
    assert (
        sum(size < 8 for size in network.calls) <= 2
    )  # the last of each of its steps: no call is half empty for that


def test_what_a_task_raises_reaches_its_own_request_alone() -> None:
    model, _ = fake()
    fault = Fault("in the task")

    async def broken(after: int) -> None:
        await walk(model, steps=after)
        raise fault

    engine = Engine()
    requests = [engine.submit(broken(after)) for after in (0, 1, 3)]
    good = engine.submit(walk(model, 4))
    engine.run_until_idle()
    for request in requests:
        assert request.state == "failed"
        assert request.exception() is fault
        with pytest.raises(Fault):
            request.result()
    assert torch.equal(good.result(), run(walk(fake()[0], 4)))


def test_an_error_of_a_shared_call_finds_the_request_it_belongs_to() -> None:
    model, network = fake(bad_label)
    engine = Engine()
    good = [engine.submit(walk(model, seed)) for seed in range(2)]
    bad = engine.submit(walk(model, 7, prompt="bad"))
    engine.run_until_idle()
    assert isinstance(bad.exception(), Fault)
    assert network.calls[:4] == [3, 1, 1, 1]
    for seed, request in enumerate(good):
        assert torch.equal(request.result(), run(walk(fake()[0], seed)))


def test_a_prompt_that_is_refused_harms_nobody_else() -> None:
    model, _ = fake()
    engine = Engine()
    requests = [engine.submit(walk(model, prompt=prompt)) for prompt in ("good", "ugly", "bad")]
    engine.run_until_idle()
    assert isinstance(requests[1].exception(), UnknownName)
    assert [request.state for request in requests] == ["done", "failed", "done"]


def test_a_task_may_catch_what_answering_raised_and_go_on() -> None:
    model, _ = fake(bad_label)

    async def stubborn() -> str:
        try:
            await walk(model, prompt="bad")
        except Fault as error:
            return f"caught: {error} {tuple((await walk(model)).shape)}"
        return "not raised"

    assert Engine().submit(stubborn()).result() == "caught: this label breaks it (1, 2, 3)"


def test_of_several_asks_the_faulty_one_gets_its_error_and_the_others_their_answers() -> None:
    model, network = fake(bad_label)

    async def one(prompt: str, seed: int) -> torch.Tensor | str:
        try:
            return await walk(model, seed, prompt=prompt)
        except Fault as error:
            return str(error)

    async def several() -> list:
        return await gather([one("good", 0), one("bad", 1), one("good", 2)])

    first, second, third = Engine().submit(several()).result()
    assert network.calls[0] == 3
    assert second == "this label breaks it"
    assert torch.equal(first, run(walk(fake()[0], 0)))
    assert torch.equal(third, run(walk(fake()[0], 2)))


def test_asks_without_parts_and_verbs_that_do_not_exist() -> None:
    model, _ = fake()

    async def nothing() -> list:
        return await Asks(())

    async def unknown() -> None:
        await Ask("dream", model)

    assert Engine().submit(nothing()).result() == []
    with pytest.raises(InvalidRequest, match="no verb 'dream'"):
        Engine().submit(unknown()).result()


def test_asyncio_inside_a_task_ends_that_task_with_a_sentence() -> None:
    model, _ = fake()
    engine = Engine()

    async def sleeps() -> None:
        await asyncio.sleep(0)

    wrong, right = engine.submit(sleeps()), engine.submit(walk(model))
    engine.run_until_idle()
    assert "only await the model's verbs" in str(wrong.exception())
    assert right.state == "done"


def test_gradients_are_asked_for_alone() -> None:
    model, network = fake()

    async def slope() -> torch.Tensor:
        x = torch.ones(1, *SHAPE, requires_grad=True)
        (found,) = await model.denoise(x, AT, await model.embed(["good"]), grad=True)
        return torch.autograd.grad(found.x0.sum(), x)[0]

    engine = Engine()
    other, asked = engine.submit(walk(model, steps=1)), engine.submit(slope())
    with torch.no_grad():
        engine.run_until_idle()
    assert network.calls == [1, 1]
    assert torch.equal(asked.result(), torch.full((1, *SHAPE), AT.alpha / 2))
    assert not other.result().requires_grad


def test_a_task_that_turns_gradients_off_around_an_await_does_so_for_itself() -> None:
    model, _ = fake()
    seen = []

    async def without() -> None:
        with torch.no_grad():
            await walk(model, steps=3)
            seen.append(("without", torch.is_grad_enabled()))

    async def plain() -> None:
        for _ in range(3):
            await walk(model, steps=1)
            seen.append(("plain", torch.is_grad_enabled()))

    engine = Engine()
    requests = [engine.submit(without()), engine.submit(plain())]
    with torch.no_grad():
        engine.run_until_idle()
        assert not torch.is_grad_enabled()
    assert [request.state for request in requests] == ["done", "done"]
    assert set(seen) == {("without", False), ("plain", True)}


def test_an_interrupt_in_a_call_loses_nothing() -> None:
    left = [KeyboardInterrupt()]

    def trouble(x, cond) -> None:
        if left:
            raise left.pop()

    model, _ = fake(trouble)
    engine = Engine()
    request = engine.submit(walk(model, 1))
    with pytest.raises(KeyboardInterrupt):
        engine.run_until_idle()
    engine.run_until_idle()
    assert torch.equal(request.result(), run(walk(fake()[0], 1)))


def test_an_interrupt_in_a_task_is_the_drivers_too() -> None:
    model, _ = fake()

    async def task() -> None:
        await walk(model, steps=1)
        raise KeyboardInterrupt

    engine = Engine()
    request, other = engine.submit(task()), engine.submit(walk(model, 1))
    with pytest.raises(KeyboardInterrupt):
        engine.run_until_idle()
    assert request.state == "failed"
    engine.run_until_idle()
    assert other.state == "done"


def test_a_task_is_given_the_engines_model() -> None:
    model, _ = fake()

    class Task:
        async def __call__(self, given) -> bool:
            return given is model

    assert Engine(model).submit(Task()).result()
    with pytest.raises(InvalidRequest, match="an engine that has a model"):
        Engine().submit(Task())
    for nonsense in (None, 3, "a cat"):
        with pytest.raises(InvalidRequest, match=type(nonsense).__name__):
            Engine(model).submit(nonsense)


@pytest.mark.parametrize("wrong", [{"max_rows": 0}, {"share": -1}, {"bucket": 0}, {"max_requests": 0}])
def test_numbers_below_one_are_refused(wrong) -> None:
    with pytest.raises(InvalidRequest, match="allowed: 1 and above"):
        Engine(**wrong)


def test_names_and_numbers_tell_requests_apart() -> None:
    model, _ = fake()
    engine = Engine()
    first, second = engine.submit(walk(model), name="a cat"), engine.submit(walk(model))
    engine.run_until_idle()
    assert (first.name, second.name) == ("a cat", "request 2")
    assert first.id != second.id
    assert repr(first) == "<Request 1 'a cat' done, 3 evaluations>"
    assert not engine.step()
