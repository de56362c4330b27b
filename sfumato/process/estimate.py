"""What a denoiser answers: both ends of the line ``x = alpha x0 + sigma eps``."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sfumato.process.level import Level

Vector = Any
"""Anything that can be added to itself and multiplied by floats: float, complex, a torch tensor."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """The clean picture ``x0`` and the noise ``eps`` that a denoiser sees in x at level ``at``.

    Invariant, unless a wrapper says otherwise: ``x = at.alpha x0 + at.sigma eps``. Estimates at one level form a
    vector space, so guidance is arithmetic: ``n + w * (p - n)`` acts on both ends alike, and the level of the
    left operand is kept.
    """

    at: Level
    x0: Vector
    eps: Vector

    def __add__(self, other: Estimate) -> Estimate:
        """The sum of both ends."""
        return Estimate(self.at, self.x0 + other.x0, self.eps + other.eps)

    def __sub__(self, other: Estimate) -> Estimate:
        """The difference of both ends."""
        return Estimate(self.at, self.x0 - other.x0, self.eps - other.eps)

    def __mul__(self, factor: Vector) -> Estimate:
        """Both ends times ``factor``."""
        return Estimate(self.at, factor * self.x0, factor * self.eps)

    __rmul__ = __mul__

    def towards(self, x0: Vector) -> Estimate:
        """The estimate of the same x that points at ``x0``: eps makes up the difference. Needs sigma > 0."""
        return Estimate(self.at, x0, self.eps + (self.at.alpha / self.at.sigma) * (self.x0 - x0))

    def move(self, to: Level, std: float = 0.0, fresh: Vector = 0.0) -> Vector:
        """The x at level ``to`` on this line, with noise of ``std`` exchanged for ``fresh`` (unit variance).

        ``alpha_to x0 + sqrt(sigma_to^2 - std^2) eps + std fresh`` (Song et al. 2021a, equation 12). With std 0
        this is DDIM, Euler's step of the flow and of the probability-flow ODE, all at once. ``std`` is at most
        ``to.sigma``.
        """
        kept = math.sqrt(max(0.0, to.sigma * to.sigma - std * std))
        moved = to.alpha * self.x0 + kept * self.eps
        return moved + std * fresh if std else moved


Denoise = Callable[[Vector, Level], Awaitable[Estimate]]
"""What a sampler awaits and guidance wraps: the estimate for x at a level."""

Fresh = Callable[[Level, Level], Vector]
"""Fresh noise of unit variance for the step between two levels."""

Walk = Callable[[Vector, Sequence[Level], Denoise, Fresh], Awaitable[Vector]]
"""A sampler: from x at the first level of a grid to x at its last, ``await walk(x, grid, denoise, fresh)``."""
