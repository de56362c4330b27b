from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sfumato.ask import Ask
from sfumato.engine.run import run
from sfumato.errors import InvalidRequest


class Fault(Exception):
    """What a faulty network raises."""


def embed(prompts: tuple[str, ...]) -> Any:
    if "fault" in prompts:
        raise Fault("the network broke")
    return ",".join(prompts)


MODEL = SimpleNamespace(conditioner=embed)


async def ask(*prompts: str) -> Any:
    return await Ask("embed", MODEL, (prompts,))


def test_a_task_gets_its_answers_and_returns() -> None:
    async def task() -> list[Any]:
        return [await ask("a"), await ask("b", "c")]

    assert run(task()) == ["a", "b,c"]


def test_a_listener_hears_every_answer_in_order() -> None:
    async def task() -> str:
        await ask("a")
        await ask("b")
        return "end"

    heard: list[tuple[str, object]] = []
    assert run(task(), lambda asked, reply: heard.append((asked.verb, reply))) == "end"
    assert heard == [("embed", "a"), ("embed", "b")]


def test_an_error_is_thrown_where_the_task_waits() -> None:
    """The task may catch it, clean up and go on."""

    async def task() -> Any:
        try:
            await ask("fault")
        except Fault as error:
            return str(error), await ask("again")

    assert run(task()) == ("the network broke", "again")


def test_an_error_that_nobody_catches_comes_out_after_cleaning_up() -> None:
    steps = []

    async def task() -> None:
        try:
            await ask("fault")
        finally:
            steps.append("cleaned")

    with pytest.raises(Fault):
        run(task())
    assert steps == ["cleaned"]


def test_an_unknown_verb_is_refused_with_those_that_exist() -> None:
    async def task() -> None:
        await Ask("dream", MODEL)

    with pytest.raises(InvalidRequest, match=r"'dream'.*embed, encode, denoise and decode"):
        run(task())


@pytest.mark.parametrize(
    "awaited", [lambda: asyncio.sleep(0), lambda: asyncio.sleep(1)], ids=["bare", "future"]
)
def test_asyncio_is_refused_with_a_sentence(awaited) -> None:
    steps = []

    async def task() -> None:
        try:
            await awaited()
        finally:
            steps.append("cleaned")

    async def outside() -> None:
        with pytest.raises(
            InvalidRequest, match=r"only await the model's verbs.*asyncio and the like do not run"
        ):
            run(task())

    asyncio.run(outside())
    assert steps == ["cleaned"]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, Fault])
def test_a_task_is_closed_when_its_listener_stops_it(stop: type[BaseException]) -> None:
    steps = []

    async def task() -> None:
        try:
            await ask("a")
            steps.append("went on")
        finally:
            steps.append("cleaned")

    def listen(asked: Ask, reply: object) -> None:
        raise stop

    coroutine = task()
    with pytest.raises(stop):
        run(coroutine, listen)
    assert steps == ["cleaned"]
    assert coroutine.cr_frame is None


def test_answers_are_made_without_gradients() -> None:
    weight = torch.ones(3, requires_grad=True)
    model = SimpleNamespace(conditioner=lambda prompts: weight * 2)

    async def task() -> Any:
        return await Ask("embed", model, (("a",),))

    assert not run(task()).requires_grad
