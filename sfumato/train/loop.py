"""One training loop for every objective: AdamW on flat parameters, a moving average, exact resumption.

All randomness of step n comes from a generator seeded by (seed, n), and a batch is a function of n alone, so
the state of a run is its tensors and one integer.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from sfumato.errors import InvalidRequest
from sfumato.train.checkpoint import Checkpoint
from sfumato.train.flat import FlatParameters


@dataclass(frozen=True, kw_only=True)
class Hyper:
    """The numbers of a training run."""

    steps: int
    batch: int = 64
    rate: float = 1e-3
    warmup: int = 200
    cooldown: float = 0.2
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.01
    clip: float = 1.0
    average: float = 0.999
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Loss:
    """What an objective returns: the value to minimise and figures to log by name, numbers or vectors."""

    value: Tensor
    figures: dict[str, Tensor]


class Objective(Protocol):
    """What a run minimises."""

    @property
    def module(self) -> nn.Module:
        """The network that is trained."""
        ...

    def loss(self, step: int, size: int, generator: torch.Generator) -> Loss:
        """The loss of a batch of ``size`` drawn from ``generator`` alone."""
        ...


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step that was made: its number (from 1), loss, gradient norm, learning rate, seconds, figures."""

    number: int
    loss: float
    norm: float
    rate: float
    seconds: float
    figures: dict[str, Tensor]


def rate_at(step: int, hyper: Hyper) -> float:
    """The learning rate of ``step``: linear warm-up, constant, then ``1 - sqrt`` cooldown over the last part.

    The cooldown is that of Hagele et al. 2024, section 3: rate * (1 - sqrt((step - start) / length)). Where it
    meets the warm-up the lower of both counts.
    """
    start = hyper.steps * (1 - hyper.cooldown)
    warm = cool = hyper.rate
    if step < hyper.warmup:
        warm = hyper.rate * (step + 1) / hyper.warmup
    if step >= start and hyper.cooldown > 0:
        cool = hyper.rate * max(0.0, 1 - math.sqrt((step - start) / (hyper.steps - start)))
    return min(warm, cool)


def average_at(step: int, hyper: Hyper) -> float:
    """The decay of the moving average at ``step``: short memory at first, ``hyper.average`` in the end."""
    return min(hyper.average, (1 + step) / (10 + step))


class Run:
    """A training run: an objective, its flat parameters, optimiser state and moving average."""

    def __init__(
        self,
        objective: Objective,
        hyper: Hyper,
        dtype: torch.dtype,
        facts: dict[str, object],
        device: str = "cpu",
    ) -> None:
        """Begin a run at step 0 from the objective's weights as they are; ``facts`` go into checkpoints."""
        objective.module.to(device)
        self.objective, self.hyper, self.step, self.whole = objective, hyper, 0, True
        self.facts = {**facts, "hyper": asdict(hyper)}
        self.flat = FlatParameters(objective.module, dtype)
        self.average = [m.detach().clone() for m in self.flat.master]
        self.optimiser = torch.optim.AdamW(
            [
                {"params": [self.flat.master[0]], "weight_decay": hyper.weight_decay},
                {"params": [self.flat.master[1]], "weight_decay": 0.0},
            ],
            lr=hyper.rate,
            betas=hyper.betas,
            fused=True,
        )
        for master in self.flat.master:  # AdamW makes its state at the first step; a checkpoint needs it now
            self.optimiser.state[master] = {
                "step": torch.tensor(0.0),
                "exp_avg": torch.zeros_like(master),
                "exp_avg_sq": torch.zeros_like(master),
            }

    def steps(self, until: int | None = None, seconds: float = math.inf) -> Iterator[Step]:
        """Make steps until number ``until`` (all of them by default) or for ``seconds``, yielding each."""
        end = time.monotonic() + seconds
        last = self.hyper.steps if until is None else min(until, self.hyper.steps)
        self.objective.module.train()
        while self.step < last and time.monotonic() < end:
            yield self.advance()

    def advance(self) -> Step:
        """Make one step."""
        began, hyper = time.monotonic(), self.hyper
        generator = torch.Generator().manual_seed(hyper.seed * 1_000_003 + self.step)
        self.flat.clear()
        loss = self.objective.loss(self.step, hyper.batch, generator)
        loss.value.backward()  # type: ignore[no-untyped-call]
        norm = self.flat.collect(hyper.clip)
        if not torch.isfinite(norm):
            raise InvalidRequest(
                f"the gradient of step {self.step} is not finite; lower the learning rate ({hyper.rate})"
            )
        rate = rate_at(self.step, hyper)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.whole = False  # until weights, averages and step number belong together again
        self.optimiser.step()
        self.flat.publish()
        decay = average_at(self.step, hyper)
        for average, master in zip(self.average, self.flat.master, strict=True):
            average.lerp_(master.detach(), 1 - decay)
        self.step += 1
        self.whole = True
        return Step(
            number=self.step,
            loss=float(loss.value.detach()),
            norm=float(norm),
            rate=rate,
            seconds=time.monotonic() - began,
            figures=loss.figures,
        )

    def averaged(self) -> dict[str, Tensor]:
        """The moving average of the parameters, by name, float32."""
        return self.flat.named(self.average)

    def checkpoint(self) -> Checkpoint:
        """Everything needed to go on exactly from here."""
        groups = {"weight": [m.data for m in self.flat.master], "average": self.average}
        for key in ("exp_avg", "exp_avg_sq"):
            groups[key] = [self.optimiser.state[m][key] for m in self.flat.master]
        tensors = {
            f"{group}.{name}": view
            for group, vectors in groups.items()
            for name, view in self.flat.named(vectors).items()
        }
        return Checkpoint(step=self.step, tensors=tensors, facts=self.facts)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from ``checkpoint``; its parameters must be those of this run's module."""

        def part(group: str) -> dict[str, Tensor]:
            start = group + "."
            return {n.removeprefix(start): t for n, t in checkpoint.tensors.items() if n.startswith(start)}

        self.flat.load(part("weight"), [m.data for m in self.flat.master])
        self.flat.load(part("average"), self.average)
        for key in ("exp_avg", "exp_avg_sq"):
            self.flat.load(part(key), [self.optimiser.state[m][key] for m in self.flat.master])
        for master in self.flat.master:
            self.optimiser.state[master]["step"] = torch.tensor(float(checkpoint.step))
        self.step = checkpoint.step
        self.flat.publish()


def fresh(count: int, weights: Tensor | None, total: int, generator: torch.Generator) -> Tensor:
    """``count`` row numbers below ``total``, drawn with replacement by ``weights`` (total,) if given."""
    if weights is None:
        return torch.randint(total, (count,), generator=generator)
    return torch.multinomial(weights, count, replacement=True, generator=generator)
