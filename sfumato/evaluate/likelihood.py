"""The exact log-likelihood of pictures under a denoiser, by the probability-flow ODE.

The ODE ``dx = x0 d alpha + eps d sigma`` is a change of variables from noise to data, so the log density of a
picture is that of the noise it flows to plus the integral of the divergence on the way (Song et al. 2021b, section
4.3 and appendix D.2). In ``u = x / h``, h = hypot(alpha, sigma), and the angle with ``alpha = h cos``, ``sigma = h
sin``, every process is one ODE, ``du / d angle = cos eps - sin x0``, which has no pole at either end: pure noise is
an angle of 90 degrees. The denoiser is asked in its own frame, at x = h u.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from sfumato.engine.run import run
from sfumato.errors import InvalidRequest
from sfumato.process.estimate import Estimate
from sfumato.process.level import Level
from sfumato.process.schedule import Schedule

Answers = Callable[[Any, Level], Any]
Density = Callable[[Tensor, Level], Tensor]

_MARGIN = 0.1  # how far beyond a right angle the nodes would crowd, were there any


def log_likelihood(
    denoise: Answers,
    x0: Tensor,
    schedule: Schedule,
    *,
    steps: int = 50,
    probes: int = 0,
    seeds: Sequence[int] | None = None,
    prior: Density | None = None,
) -> Tensor:
    """The log density (B,), in nats and float64, of rows ``x0`` (B, ...) under the law that ``denoise`` samples.

    It is the density of x / alpha at the schedule's least level: that of the data with a trace of noise, which
    tends to the data's own as t_min does to 0. From there ``steps`` steps of the classical Runge-Kutta method go to
    t_max, on angles even in their logarithm near the clean end; the error falls with the fourth power of the steps.

    ``denoise(x, level)`` gets all rows and a level of floats and returns an Estimate, or an awaitable of one; it must
    be differentiable (``model.denoise(x, at, cond, grad=True)``), and rows must not touch each other. The divergence
    is exact, by one vector-Jacobian product for each value of a row, or, with ``probes`` above 0, Hutchinson's
    estimate by that many random signs, each fixed along the whole way and drawn by the row's own seed (``seeds``,
    0, 1 ... by default): the result is then unbiased, and its spread falls as the root of ``probes``.

    ``prior(x, level)`` is the log density (B,) at the noisy end; by default that of N(0, alpha^2 + sigma^2), which is
    exact from pure noise (alpha = 0), N(0, 1) on variance-preserving processes, and on an exploding one that of data
    of unit variance. InvalidRequest for steps, probes or seeds outside what is allowed, and for a denoiser whose
    answer has no gradient or another shape.
    """
    if steps < 1 or probes < 0:
        raise InvalidRequest(
            f"steps = {steps} and probes = {probes} are outside what is allowed: steps of 1 and above, probes of 0 "
            "(exact) and above"
        )
    if not isinstance(x0, Tensor) or x0.ndim < 2 or not x0.is_floating_point():
        raise InvalidRequest("x0 must be a tensor of rows of floats, (B, ...)")
    low, high = schedule.level(schedule.t_min), schedule.level(schedule.t_max)
    signs = _signs(x0, probes, range(len(x0)) if seeds is None else seeds)

    def slope(angle: float, u: Tensor) -> tuple[Tensor, Tensor]:
        at = (
            high if angle == ends[1] else low if angle == ends[0] else schedule.at(-math.log(math.tan(angle)))
        )
        return _velocity(denoise, u, angle, at, signs)

    ends = (math.atan2(low.sigma, low.alpha), math.atan2(high.sigma, high.alpha))
    size = x0[0].numel()
    u = x0 * (low.alpha / math.hypot(low.alpha, low.sigma))
    total = torch.full((len(x0),), size * math.log(low.alpha / math.hypot(low.alpha, low.sigma)))
    total = total.to(x0.device, torch.float64)
    angles = _angles(*ends, steps)
    for a, b in pairwise(angles):
        u, gained = _runge_kutta(slope, u, a, b)
        total = total + gained
    long = math.hypot(high.alpha, high.sigma)
    x = long * u
    if prior is None:
        last = -0.5 * (u.double().square().flatten(1).sum(1) + size * math.log(2 * math.pi * long**2))
    else:
        last = prior(x, high).to(x0.device, torch.float64)
    return total + last + size * math.log(long)


def bits_per_dimension(log_likelihood: Tensor, size: int, *, bits: int = 8) -> Tensor:
    """``-log2 p / size`` of pixels in whole numbers of ``bits`` bits, from log densities of pixels in [-1, 1].

    A value u of 0 to 2^bits - 1 stands for an interval of length ``2 / (2^bits - 1)`` in [-1, 1] (x = u / 127.5 - 1
    for 8 bits), so a density is turned to a probability by + log2(127.5) bits a value. ``size`` is the number of
    values of a picture. Theis et al. 2016: with uniform noise on the pixels (``dequantise``) the mean is an upper
    bound of the true code length. InvalidRequest for ``size`` or ``bits`` below 1.
    """
    if size < 1 or bits < 1:
        raise InvalidRequest(f"size = {size} and bits = {bits} must both be 1 or above")
    return -log_likelihood / (size * math.log(2)) + math.log2((2**bits - 1) / 2)


def dequantise(pixels: Tensor, seeds: Sequence[int] | None = None) -> Tensor:
    """uint8 ``pixels`` (B, ...) as float32 in [-1, 1], each uniform in the interval that rounds to it.

    ``x = (u + v) / 127.5 - 1``, v uniform in [-1/2, 1/2), by the row's own seed (0, 1 ... by default). InvalidRequest
    for pixels that are not uint8, and another number of seeds than rows.
    """
    if pixels.dtype != torch.uint8 or pixels.ndim < 2:
        raise InvalidRequest(f"pixels must be rows of uint8, not {tuple(pixels.shape)} of {pixels.dtype}")
    drawn = _by_row(pixels, range(len(pixels)) if seeds is None else seeds, torch.rand)
    return ((pixels.double() + drawn - 0.5) / 127.5 - 1).float()


def _angles(low: float, high: float, steps: int) -> list[float]:
    """``steps + 1`` angles: log(angle / (limit - angle)) in even steps, the limit a little above a right angle.

    Near the clean end these are even steps of log(sigma / alpha), where estimates change at the rate of the data's
    finest scales; at the noisy end, where nothing does, they are even steps of the angle.
    """
    limit = math.pi / 2 + _MARGIN
    a, b = (math.log(angle / (limit - angle)) for angle in (low, high))
    inner = [limit / (1 + math.exp(-(a + (b - a) * i / steps))) for i in range(1, steps)]
    return [low, *inner, high]


def _runge_kutta(
    slope: Callable[[float, Tensor], tuple[Tensor, Tensor]], u: Tensor, a: float, b: float
) -> tuple[Tensor, Tensor]:
    """One step of the classical fourth-order method from angle ``a`` to ``b``: u there, and the divergence summed."""
    middle, h = (a + b) / 2, b - a
    v1, d1 = slope(a, u)
    v2, d2 = slope(middle, u + (h / 2) * v1)
    v3, d3 = slope(middle, u + (h / 2) * v2)
    v4, d4 = slope(b, u + h * v3)
    return u + (h / 6) * (v1 + 2 * v2 + 2 * v3 + v4), (h / 6) * (d1 + 2 * d2 + 2 * d3 + d4)


def _velocity(
    denoise: Answers, u: Tensor, angle: float, at: Level, signs: Tensor | None
) -> tuple[Tensor, Tensor]:
    """``cos eps - sin x0`` at ``u``, and its divergence in u (B,) float64: exact, or the mean over ``signs``."""
    with torch.enable_grad():
        free = u.detach().requires_grad_()
        found = run(_asked(denoise, math.hypot(at.alpha, at.sigma) * free, at))
        velocity = math.cos(angle) * found.eps - math.sin(angle) * found.x0
    if velocity.shape != u.shape or not velocity.requires_grad:
        raise InvalidRequest(
            f"the likelihood differentiates denoise(x, level), which must answer in x's shape {tuple(u.shape)} and "
            "with a gradient: ask a model with model.denoise(x, at, cond, grad=True)"
        )

    def pull(v: Tensor) -> Tensor:
        return torch.autograd.grad(velocity, free, v, retain_graph=True)[0]

    divergence = torch.zeros(len(u), dtype=torch.float64, device=u.device)
    if signs is None:
        for i in range(u[0].numel()):
            unit = torch.zeros_like(u)
            unit.view(len(u), -1)[:, i] = 1
            divergence += pull(unit).reshape(len(u), -1)[:, i]
    else:
        for sign in signs:
            divergence += (sign * pull(sign)).double().flatten(1).sum(1) / len(signs)
    return velocity.detach(), divergence


async def _asked(denoise: Answers, x: Tensor, at: Level) -> Estimate:
    found: Any = denoise(x, at)
    estimate: Estimate = await found if inspect.isawaitable(found) else found
    return estimate


def _signs(x0: Tensor, probes: int, seeds: Sequence[int]) -> Tensor | None:
    """Random signs (probes, *x0.shape), each row's by its own seed; None for no probes."""
    if probes == 0:
        return None

    def coins(shape: Sequence[int], generator: torch.Generator) -> Tensor:
        return 2 * torch.randint(2, (*shape[:1], probes, *shape[1:]), generator=generator) - 1

    return _by_row(x0, seeds, coins).to(x0.device, x0.dtype).movedim(1, 0)


def _by_row(rows: Tensor, seeds: Sequence[int], draw: Callable[..., Tensor]) -> Tensor:
    """``draw((1, *shape), generator=...)`` for every row, one generator each, on the CPU."""
    if len(seeds) != len(rows):
        raise InvalidRequest(f"{len(rows)} rows need as many seeds; these are {len(seeds)}")
    return torch.cat(
        [draw((1, *rows.shape[1:]), generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    )
