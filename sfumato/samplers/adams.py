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

import math
from collections.abc import Sequence

from sfumato.errors import InvalidRequest
from sfumato.process.estimate import Bent, Denoise, Estimate, Fresh, Line
from sfumato.process.level import Level
from sfumato.process.vector import Vector
from sfumato.samplers.multistep import multistep
from sfumato.samplers.polynomial import exponential, flat, weights
from sfumato.samplers.rules import ddim, dpmpp_2m, gradient_estimation

ADAMS = tuple(tuple(weights([-float(j) for j in range(n)], flat(n))) for n in range(1, 5))
"""Adams and Bashforth's weights for 1 to 4 even steps, newest first: (1), (3/2, -1/2), (23/12, -16/12, 5/12) ..."""


def lms(past: Sequence[Estimate], to: Level) -> Line:
    """eps as a polynomial in sigma / alpha, integrated exactly (Hairer et al. 1993, section III.5).

    k-diffusion's LMS, which integrates numerically. From pure noise, where sigma / alpha is infinite, the newest
    estimate alone; past estimates at that level are left out. The step to sigma = 0 is of full order: nothing is
    infinite there.
    """
    now = past[-1]
    if now.at.alpha == 0 or to.alpha == 0:
        return now
    here, ahead = now.at.ratio, to.ratio
    kept, nodes = apart(past, [e.at.ratio for e in past], here, ahead - here)
    return _by_eps(kept, weights(nodes, flat(len(nodes))))


def deis(past: Sequence[Estimate], to: Level) -> Line:
    """DEIS with a polynomial in log rho, rho = sigma / alpha (Zhang & Chen 2023, tAB-DEIS with this variable for t).

    Written as the mean of eps over rho with the weight ``d rho = e^(-h s) ds`` in s = (lambda - lambda_now) / h. From
    pure noise and to sigma = 0, where lambda is infinite, the newest estimate alone.
    """
    now = past[-1]
    ahead = to.lam - now.at.lam
    if not math.isfinite(ahead):
        return now
    kept, nodes = apart(past, [e.at.lam for e in past], now.at.lam, ahead)
    return _by_eps(kept, weights(nodes, exponential(-ahead, len(nodes))))


def ipndm(past: Sequence[Estimate], to: Level) -> Line:
    """The improved PNDM: eps by the fixed weights of Adams and Bashforth (Zhang & Chen 2023, iPNDM).

    The number of the step is the variable, as in PNDM (Liu et al. 2022b), and orders rise from 1 at
    the start. From pure noise the newest estimate alone, where x does not depend on eps.
    """
    if past[-1].at.alpha == 0:
        return past[-1]
    return _by_eps(past[::-1], ADAMS[len(past) - 1])


def exponential_x0(past: Sequence[Estimate], to: Level, curvature: float = 1.0) -> Line:
    """x0 as a polynomial in lambda = log(alpha / sigma), integrated exactly under ``d(alpha / sigma) = e^lambda``.

    Of two estimates this is RES's multistep method (Zhang et al. 2023, with phi_1 and phi_2), of three
    DPM-Solver++(3M). ``curvature`` is a factor of the second moment. From pure noise and to sigma = 0, where lambda
    is infinite, the newest estimate alone.
    """
    now = past[-1]
    ahead = to.lam - now.at.lam
    if not math.isfinite(ahead):
        return now
    kept, nodes = apart(past, [e.at.lam for e in past], now.at.lam, ahead)
    if len(kept) == 1:
        return now
    moments = exponential(ahead, len(nodes))
    moments[2:] = [curvature * moment for moment in moments[2:]]
    return Bent(now, "x0", weights(nodes, moments), [e.x0 for e in kept])


def apart(
    past: Sequence[Estimate], places: Sequence[float], here: float, ahead: float
) -> tuple[list[Estimate], list[float]]:
    """Newest first, the estimates at finite ``places`` that no newer one has, and their nodes.

    A node is a place as seen from ``here``, in units of the step ``ahead``. Of a step of no length the newest alone.
    """
    if ahead == 0:
        return [past[-1]], [0.0]
    kept: dict[float, Estimate] = {}
    for estimate, place in zip(reversed(past), reversed(places), strict=True):
        if math.isfinite(place):
            kept.setdefault((place - here) / ahead, estimate)
    return list(kept.values()), list(kept)


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


def _by_eps(kept: Sequence[Estimate], by: Sequence[float]) -> Line:
    """The newest estimate, which comes first, with the weighted sum of all eps for its own."""
    return Bent(kept[0], "eps", by, [e.eps for e in kept]) if len(kept) > 1 else kept[0]
