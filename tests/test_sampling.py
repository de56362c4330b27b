"""The front for people with a network of their own: sample, grid, mixture."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import sfumato
from sfumato.guidance import known
from sfumato.process.level import Level
from sfumato.process.schedule import Exploding, Flow

STD = 0.5
GRID = sfumato.grid("karras", steps=20, schedule=Exploding())


def gaussian(x: Tensor, level: Level) -> Tensor:
    """E[x0 | x] for x0 of N(0, STD^2) on EDM's process."""
    return x * (STD**2 / (STD**2 + level.sigma**2))


def test_the_law_of_many_samples_is_the_prior() -> None:
    grid = sfumato.grid("karras", steps=80, schedule=Exploding())
    x0 = sfumato.sample(gaussian, shape=(1,), grid=grid, seeds=range(4000), dtype=torch.float64)
    assert x0.shape == (4000, 1)
    # Three standard errors of a mean and of a variance; 80 steps make the deviation 0.0012 too large.
    assert abs(float(x0.mean())) < 3 * STD / 4000**0.5
    assert abs(float(x0.var()) - STD**2) < 3 * STD**2 * (2 / 4000) ** 0.5 + 2 * STD * 0.0013


@given(st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=6))
def test_a_sample_depends_on_its_own_seed_alone(seeds: list[int]) -> None:
    together = sfumato.sample(gaussian, shape=(3,), grid=GRID[-5:], seeds=seeds, sampler="ddpm")
    alone = [sfumato.sample(gaussian, shape=(3,), grid=GRID[-5:], seeds=[s], sampler="ddpm") for s in seeds]
    assert torch.equal(together, torch.cat(alone))


def test_an_async_denoiser_and_one_with_its_own_eps_do_the_same() -> None:
    async def slow(x: Tensor, level: Level) -> Tensor:
        return gaussian(x, level)

    def both_ends(x: Tensor, level: Level) -> sfumato.Estimate:
        x0 = gaussian(x, level)
        return sfumato.Estimate(level, x0, (x - x0) / level.sigma)

    plain, *others = (
        sfumato.sample(f, shape=(2,), grid=GRID, sampler="heun", seeds=[1, 2])
        for f in (gaussian, slow, both_ends)
    )
    for other in others:
        assert torch.equal(plain, other)


def test_a_walk_may_begin_from_a_picture() -> None:
    """At the first level of a part of a grid: alpha x0 + sigma noise."""
    grid = sfumato.grid("linspace", steps=10, schedule=Flow())[6:]
    x0 = torch.tensor([[1.0, -2.0]])
    seen = []

    def watch(x: Tensor, level: Level) -> Tensor:
        seen.append(x)
        return x0

    end = sfumato.sample(watch, shape=(2,), grid=grid, sampler="euler", seeds=[5], x0=x0)
    draw = torch.randn(2, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(seen[0], grid[0].alpha * x0 + grid[0].sigma * draw)
    torch.testing.assert_close(end, x0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sampler": "dpmp_2m"}, "dpmpp_2m"),
        ({"sampler": "ddim(eta=1)"}, "option"),
        ({"seeds": []}, "seeds"),
        ({"seeds": [-1]}, "seed = -1"),
        ({"grid": GRID[:1]}, "two levels"),
        ({"x0": torch.zeros(2, 3)}, "x0 has shape"),
    ],
)
def test_what_does_not_fit_is_told(change: dict, words: str) -> None:
    with pytest.raises(sfumato.InvalidRequest, match=words):
        sfumato.sample(gaussian, **{"shape": (2,), "grid": GRID, "seeds": [1], **change})


@pytest.mark.parametrize("answer", [None, 3.0, torch.zeros(7)])
def test_an_answer_of_another_shape_is_told(answer: object) -> None:
    with pytest.raises(sfumato.InvalidRequest, match="must return x0"):
        sfumato.sample(lambda x, level: answer, shape=(2,), grid=GRID)  # type: ignore[arg-type,return-value]


def test_estimates_off_the_line_are_refused_where_x_is_used() -> None:
    """CFG++'s, for instance: a sampler that looks at x would go elsewhere without a word."""

    def off(x: Tensor, level: Level) -> sfumato.Estimate:
        return sfumato.Estimate(level, gaussian(x, level) + 1.0, (x - gaussian(x, level)) / level.sigma)

    assert sfumato.sample(off, shape=(2,), grid=GRID, sampler="ddim").shape == (1, 2)
    with pytest.raises(sfumato.InvalidRequest, match="do not add up"):
        sfumato.sample(off, shape=(2,), grid=GRID, sampler="heun")


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "heun", "euler_ancestral", "dpmpp_sde"])
def test_a_constraint_around_a_plain_function(sampler: str) -> None:
    held = known(sfumato.as_denoise(gaussian), torch.tensor([0.3, 0.0]), torch.tensor([1.0, 0.0]))
    x0 = sfumato.sample(held, shape=(2,), grid=GRID, sampler=sampler, seeds=[1, 2, 3], dtype=torch.float64)
    torch.testing.assert_close(x0[:, 0], torch.full((3,), 0.3, dtype=torch.float64), rtol=0, atol=1e-6)
    assert len(x0[:, 1].unique()) == 3
