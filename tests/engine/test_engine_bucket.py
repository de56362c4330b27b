"""Calls that are all filled up to one size give a picture the same bits alone and in any company."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sfumato.engine.engine import Engine
from sfumato.errors import InvalidRequest, OutOfMemory
from sfumato.families import emoji
from sfumato.tasks.text2image import Text2Image
from tests.engine.fakes import fake, walk
from tests.engine.mixes import Wish, bundle, dit, picture, unet

WISHES = [
    Wish(0, sampler, steps, part, guidance, prompt, "", seed, count, (4, 8, 8))
    for seed, (sampler, steps, part, guidance, prompt, count) in enumerate(
        [
            ("ddim", 4, 1.0, 4.0, "a cat", 1),
            ("ddpm", 3, 1.0, 1.0, "rocket", 3),
            ("heun", 2, 0.5, 2.0, "a red heart on a yellow square", 2),
            ("dpmpp_2m", 5, 1.0, 7.0, "", 1),
        ]
    )
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("network", [unet, dit])
def test_a_picture_has_the_same_bits_alone_and_in_company(network, dtype: torch.dtype) -> None:
    model = bundle(network().to(dtype))

    def made(wishes: list[Wish]) -> list[torch.Tensor]:
        engine = Engine(bucket=8)
        requests = [engine.submit(picture(model, wish, torch.float32)) for wish in wishes]
        return [request.result() for request in requests]

    together, backwards = made(WISHES), made(WISHES[::-1])[::-1]
    for wish, found, turned in zip(WISHES, together, backwards, strict=True):
        (alone,) = made([wish])
        assert torch.equal(found, alone)
        assert torch.equal(turned, alone)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pictures_of_the_built_in_model_have_the_same_bytes_alone_and_in_company(dtype: torch.dtype) -> None:
    model = emoji.load(dtype=dtype)
    kinds = [("ddim", 2, 4.0), ("ddpm", 3, 1.0), ("heun", 2, 2.5)]
    tasks = [
        Text2Image(prompt=f"cat {seed}", seed=seed, sampler=sampler, steps=steps, guidance=guidance)
        for seed, (sampler, steps, guidance) in enumerate(kinds)
    ]
    engine = Engine(model, bucket=4)
    requests = [engine.submit(task) for task in tasks]
    for task, request in zip(tasks, requests, strict=True):
        alone = Engine(model, bucket=4).submit(task).result()
        assert (alone.pixels[0] == request.result().pixels[0]).all()


def test_every_call_has_the_size_of_the_bucket() -> None:
    model, network = fake()
    sizes: list[int] = []

    class Codec:
        def decode(self, rows):
            sizes.append(len(rows))
            return rows

    model = replace(model, codec=Codec())
    engine = Engine(bucket=4)
    requests = [engine.submit(walk(model, seed, rows=rows)) for seed, rows in enumerate((1, 2, 5))]
    assert [len(request.result()) for request in requests] == [1, 2, 5]
    assert set(network.calls) == set(sizes) == {4}


def test_a_bucket_that_does_not_fit_in_memory_is_not_quietly_made_smaller() -> None:
    def trouble(x, cond) -> None:
        if len(x) > 3:
            raise MemoryError

    model, network = fake(trouble)
    with pytest.raises(OutOfMemory, match="denoise 4 rows"):
        Engine(bucket=4).submit(walk(model)).result()
    assert network.calls == [4]


@pytest.mark.parametrize("other", [{"exact": True}, {"max_rows": 8}])
def test_a_bucket_excludes_other_choices_of_size(other) -> None:
    with pytest.raises(InvalidRequest, match="bucket"):
        Engine(bucket=8, **other)
