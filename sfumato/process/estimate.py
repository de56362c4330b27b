"""What a denoiser answers: both ends of the line ``x = alpha x0 + sigma eps``."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from sfumato.process.level import Level
from sfumato.process.vector import Vector, blend, mix


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


class Bent:
    """An estimate ``now`` with one end replaced by the sum of ``weights[i] vectors[i]``, moved on without making it.

    What ``now.towards(sum)`` (``end`` "x0") or ``now.along(sum)`` ("eps") would be: ``move`` adds up all vectors in
    one pass, and ``x0``, ``eps`` make the estimate where somebody asks. ``vectors[0]`` is that end of ``now``.
    """

    __slots__ = ("_made", "end", "now", "vectors", "weights")

    def __init__(
        self, now: Estimate, end: Literal["x0", "eps"], weights: Sequence[float], vectors: Sequence[Vector]
    ) -> None:
        """Keep the sum."""
        self.now, self.end, self.weights, self.vectors = now, end, weights, vectors
        self._made: Estimate | None = None

    @property
    def at(self) -> Level:
        """The level of ``now``."""
        return self.now.at

    @property
    def x0(self) -> Vector:
        """The picture's end."""
        return self.made().x0

    @property
    def eps(self) -> Vector:
        """The noise's end."""
        return self.made().eps

    def made(self) -> Estimate:
        """The estimate itself."""
        if self._made is None:
            total = mix(self.weights, self.vectors)
            self._made = self.now.towards(total) if self.end == "x0" else self.now.along(total)
        return self._made

    def move(self, to: Level, std: float = 0.0, fresh: Vector = 0.0, kept: float | None = None) -> Vector:
        """What ``Estimate.move`` of the estimate would give, up to rounding.

        x0 and eps of ``now`` and the sum m end with the factors ``kept a / s``, ``kept`` and ``alpha_to - kept a / s``
        for a new x0, and ``alpha_to``, ``alpha_to s / a`` and ``kept - alpha_to s / a`` for a new eps (a, s the level
        of ``now``). From nearly pure noise the latter cancel, and the estimate is made first.
        """
        at = self.now.at
        if kept is None:
            kept = math.sqrt(max(0.0, to.sigma * to.sigma - std * std)) if std else to.sigma
        if self.end == "x0":
            held = kept * at.alpha / at.sigma
            share, rest, other = to.alpha - held, kept, self.now.eps
        else:
            held = to.alpha * at.sigma / at.alpha
            if held > MOST:
                return self.made().move(to, std, fresh, kept)
            share, rest, other = kept - held, to.alpha, self.now.x0
        first, *more = self.weights
        moved = mix((rest, held + share * first, *(share * w for w in more)), (other, *self.vectors))
        return blend(1.0, moved, std, fresh) if std else moved


MOST = 8.0
"""Up to which factor two vectors that nearly cancel are added as they are."""

Line = Estimate | Bent
"""What a step moves along."""

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
