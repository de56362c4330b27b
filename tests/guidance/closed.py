"""A mixture in closed form whose components are prompts, and what is asked of it; all in float64."""

from __future__ import annotations

import torch
from torch import Tensor

from sfumato.families.gaussian import mixture
from sfumato.process.estimate import Denoise, Estimate
from sfumato.process.level import Level
from sfumato.process.schedule import Cosine, Exploding, Flow, Schedule, scaled_linear

MEANS = torch.tensor([[-1.0, 0.2, 0.5, 0.1], [0.9, -0.4, 0.3, 1.2], [0.1, 0.8, -1.1, -0.6]]).double()
COVS = torch.stack([(0.1 + 0.1 * k) * torch.eye(4) + 0.02 * (k + 1) for k in range(3)]).double()
WEIGHTS = torch.tensor([0.5, 0.2, 0.3])
SCHEDULES: dict[str, Schedule] = {
    "flow": Flow(),
    "cosine": Cosine(),
    "sd": scaled_linear(),
    "edm": Exploding(),
}
LEVELS = {name: [s.level(s.t_max * part) for part in (0.9, 0.5, 0.2)] for name, s in SCHEDULES.items()}
EVERY = [(name, i) for name in LEVELS for i in range(3)]


class Model:
    """The closed form with a memory of what it was asked."""

    def __init__(self, schedule: str = "flow", kind: str = "flow") -> None:
        self.model = mixture(
            MEANS, COVS, WEIGHTS, schedule=SCHEDULES[schedule], kind=kind, names=("a", "b", "c")
        )
        self.asked: list[tuple[Level, tuple[str, ...]]] = []

    async def denoise(self, x: Tensor, at: Level, *names: str) -> tuple[Estimate, ...]:
        self.asked.append((at, names))
        conds = [self.model.conditioner([name]) for name in names]
        return await self.model.denoise(x, at, *conds)

    def one(self, name: str) -> Denoise:
        async def denoise(x: Tensor, at: Level) -> Estimate:
            (found,) = await self.denoise(x, at, name)
            return found

        return denoise


def points(count: int = 5, seed: int = 1) -> Tensor:
    return torch.randn(count, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def at_level(schedule: str, which: int) -> tuple[Tensor, Level]:
    at = LEVELS[schedule][which]
    return at.alpha * points(seed=2) + at.sigma * points(), at


def close(found: Estimate, wanted: Estimate, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(found.x0, wanted.x0, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(found.eps, wanted.eps, rtol=tolerance, atol=tolerance)


def on_line(x: Tensor, found: Estimate) -> None:
    back = found.at.alpha * found.x0 + found.at.sigma * found.eps
    torch.testing.assert_close(back, x, rtol=1e-11, atol=1e-11)
