"""What a denoiser answers: both ends of the line ``x = alpha x0 + sigma eps``."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from sfumato.process.level import Level
from sfumato.process.vector import Vector, blend


@dataclass(frozen=True, slots=True)
class Estimate:
    """The clean picture ``x0`` and the noise ``eps`` that a denoiser sees in x at level ``at``.

    Invariant, unless a wrapper says otherwise: ``x = at.alpha x0 + at.sigma eps``. Estimates at one level form a
    vector space, so guidance is arithmetic: ``n + w * (p - n)`` acts on both ends alike, and the level of the
    left operand is kept.

    ``learned`` is what a network with a learned range of variances says of the noise of the next step: at each
    value a number in [0, 1], from DDPM's least variance (beta tilde) to its largest (beta); None for all others.
    """

    at: Level
    x0: Vector
    eps: Vector
    learned: Vector | None = None

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
        return Estimate(self.at, x0, blend(1.0, self.eps, self.at.alpha / self.at.sigma, self.x0 - x0))

    def along(self, eps: Vector) -> Estimate:
        """The estimate of the same x whose noise is ``eps``: x0 makes up the difference. Needs alpha > 0."""
        return Estimate(self.at, blend(1.0, self.x0, self.at.sigma / self.at.alpha, self.eps - eps), eps)

    def move(self, to: Level, std: float = 0.0, fresh: Vector = 0.0, kept: float | None = None) -> Vector:
        """The x at level ``to`` on this line, with noise of ``std`` exchanged for ``fresh`` (unit variance).

        ``alpha_to x0 + sqrt(sigma_to^2 - std^2) eps + std fresh`` (Song et al. 2021a, equation 12). With std 0
        this is DDIM, Euler's step of the flow and of the probability-flow ODE, all at once. ``std`` is at most
        ``to.sigma``; ``kept`` is the factor of eps where that is not the root above.
        """
        if kept is None:
            kept = math.sqrt(max(0.0, to.sigma * to.sigma - std * std)) if std else to.sigma
        moved = blend(to.alpha, self.x0, kept, self.eps)
        return blend(1.0, moved, std, fresh) if std else moved


Denoise = Callable[[Vector, Level], Awaitable[Estimate]]
"""What a sampler awaits and guidance wraps: the estimate for x at a level."""


class Fresh(Protocol):
    """Fresh noise of unit variance for the step between two levels."""

    def __call__(self, at: Level, to: Level, visit: int = 0) -> Vector:
        """The noise for the step from ``at`` to ``to``.

        Samplers that come back to an interval count their visits, so that a source whose noise is a function
        of the interval gives another draw.
        """
        ...


Walk = Callable[[Vector, Sequence[Level], Denoise, Fresh], Coroutine[Any, Any, Vector]]
"""A sampler: from x at the first level of a grid to x at its last, ``await walk(x, grid, denoise, fresh)``."""
