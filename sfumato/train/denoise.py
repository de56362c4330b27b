"""The objective of a denoiser on stored latents and stored text embeddings."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.denoiser import Denoiser
from sfumato.process.level import Level
from sfumato.train.loop import Loss
from sfumato.train.pool import Pool

BINS = 10


@dataclass(frozen=True, kw_only=True)
class Times:
    """The law of the training time t in (0, 1): logit-normal (Esser et al. 2024, equation 19).

    ``uniform`` of the rows are drawn uniformly instead, so that no level starves.
    """

    mean: float = 0.0
    std: float = 1.0
    uniform: float = 0.1

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """``count`` times, float32."""
        normal = torch.randn(count, generator=generator)
        flat = torch.rand(count, generator=generator)
        which = torch.rand(count, generator=generator) < self.uniform
        return torch.where(which, flat, torch.sigmoid(self.mean + self.std * normal)).clamp(1e-4, 1.0)


class DenoiseObjective:
    """Predict at a random level, steered by the text; the condition is dropped for a share of the rows."""

    def __init__(self, denoiser: Denoiser, pool: Pool, times: Times, *, drop: float = 0.1) -> None:
        """Train ``denoiser`` on the examples of ``pool``."""
        self.module, self.pool, self.times, self.drop = denoiser, pool, times, drop
        self.denoiser = denoiser

    def loss(self, step: int, size: int, generator: torch.Generator) -> Loss:
        """The loss of ``size`` random examples, and its mean in ten bins of t."""
        rows = self.pool.draw(size, generator)
        device = device_of(self.module)
        x0 = self.pool.latents(rows).to(device)
        t = self.times.draw(size, generator)
        dropped = torch.rand(size, generator=generator) < self.drop
        cond = self.pool.conditions(rows, dropped)
        eps = torch.randn(x0.shape, generator=generator).to(device)
        each = self.denoiser.loss(x0, eps, levels(self.denoiser, t), cond)
        return Loss(value=each.mean(), figures={"bins": by_bin(each.detach(), t)})


def device_of(module: torch.nn.Module) -> torch.device:
    """Where the parameters of ``module`` are; the CPU if it has none."""
    return next((p.device for p in module.parameters()), torch.device("cpu"))


def levels(denoiser: Denoiser, t: Tensor) -> Level:
    """The denoiser's levels at times ``t`` (B,), as float32 vectors."""
    rows = [denoiser.schedule.level(float(value)) for value in t]
    parts = zip(*rows, strict=True)
    return Level(*(torch.tensor(p, dtype=torch.float32) for p in parts))  # type: ignore[arg-type]


def by_bin(values: Tensor, t: Tensor) -> Tensor:
    """Means of ``values`` in ten equal bins of ``t`` in [0, 1]; nan where a bin is empty."""
    index, values = (t * BINS).long().clamp(0, BINS - 1), values.cpu()
    total = torch.zeros(BINS).index_add_(0, index, values.to(torch.float32))
    return total / torch.zeros(BINS).index_add_(0, index, torch.ones_like(values, dtype=torch.float32))


@torch.no_grad()
def validation(denoiser: Denoiser, pool: Pool, count: int = 128, seed: int = 1234) -> Tensor:
    """Losses in ten bins of t on fixed (example, level, noise) triples: the same at every call, (10,)."""
    generator = torch.Generator().manual_seed(seed)
    count, device = min(count, len(pool)), device_of(denoiser)
    rows = torch.randperm(len(pool), generator=generator)[:count]
    total = []
    for k in range(BINS):
        t = (k + torch.rand(count, generator=generator)) / BINS
        x0 = pool.latents(rows).to(device)
        eps = torch.randn(x0.shape, generator=generator).to(device)
        cond = pool.conditions(rows, torch.zeros(count, dtype=torch.bool))
        total.append(denoiser.loss(x0, eps, levels(denoiser, t.clamp(1e-4, 1)), cond).mean())
    return torch.stack(total).cpu()
