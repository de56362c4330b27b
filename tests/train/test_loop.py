"""The loop: its laws, its exact resumption, and that it learns."""

from __future__ import annotations

import dataclasses
import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sfumato.errors import InvalidRequest
from sfumato.train.checkpoint import load_checkpoint, save_checkpoint
from sfumato.train.loop import Hyper, Loss, Run, average_at, rate_at

HYPER = Hyper(steps=12, batch=8, rate=3e-3, warmup=3, average=0.9)


class Toy:
    """A small network that learns a fixed function from random points."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.module: nn.Module = nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.Dropout(0.0), nn.SiLU(), nn.Conv2d(4, 1, 1)
        )
        self.bad_at = -1

    def loss(self, step: int, size: int, generator: torch.Generator) -> Loss:
        x = torch.randn(size, 2, 5, 5, generator=generator)
        error = self.module(x.to(next(self.module.parameters()).dtype)).float() - x.prod(1, keepdim=True)
        value = error.square().mean()
        return Loss(value=value * (math.nan if step == self.bad_at else 1), figures={})


def toy_run(hyper: Hyper = HYPER, dtype: torch.dtype = torch.float32) -> Run:
    return Run(Toy(), hyper, dtype, {"data": "x"})


def bits(run: Run) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in run.checkpoint().tensors.items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("stop", [0, 1, 2, 7, 11, 12])
def test_a_run_restored_from_disk_goes_on_with_the_same_bits(
    stop: int, dtype: torch.dtype, tmp_path: Path
) -> None:
    straight = toy_run(dtype=dtype)
    losses = [step.loss for step in straight.steps()]
    first = toy_run(dtype=dtype)
    told = [step.loss for step in first.steps(until=stop)]
    path = save_checkpoint(tmp_path, first.checkpoint())
    second = toy_run(dtype=dtype)
    for _ in second.steps(until=2):  # whatever it was before, restoring replaces it
        pass
    second.restore(load_checkpoint(path))
    told += [step.loss for step in second.steps()]
    assert told == losses
    assert second.step == HYPER.steps
    assert same(bits(straight), bits(second))
    for a, b in zip(
        straight.objective.module.parameters(), second.objective.module.parameters(), strict=True
    ):
        assert torch.equal(a, b)


def test_another_seed_is_another_run_and_the_same_seed_the_same() -> None:
    runs = [toy_run(dataclasses.replace(HYPER, seed=seed)) for seed in (0, 0, 1)]
    for run in runs:
        list(run.steps(until=3))
    assert same(bits(runs[0]), bits(runs[1]))
    assert not same(bits(runs[0]), bits(runs[2]))


def test_steps_stop_at_their_number_their_time_and_the_end() -> None:
    run = toy_run()
    assert [s.number for s in run.steps(until=4)] == [1, 2, 3, 4]
    assert list(run.steps(until=4)) == []
    assert list(run.steps(seconds=-1)) == []
    assert [s.number for s in run.steps(until=100)] == list(range(5, HYPER.steps + 1))
    assert list(run.steps()) == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gradient_that_is_not_finite_stops_the_run_before_anything_changes(dtype: torch.dtype) -> None:
    run = toy_run(dtype=dtype)
    list(run.steps(until=3))
    before = bits(run)
    assert isinstance(run.objective, Toy)
    run.objective.bad_at = 3
    with pytest.raises(InvalidRequest, match=r"step 3 is not finite; lower the learning rate"):
        run.advance()
    assert same(before, bits(run))
    assert run.step == 3
    assert run.whole
    run.objective.bad_at = -1
    other = toy_run(dtype=dtype)
    list(run.steps())
    list(other.steps())
    assert same(bits(run), bits(other))


def test_a_run_stopped_inside_a_step_says_so() -> None:
    run = toy_run()

    def stop() -> None:
        raise KeyboardInterrupt

    run.flat.publish = stop  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        run.advance()
    assert not run.whole


def test_another_network_is_refused() -> None:
    run = toy_run()
    kept = run.checkpoint()
    other = toy_run()
    other.objective.module[4] = nn.Conv2d(4, 3, 1)  # type: ignore[index,operator]
    wide = Run(other.objective, HYPER, torch.float32, {})
    before = bits(wide)
    with pytest.raises(KeyError, match=r"4\.(bias|weight)"):
        wide.restore(kept)
    assert same(before, bits(wide))


@pytest.mark.parametrize(
    "hyper",
    [
        Hyper(steps=1000, warmup=100, rate=2.0),
        Hyper(steps=1000, warmup=0, rate=2.0),
        Hyper(steps=1000, warmup=900, rate=2.0),
        Hyper(steps=1000, warmup=1, rate=2.0, cooldown=1.0),
        Hyper(steps=1000, warmup=100, rate=2.0, cooldown=0.0),
        Hyper(steps=30, warmup=200, rate=2.0),
    ],
    ids=str,
)
def test_the_learning_rate_rises_stays_and_falls_without_a_jump(hyper: Hyper) -> None:
    rates = [rate_at(step, hyper) for step in range(hyper.steps)]
    assert all(0 < rate <= hyper.rate for rate in rates)
    peak = rates.index(max(rates))
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    # A step changes the rate by at most one warm-up step, or one step of a square root that begins at 0.
    length = max(1.0, hyper.steps * hyper.cooldown)
    most = hyper.rate * max(1 / max(1, hyper.warmup), math.sqrt(1 / length)) * (1 + 1e-9)
    assert all(abs(b - a) <= most for a, b in pairwise(rates))
    if hyper.cooldown:
        assert rate_at(hyper.steps, hyper) == 0
        assert rates[-1] < 0.15 * hyper.rate


def test_the_learning_rate_at_its_joints() -> None:
    hyper = Hyper(steps=1000, warmup=100, rate=2.0, cooldown=0.2)
    assert rate_at(0, hyper) == pytest.approx(0.02)
    assert rate_at(49, hyper) == pytest.approx(1.0)
    assert rate_at(99, hyper) == rate_at(100, hyper) == rate_at(500, hyper) == rate_at(800, hyper) == 2.0
    assert rate_at(850, hyper) == pytest.approx(1.0)  # a quarter of the cooldown: 1 - 1/2


def test_the_average_begins_short_and_ends_long() -> None:
    hyper = Hyper(steps=10**6, average=0.999)
    decays = [average_at(step, hyper) for step in range(20_000)]
    assert decays[0] == pytest.approx(0.1)
    assert decays == sorted(decays)
    assert max(decays) == decays[-1] == hyper.average
    # While short, it is about the last tenth of the run: its memory 1 / (1 - decay) grows as the steps do.
    assert 1 / (1 - decays[90]) == pytest.approx(100 / 9)


def test_the_average_of_weights_that_stand_still_is_those_weights() -> None:
    run = toy_run(dataclasses.replace(HYPER, rate=0.0))
    list(run.steps())
    for name, value in run.averaged().items():
        assert torch.allclose(value, dict(run.objective.module.named_parameters())[name], rtol=1e-6, atol=0)


class Lines:
    """Linear regression: its best weights are known in closed form."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.module: nn.Module = nn.Linear(6, 2)
        make = torch.Generator().manual_seed(3)
        self.x = torch.randn(400, 6, generator=make)
        self.y = self.x @ torch.randn(6, 2, generator=make) + 0.3 * torch.randn(400, 2, generator=make) + 0.7

    def loss(self, step: int, size: int, generator: torch.Generator) -> Loss:
        rows = torch.randint(400, (size,), generator=generator)
        value = (self.module(self.x[rows]) - self.y[rows]).square().mean()
        return Loss(value=value, figures={})


def test_it_reaches_the_least_squares_solution() -> None:
    objective = Lines()
    run = Run(
        objective,
        Hyper(steps=600, batch=100, rate=2e-2, warmup=20, weight_decay=0.0, clip=100.0, average=0.98),
        torch.float32,
        {},
    )
    list(run.steps())
    full = torch.cat((objective.x, torch.ones(400, 1)), dim=1)
    best = torch.linalg.lstsq(full, objective.y).solution
    weights = run.averaged()
    found = torch.cat((weights["weight"].T, weights["bias"][None]))
    assert (found - best).abs().max() < 0.02
    least = (full @ best - objective.y).square().mean()
    assert ((full @ found - objective.y).square().mean() - least) / least < 1e-3
