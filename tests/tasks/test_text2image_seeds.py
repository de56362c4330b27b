"""Seeds through the task: what each generator draws, one picture of many again, samplers that walk alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sfumato.engine.run import run
from sfumato.errors import InvalidRequest
from sfumato.families.gaussian import mixture
from sfumato.tasks.task import Result, make
from sfumato.tasks.text2image import Text2Image

SHAPE = (3, 4, 4)
VALUES = 48


def toy():
    draws = torch.Generator().manual_seed(3)
    means = 0.5 * torch.randn(2, *SHAPE, dtype=torch.float64, generator=draws)
    covs = 0.05 * torch.eye(VALUES, dtype=torch.float64).expand(2, -1, -1)
    return mixture(means, covs, torch.ones(2), names=["left", "right"])


def made(**options) -> Result:
    return run(make(Text2Image, prompt="left", steps=4, **options)(toy()))


@pytest.mark.parametrize("sampler", ["ddpm", "dpmpp_2m_sde", "dpm_adaptive"])
@pytest.mark.parametrize("noise", ["stream", "brownian", "torch", "cuda_rows"])
def test_each_picture_is_made_again_by_its_own_arguments(noise: str, sampler: str) -> None:
    whole = made(count=3, seed=11, noise=noise, sampler=sampler)
    assert len({p.tobytes() for p in whole.pixels}) == 3
    for pixels, arguments in zip(whole.pixels, whole.arguments, strict=True):
        again = run(make(Text2Image, **arguments)(toy()))
        assert len(again.pixels) == 1
        assert np.array_equal(again.pixels[0], pixels)
        assert again.arguments == (arguments,)


def test_generators_differ_but_begin_alike_where_they_should() -> None:
    first = {
        noise: made(noise=noise, sampler="ddim").pixels[0]
        for noise in ("stream", "brownian", "torch", "cuda_rows")
    }
    assert np.array_equal(first["stream"], first["brownian"])  # both begin with the same draw
    assert np.array_equal(first["stream"], first["torch"])  # a batch of one
    assert not np.array_equal(first["stream"], first["cuda_rows"])
    assert not np.array_equal(
        made(noise="stream", sampler="ddpm").pixels[0], made(noise="brownian", sampler="ddpm").pixels[0]
    )


def test_one_of_many_is_picked() -> None:
    whole = made(count=3, seed=5, sampler="ddpm")
    picked = made(count=3, seed=5, sampler="ddpm", pick=2)
    assert np.array_equal(picked.pixels[0], whole.pixels[1])
    assert picked.arguments[0]["seed"] == 6


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"noise": "strem"}, "stream"),
        ({"noise": "cuda(cards=2)"}, "option"),
        ({"count": 2, "pick": 3}, "pick = 3"),
        ({"sampler": "dpm_adaptive(order=7)"}, "order"),
    ],
)
def test_what_does_not_fit_is_told(options: dict, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        made(**options)
