"""A model whose network is a plain function, which records the calls it gets and fails where it is told to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from sfumato.condition import Cond
from sfumato.families.gaussian import mixture
from sfumato.model import Model
from sfumato.process.estimate import Estimate
from sfumato.process.level import Level

SHAPE = (2, 3)
AT, TO = Level(0.6, 0.4, 0.6), Level(0.3, 0.7, 0.3)
NAMES = ("good", "bad")


class Network:
    """Halves x by its level and adds its label; ``trouble(x, cond)`` may raise."""

    def __init__(self, trouble: Callable[[Tensor, Cond], None] = lambda x, cond: None) -> None:
        self.calls: list[int] = []
        self.trouble = trouble

    def __call__(self, x: Tensor, at: Level, cond: Cond) -> Estimate:
        self.calls.append(len(x))
        self.trouble(x, cond)
        column = [-1] + [1] * (x.ndim - 1)
        x0 = x * at.alpha.to(x.dtype).view(column) / 2 + cond.label.view(column)
        return Estimate(at, x0, x - x0)


def fake(trouble: Callable[[Tensor, Cond], None] = lambda x, cond: None) -> tuple[Model, Network]:
    """The model and its network; prompts are "good" (0), "bad" (1) and "" (2)."""
    toy = mixture(torch.zeros(2, *SHAPE), torch.eye(6).expand(2, 6, 6), torch.ones(2), names=NAMES)
    network = Network(trouble)
    return replace(toy, denoiser=network), network


async def walk(
    model: Model, seed: int = 0, *, rows: int = 1, steps: int = 3, prompt: str = "good", guided: bool = False
) -> Tensor:
    """A task: ``steps`` evaluations of ``rows`` rows, each at a level of its own."""
    x = torch.randn(rows, *SHAPE, generator=torch.Generator().manual_seed(seed))
    conds = [await model.embed([one]) for one in ((prompt, "") if guided else (prompt,))]
    for k in range(steps):
        found = await model.denoise(x, Level(0.5, 1 / (k + seed + 2), 0.5), *conds)
        x = sum(one.x0 for one in found) + 0.1 * x
    return await model.decode(x)
