"""DPM-Solver with steps of its own choice: an embedded pair of orders, and a controller of the step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from sfumato.errors import InvalidRequest
from sfumato.process.between import level_at
from sfumato.process.estimate import Denoise, Estimate, Fresh
from sfumato.process.level import Level
from sfumato.process.vector import Vector, blend, scaled_rms
from sfumato.samplers.polynomial import exponential

LEAST = 1e-6
"""The least step in log(alpha / sigma), below which a walk has lost its way."""


@dataclass
class Controller:
    """A PID controller of the step h in lambda (Soederlind 2003), with the limits of k-diffusion's.

    A step is accepted if the factor that its error asks for is at least ``safety``.
    """

    h: float
    order: int
    p: float
    i: float
    d: float
    safety: float
    past: list[float] = field(default_factory=list)

    def accept(self, error: float) -> bool:
        """Whether a step whose error is ``error`` times what is allowed stands; sets the next step in any case."""
        inverse = 1 / (error + 1e-8)
        before, long_before = self.past or (inverse, inverse)
        factor = (
            inverse ** ((self.p + self.i + self.d) / self.order)
            * before ** (-(self.p + 2 * self.d) / self.order)
            * long_before ** (self.d / self.order)
        )
        factor = 1 + math.atan(factor - 1)
        self.h *= factor
        if not self.past:
            self.past = [inverse, inverse]
        if factor >= self.safety:
            self.past = [inverse, self.past[0]]
            return True
        return False


async def dpm_adaptive(
    x: Vector,
    grid: Sequence[Level],
    denoise: Denoise,
    fresh: Fresh,
    *,
    order: int = 3,
    rtol: float = 0.05,
    atol: float = 0.0078,
    h_init: float = 0.05,
    pcoeff: float = 0.0,
    icoeff: float = 1.0,
    dcoeff: float = 0.0,
    accept_safety: float = 0.81,
) -> Vector:
    """DPM-Solver-12 (``order`` 2) or DPM-Solver-23 (3) with adaptive steps (Lu et al. 2022a, adaptive step size).

    Of the grid it walks from the first level to the last and chooses the levels between. ``h_init`` is the first step
    in lambda; a step stands if the two solutions differ by about ``max(atol, rtol |x|)``, x at the scale of its
    level and the root mean square taken over its values; the coefficients and ``accept_safety`` are the
    controller's. Where lambda is infinite it does as the grid says: a grid that begins in pure noise gives its first
    step, one that ends without noise its last, both first order. Raises InvalidRequest for another order, tolerances
    that are not positive, and an estimate that is not finite or steps that shrink to nothing.
    """
    if order not in (2, 3):
        raise InvalidRequest(f"order = {order} is outside what 'dpm_adaptive' allows: 2 or 3")
    if not (rtol > 0 and atol > 0 and h_init > 0):
        raise InvalidRequest(
            f"'dpm_adaptive' needs rtol, atol and h_init above 0; these are {rtol:g}, {atol:g} and {h_init:g}"
        )
    levels = list(grid)
    if levels[0].alpha == 0 and len(levels) > 1:
        x = (await denoise(x, levels[0])).move(levels[1])
        del levels[0]
    at, end = levels[0], levels[-1] if levels[-1].sigma > 0 else levels[-2] if len(levels) > 1 else levels[0]
    pace = Controller(h_init, order, pcoeff, icoeff, dcoeff, accept_safety)
    before = x
    here: Estimate | None = None
    while at.lam < end.lam:
        if here is None:
            here = await denoise(x, at)
        lam = at.lam + pace.h
        to = end if lam >= end.lam - LEAST else level_at(grid, lam)
        low, high = await _pair(here, to, grid, denoise, order)
        error = scaled_rms(high - low, low, before, atol, rtol)
        if not math.isfinite(error) or pace.h < LEAST:
            raise InvalidRequest(
                f"'dpm_adaptive' finds no step that keeps within rtol = {rtol:g}, atol = {atol:g} at "
                f"log(alpha / sigma) = {at.lam:.3g}: the estimates are not smooth or not finite; allow more or use "
                f"a sampler of fixed steps"
            )
        if pace.accept(error):
            x, before, at, here = high, low, to, None
    if levels[-1].sigma == 0 and len(levels) > 1:
        x = (await denoise(x, at)).move(levels[-1])
    return x


async def _pair(
    here: Estimate, to: Level, grid: Sequence[Level], denoise: Denoise, order: int
) -> tuple[Vector, Vector]:
    """x at ``to`` by methods of order - 1 and order (Lu et al. 2022a, algorithms 1 and 2; r1 = 1/3, r2 = 2/3).

    Both share their evaluations: DDIM and DPM-Solver-2, or DPM-Solver-2 from a third of the step and DPM-Solver-3.
    """
    start = here.at.lam
    step = to.lam - start
    if order == 2:
        middle = level_at(grid, start + step / 2)
        there = await denoise(here.move(middle), middle)
        return here.move(to), here.along(there.eps).move(to)

    def bent(slope: float, eps: Vector) -> Estimate:
        return here.along(blend(1 - slope, here.eps, slope, eps))

    third, two_thirds = (level_at(grid, start + part * step) for part in (1 / 3, 2 / 3))
    first = await denoise(here.move(third), third)
    ahead = bent(2 * exponential(-2 / 3 * step, 2)[1], first.eps).move(two_thirds)
    second = await denoise(ahead, two_thirds)
    return bent(1.5, first.eps).move(to), bent(1.5 * exponential(-step, 2)[1], second.eps).move(to)
