"""No row of a guided estimate depends on its company, to the last bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sfumato.engine.run import run
from sfumato.families.gaussian import mixture
from sfumato.guidance import guide
from sfumato.guidance.classifier import classifier
from sfumato.guidance.constraints import clip, dynamic_threshold, known
from sfumato.guidance.interval import interval
from sfumato.guidance.perturbed import perturbed, steps_from
from sfumato.guidance.rows import each_row
from sfumato.guidance.several import autoguidance, composed
from sfumato.noise import Stream
from sfumato.process.estimate import Denoise, Estimate
from sfumato.process.grid import make_grid
from sfumato.process.level import Level
from sfumato.process.schedule import Flow
from sfumato.samplers import SAMPLERS

SHAPE = (2, 3, 3)
MODEL = mixture(
    torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(4)),
    0.2 * torch.eye(18).expand(3, 18, 18) + 0.02,
    torch.tensor([0.3, 0.3, 0.4]),
    names=("a", "b", "c"),
)
A, B, EMPTY = (MODEL.conditioner([name]) for name in ("a", "b", ""))
GRID = make_grid("linspace", steps=6, schedule=Flow())
Y = torch.randn(1, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(9))


def one(cond: Any) -> Denoise:
    async def denoise(x: Tensor, at: Level) -> Estimate:
        (found,) = await MODEL.denoise(x, at, cond)
        return found

    return denoise


def log_prob(x: Tensor, at: Level) -> Tensor:
    network = MODEL.denoiser.network
    return network.log_density(x, at, label=0) - network.log_density(x, at)


def by(text: str, scale: float = 4.0) -> Callable[[], Denoise]:
    return lambda: guide(text)(
        MODEL.denoise, A, EMPTY, scale=scale, prediction=MODEL.denoiser.prediction, grid=GRID
    )


MAKERS: dict[str, Callable[[], Denoise]] = {
    "cfg": by("cfg"),
    "rescale": by("cfg(rescale=0.7, lo=0.2, hi=0.9)"),
    "threshold": by("cfg(threshold=0.9)"),
    "cfgpp": by("cfgpp(threshold=0.9)", 0.6),
    "zero_star": by("zero_star(zero=1, rescale=0.5)"),
    "apg": by("apg(norm=1.5, eta=0.3)"),
    "perturbed": lambda: perturbed(
        MODEL.denoise,
        A,
        EMPTY,
        B,
        scale=3.0,
        push=2.0,
        prediction=MODEL.denoiser.prediction,
        rescale=0.7,
        guides=interval(0.2, 0.9),
        pushes=steps_from(GRID, 0.1, 0.7),
    ),
    "classifier": lambda: classifier(one(EMPTY), log_prob, 3.0),
    "composed": lambda: composed(MODEL.denoise, [(A, 1.0), (B, -0.5)], [(EMPTY, 1.0)], 3.0),
    "autoguidance": lambda: autoguidance(one(A), one(EMPTY), 2.0),
    "known": lambda: known(by("cfg")(), Y, torch.eye(3, dtype=torch.float64)),
    "clip": lambda: clip(by("cfg")(), -1, 1),
    "dynamic_threshold": lambda: dynamic_threshold(by("cfg")(), 0.9),
}


def walk(maker: Callable[[], Denoise], seeds: list[int]) -> Tensor:
    noise = Stream(seeds, SHAPE, torch.float64)
    end: Tensor = run(SAMPLERS["euler"].walk(GRID[0].sigma * noise.start(), GRID, maker(), noise))
    return end


@pytest.mark.parametrize("name", MAKERS)
@given(st.permutations(range(6)), st.integers(1, 5))
@settings(max_examples=4, deadline=None)
def test_a_row_is_the_same_alone_and_in_any_company(name: str, seeds: list[int], cut: int) -> None:
    together = walk(MAKERS[name], seeds)
    assert together.isfinite().all()
    assert torch.equal(
        torch.cat((walk(MAKERS[name], seeds[:cut]), walk(MAKERS[name], seeds[cut:]))), together
    )
    assert torch.equal(walk(MAKERS[name], [seeds[cut]])[0], together[cut])


@given(st.integers(1, 9), st.integers(0, 8), st.sampled_from([torch.float32, torch.float64]))
@settings(max_examples=30, deadline=None)
def test_a_reduction_sees_one_row_whatever_its_layout(rows: int, which: int, dtype: torch.dtype) -> None:
    x = torch.randn(rows, 3, 16, 17, dtype=dtype, generator=torch.Generator().manual_seed(rows))
    which %= rows
    for seen in (x, x.to(memory_format=torch.channels_last), x.flip(0).flip(0)):
        found = each_row(lambda row: (row * row).sum(), seen)
        assert found.shape == (rows, 1, 1, 1)
        assert torch.equal(found[which], each_row(lambda row: (row * row).sum(), x[which : which + 1])[0])


def test_a_reduction_sees_one_row_when_threads_share_the_work() -> None:
    """One sum of a whole batch fails this: torch splits a single long row among threads, and many rows by row."""
    threads = torch.get_num_threads()
    x = torch.randn(4, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    try:
        torch.set_num_threads(2)
        together, alone = (each_row(lambda row: (row * row).sum(), rows) for rows in (x, x[2:3]))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(together[2], alone[0])
