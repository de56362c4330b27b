"""Multistep rules that carry a polynomial through past estimates over the step ahead, and their samplers.

The ODE is ``d(x / alpha) = eps d(sigma / alpha)``, or ``d(x / sigma) = x0 d(alpha / sigma)``: each rule takes the
mean of one end of the line over the step, and they differ in which end and in what variable it is a polynomial.

=============  ====  ========================  =========================================================
rule           end   polynomial in             so its error falls at
=============  ====  ========================  =========================================================
lms            eps   sigma / alpha             the number of estimates
deis           eps   log(sigma / alpha)        the number of estimates
ipndm          eps   the number of the step    2, or more where sigma / alpha is even over the steps
res_multistep  x0    log(alpha / sigma)        the number of estimates, 2
dpmpp_3m       x0    log(alpha / sigma)        the number of estimates, 3
=============  ====  ========================  =========================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from sfumato.errors import InvalidRequest
from sfumato.process.estimate import Bent, Denoise, Estimate, Fresh, Line
from sfumato.process.level import Level
from sfumato.process.vector import Vector
from sfumato.samplers.multistep import multistep
from sfumato.samplers.polynomial import Shares, flat, over_lambda, over_ratio, weights
from sfumato.samplers.rules import ddim, dpmpp_2m, gradient_estimation

ADAMS = tuple(weights([-float(j) for j in range(n)], flat(n)) for n in range(1, 5))
"""Adams and Bashforth's weights for 1 to 4 even steps, newest first: (1), (3/2, -1/2), (23/12, -16/12, 5/12) ..."""


def lms(past: Sequence[Estimate], to: Level) -> Line:
    """eps as a polynomial in sigma / alpha, integrated exactly (Hairer et al. 1993, section III.5).

    k-diffusion's LMS, which integrates numerically. From pure noise, where sigma / alpha is infinite, the newest
    estimate alone; past estimates at that level are left out. The step to sigma = 0 is of full order: nothing is
    infinite there.
    """
    return summed(past, "eps", over_ratio(levels(past), to))


def deis(past: Sequence[Estimate], to: Level) -> Line:
    """DEIS with a polynomial in log rho, rho = sigma / alpha (Zhang & Chen 2023, tAB-DEIS with this variable for t).

    Written as the mean of eps over rho with the weight ``d rho = e^(-h s) ds`` in s = (lambda - lambda_now) / h. From
    pure noise and to sigma = 0, where lambda is infinite, the newest estimate alone.
    """
    return summed(past, "eps", over_lambda(levels(past), past[-1].at, to, -1.0))


def ipndm(past: Sequence[Estimate], to: Level) -> Line:
    """The improved PNDM: eps by the fixed weights of Adams and Bashforth (Zhang & Chen 2023, iPNDM).

    The number of the step is the variable, as in PNDM (Liu et al. 2022b), and orders rise from 1 at
    the start. From pure noise the newest estimate alone, where x does not depend on eps.
    """
    if past[-1].at.alpha == 0:
        return past[-1]
    return summed(past, "eps", (tuple(range(len(past))), ADAMS[len(past) - 1]))


def exponential_x0(past: Sequence[Estimate], to: Level, curvature: float = 1.0) -> Line:
    """x0 as a polynomial in lambda = log(alpha / sigma), integrated exactly under ``d(alpha / sigma) = e^lambda``.

    Of two estimates this is RES's multistep method (Zhang et al. 2023, with phi_1 and phi_2), of three
    DPM-Solver++(3M). ``curvature`` is a factor of the second moment. From pure noise and to sigma = 0, where lambda
    is infinite, the newest estimate alone.
    """
    return summed(past, "x0", over_lambda(levels(past), past[-1].at, to, 1.0, curvature))


def levels(past: Sequence[Estimate]) -> tuple[Level, ...]:
    """The levels of estimates, newest first."""
    return tuple(estimate.at for estimate in reversed(past))


def summed(past: Sequence[Estimate], end: Literal["x0", "eps"], shares: Shares) -> Line:
    """The newest estimate with the weighted sum of past x0 or eps for its own."""
    picks, by = shares
    if len(picks) == 1:
        return past[-1]
    found = [past[-1 - pick] for pick in picks]
    return Bent(past[-1], end, by, [e.x0 for e in found] if end == "x0" else [e.eps for e in found])


async def walk_lms(
    x: Vector, grid: Sequence[Level], denoise: Denoise, fresh: Fresh, *, order: int = 4
) -> Vector:
    """The linear multistep sampler of ``order`` 1 to 4 (InvalidRequest beyond), lower at the start."""
    return await multistep(x, grid, denoise, fresh, rules=(lms,) * within("lms", order, 4))


async def walk_deis(
    x: Vector, grid: Sequence[Level], denoise: Denoise, fresh: Fresh, *, order: int = 3
) -> Vector:
    """DEIS in log rho of ``order`` 1 to 4 (InvalidRequest beyond), lower at the start; the authors advise 3."""
    return await multistep(x, grid, denoise, fresh, rules=(deis,) * within("deis", order, 4))


async def walk_ipndm(
    x: Vector, grid: Sequence[Level], denoise: Denoise, fresh: Fresh, *, order: int = 4
) -> Vector:
    """The improved PNDM with up to ``order`` estimates, 1 to 4 (InvalidRequest beyond), fewer at the start."""
    return await multistep(x, grid, denoise, fresh, rules=(ipndm,) * within("ipndm", order, 4))


async def walk_dpmpp_3m(
    x: Vector, grid: Sequence[Level], denoise: Denoise, fresh: Fresh, *, curvature: float = 1.0
) -> Vector:
    """DPM-Solver++(3M): DDIM, then 2M, then the third-order rule.

    The third moment is the second derivative's, which is twice the second divided difference. The authors' code,
    diffusers and k-diffusion take the difference once, which leaves an error of second order; ``curvature`` 0.5
    does as they do.
    """

    def third(past: Sequence[Estimate], to: Level) -> Line:
        return exponential_x0(past, to, curvature)

    return await multistep(x, grid, denoise, fresh, rules=(ddim, dpmpp_2m, third))


async def walk_gradient(
    x: Vector, grid: Sequence[Level], denoise: Denoise, fresh: Fresh, *, gamma: float = 2.0
) -> Vector:
    """Gradient estimation with ``gamma``, which 1 turns into DDIM."""

    def second(past: Sequence[Estimate], to: Level) -> Line:
        return gradient_estimation(past, to, gamma)

    return await multistep(x, grid, denoise, fresh, rules=(ddim, second))


def within(name: str, order: int, most: int) -> int:
    """``order`` if it is 1 to ``most``, else InvalidRequest."""
    if not 1 <= order <= most:
        raise InvalidRequest(f"order = {order} is outside what {name!r} allows: 1 to {most}")
    return order
