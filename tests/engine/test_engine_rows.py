"""L6: a row's values depend on its own seed and condition alone, to the bit on the closed-form family."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sfumato.engine.run import run
from sfumato.errors import InvalidRequest
from sfumato.families.gaussian import mixture, sample
from sfumato.guidance.classifier_free import classifier_free
from sfumato.noise import Stream
from sfumato.process.grid import make_grid
from sfumato.process.level import Level
from sfumato.process.schedule import Flow
from sfumato.samplers import SAMPLERS

DIMENSIONS = 5


def model():
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(3, DIMENSIONS, dtype=torch.float64, generator=generator)
    roots = torch.randn(3, DIMENSIONS, DIMENSIONS, dtype=torch.float64, generator=generator)
    return mixture(means, 0.1 * roots @ roots.mT, torch.tensor([1.0, 2.0, 3.0]))


GRID = make_grid("linspace", steps=6, schedule=Flow())


@pytest.mark.parametrize("sampler", [name for name, entry in SAMPLERS.items() if not entry.by_row])
def test_a_row_alone_is_the_row_in_company(sampler: str) -> None:
    toy, walk = model(), SAMPLERS[sampler].walk
    seeds = [3, 0, 11, 2**63 - 1, 7, 5, 8, 13, 1]
    together = run(sample(toy, walk, GRID, seeds))
    for i, seed in enumerate(seeds):
        assert torch.equal(run(sample(toy, walk, GRID, [seed]))[0], together[i])
    assert torch.equal(run(sample(toy, walk, GRID, seeds[::-1])), together.flip(0))
    assert len(torch.unique(together, dim=0)) == len(seeds)


def guided(toy) -> Tensor:
    async def task() -> Tensor:
        want, avoid = await toy.embed(["1"]), await toy.embed([""])
        noise = Stream(range(4), (DIMENSIONS,), torch.float64)
        denoise = classifier_free(toy.denoise, want, avoid, 3.0)
        return await toy.decode(await SAMPLERS["dpmpp_2m"].walk(noise.start(), GRID, denoise, noise))

    return run(task())


def test_both_branches_of_one_picture_are_one_call() -> None:
    """So that guidance costs no second call, and no picture's bits depend on how many are made."""
    toy = model()
    seen: list[int] = []
    toy.denoiser.network.register_forward_hook(lambda module, args, out: seen.append(len(args[0])))
    guided(toy)
    assert seen == [2] * 4 * (len(GRID) - 1)


def test_branches_together_are_the_branches_alone() -> None:
    toy = model()
    x = torch.randn(4, DIMENSIONS, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    conds = [toy.conditioner([prompt]) for prompt in ("0", "", "2")]
    together = run(toy.denoise(x, GRID[2], *conds))
    for found, cond in zip(together, conds, strict=True):
        (alone,) = run(toy.denoise(x, GRID[2], cond))
        assert found.at == alone.at == GRID[2]
        assert torch.equal(found.x0, alone.x0)
        assert torch.equal(found.eps, alone.eps)
    assert not torch.equal(together[0].x0, together[2].x0)


def test_conditions_of_a_row_each_are_answered_row_by_row() -> None:
    toy = model()
    x = torch.randn(3, DIMENSIONS, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    (mixed,) = run(toy.denoise(x, GRID[2], toy.conditioner(["0", "1", ""])))
    for i, prompt in enumerate(("0", "1", "")):
        (alone,) = run(toy.denoise(x[i : i + 1], GRID[2], toy.conditioner([prompt])))
        assert torch.equal(mixed.x0[i], alone.x0[0])


def test_draws_of_a_seed_are_the_same_in_any_batch_and_go_on() -> None:
    at, to = GRID[0], GRID[1]
    alone, company = Stream([5], (2, 3)), Stream([1, 5], (2, 3))
    for _ in range(3):
        assert torch.equal(alone.start()[0], company.start()[1])
        assert torch.equal(alone(at, to)[0], company(at, to)[1])
    assert Stream([5], (2,), torch.float64).start().dtype == torch.float64
    assert torch.equal(Stream([5], (2,), torch.float64).start().float(), Stream([5], (2,)).start())


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_a_seed_outside_its_range_is_refused(seed: int) -> None:
    with pytest.raises(InvalidRequest, match=str(seed)):
        Stream([0, seed], (2,))


def test_an_eps_network_is_not_asked_in_pure_noise() -> None:
    """The refusal reaches the task through the engine, where levels are tensors."""
    toy = mixture(torch.zeros(1, 2), torch.eye(2)[None], torch.ones(1), kind="eps")
    with pytest.raises(InvalidRequest, match="pure noise"):
        run(sample(toy, SAMPLERS["ddim"].walk, GRID, [0]))
    assert run(sample(toy, SAMPLERS["ddim"].walk, [Level(0.9, 0.1, 0.9), *GRID[2:]], [0])).isfinite().all()
