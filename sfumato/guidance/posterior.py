"""Posterior guidance: from a denoiser of x to a denoiser of x given an observation ``y = A(x0) + noise``.

Each method estimates E[x0 | x, y] and leaves x on its line, ``x = alpha x0 + sigma eps``, so every sampler may walk
with it; where a paper's own form does not, its docstring says so. With m = E[x0 | x] and J = dm / dx:

=======  ===================================================  ==========================================
dps      ``m + scale / room J^T A^T r / |r|``, r = y - A m    a step on x down the gradient of ``|r|``
pigdm    ``m + sigma^2 / alpha J^T A^T S^-1 r``               S = rho^2 A A^T + noise^2, Cov[x0 | x] is rho^2
mmps     ``m + V A^T (A V A^T + noise^2)^-1 r``               V = sigma^2 / alpha J, which is Cov[x0 | x]
diffpir  ``argmin_x |y - A x|^2 + penalty |x - m|^2``         no gradient of the network
=======  ===================================================  ==========================================

rho^2 = sigma^2 / (sigma^2 + alpha^2), which is Cov[x0 | x] for data of unit variance. Operators that are not linear
are taken as their derivative at m. In pure noise (alpha = 0) J says nothing of the covariance, 0 / 0; pigdm and
mmps use 1 there, that of data of unit variance. All but diffpir differentiate the network: ask a model with
``grad=True``, ``model.denoise(x, at, cond, grad=True)``.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Generator, Sequence
from dataclasses import replace
from itertools import pairwise
from types import coroutine
from typing import Any

import torch
from torch import Tensor

from sfumato.errors import InvalidRequest, UnknownName
from sfumato.guidance.guide import Sampler
from sfumato.guidance.operators import Observation, inner, solve
from sfumato.process.estimate import Denoise, Estimate
from sfumato.process.level import Level, posterior_std
from sfumato.process.spec import check_options, parse
from sfumato.process.vector import Vector


def dps(
    denoise: Denoise, observed: Observation, grid: Sequence[Level], *, scale: float = 1.0, eta: float = 1.0
) -> Denoise:
    """Diffusion posterior sampling (Chung et al. 2023, algorithm 1; ``scale`` is the step as their code has it).

    Their step ends with ``x_to -= scale grad_x |y - A m(x)|``. Here the same is said of x0: at a fixed x,
    x_to grows by ``room = alpha_to - alpha kept / sigma`` for each unit of x0, kept = sqrt(sigma_to^2 - std^2)
    being what the step keeps of eps, so x0 is moved by ``-scale / room`` times the gradient, and eps makes up the
    difference. x_to is then exactly theirs in ddim (``eta=0``) and ddpm (``eta=1``, their choice), std being eta
    times the posterior's; other samplers see the estimate of that step.

    A step of fixed length belongs to a step of a grid: more steps guide more. ``grid`` is the one that is walked,
    and InvalidRequest is raised at a level where none of its steps begins, which is between its levels and at a
    last one that has noise; so is it for ``eta`` outside 0 to 1.
    """
    if not 0 <= eta <= 1:
        raise InvalidRequest(f"eta = {eta:g} is outside what is allowed: 0 to 1")
    steps = {(at.alpha, at.sigma): to for at, to in pairwise(grid) if to.ratio < at.ratio}

    async def guided(x: Vector, at: Level) -> Estimate:
        to = steps.get((at.alpha, at.sigma))
        if to is None:
            raise InvalidRequest(
                f"dps is part of a step, and the sampler asked at t = {at.t:g}, where no step of the grid begins: "
                "choose a sampler that evaluates once a step, such as ddim, ddpm or dpmpp_2m"
            )
        found, pull = await _differentiable(denoise, x, at)
        kept = math.sqrt(max(0.0, to.sigma**2 - (eta * posterior_std(at, to)) ** 2))
        room = to.alpha - at.alpha * kept / at.sigma
        linear = observed.linearised(found.x0)
        norm = inner(linear.residual, linear.residual).sqrt()
        unit = linear.residual / torch.where(norm > 0, norm, 1)
        return _towards(found, found.x0 + (scale / room) * pull(linear.adjoint(unit)))

    return guided


def pigdm(denoise: Denoise, observed: Observation, *, weight: str = "score", iterations: int = 50) -> Denoise:
    """Pseudoinverse guidance (Song et al. 2023): x0 given x as a Gaussian of variance rho^2.

    ``weight="score"`` adds the gradient of log p(y | x) under that Gaussian to the score; on data of unit variance
    it is exact. ``weight="adaptive"`` is the paper's algorithm 1: x0 moves by ``alpha rho^2`` times the gradient
    in place of sigma^2 / alpha, and eps stays, so the two ends leave the line of x, and only samplers that are
    ``off_line`` may walk with it. S is inverted by at most ``iterations`` of conjugate gradients on A alone;
    without noise that is A's pseudoinverse.
    """
    if weight not in ("score", "adaptive"):
        raise UnknownName("weight of pigdm", weight, ("score", "adaptive"))

    async def guided(x: Vector, at: Level) -> Estimate:
        found, pull = await _differentiable(denoise, x, at)
        variance = at.sigma**2 / (at.sigma**2 + at.alpha**2)
        linear = observed.linearised(found.x0)
        seen = linear.nearest(variance, observed.noise_std**2, iterations)
        if weight == "adaptive":
            return replace(found, x0=found.x0 + (at.alpha * variance) * pull(seen))
        return _towards(found, found.x0 + _covariance(pull, at)(seen))

    return guided


def mmps(denoise: Denoise, observed: Observation, *, iterations: int = 5) -> Denoise:
    """Moment matching (Rozet et al. 2024): x0 given x as the Gaussian of its true mean and covariance.

    Its covariance is ``V = sigma^2 / alpha J`` (Tweedie's formula to second order), so on Gaussian data, with
    ``iterations`` of conjugate gradients enough (as many as y has values do), this is E[x0 | x, y] exactly. Each
    iteration costs one vector-Jacobian product of the network; few regularise where J is not quite symmetric.
    """

    async def guided(x: Vector, at: Level) -> Estimate:
        found, pull = await _differentiable(denoise, x, at)
        covariance = _covariance(pull, at)
        linear = observed.linearised(found.x0)

        def apply(p: Tensor) -> tuple[Tensor, Tensor]:
            seen = covariance(linear.adjoint(p))
            return linear.forward(seen) + observed.noise_std**2 * p, seen

        return _towards(found, found.x0 + solve(apply, linear.residual, iterations))

    return guided


def diffpir(
    denoise: Denoise, observed: Observation, *, lambda_: float = 1.0, iterations: int = 50
) -> Denoise:
    """DiffPIR's data step (Zhu et al. 2023, algorithm 1): the x0 nearest to m that explains y.

    ``argmin_x |y - A x|^2 + penalty |x - m|^2`` with ``penalty = lambda noise^2 alpha^2 / sigma^2``, by at most
    ``iterations`` of conjugate gradients; without noise, the nearest x0 that fits y. Their sampler exchanges the
    share zeta of the noise in each step, ``std = sqrt(zeta) sigma_to``; any other may walk with the estimate as
    well. InvalidRequest for ``lambda_`` that is not above 0.
    """
    if not 0 < lambda_ < math.inf:
        raise InvalidRequest(f"lambda_ = {lambda_:g} is outside what is allowed: above 0, finite")

    async def guided(x: Vector, at: Level) -> Estimate:
        found = await denoise(_rows(x), at)
        penalty = lambda_ * (observed.noise_std * at.alpha / at.sigma) ** 2
        linear = observed.linearised(found.x0)
        return _towards(found, found.x0 + linear.nearest(1.0, penalty, iterations))

    return guided


POSTERIOR: dict[str, Callable[..., Denoise]] = {"diffpir": diffpir, "dps": dps, "mmps": mmps, "pigdm": pigdm}
"""The methods by name; their keyword-only parameters are options."""


def posterior(text: str, denoise: Denoise, observed: Observation, grid: Sequence[Level]) -> Denoise:
    """The method called ``text``, with options where it has some, ``"mmps(iterations=3)"``, around ``denoise``.

    ``grid`` is the one that will be walked. Raises UnknownName for a name or an option that does not exist.
    """
    name, options = parse(text, "posterior method")
    if name not in POSTERIOR:
        raise UnknownName("posterior method", name, POSTERIOR)
    method = POSTERIOR[name]
    check_options(name, method, options)
    needed = (denoise, observed, grid) if method is dps else (denoise, observed)
    return method(*needed, **options)


def check(text: str, sampler: Sampler) -> None:
    """Refuse the method called ``text`` with a ``sampler`` that cannot walk with it, with the reason.

    ``dps`` finds out at the first level that is not on its grid; here it is refused with samplers that choose their
    levels themselves.
    """
    name, options = parse(text, "posterior method")
    if name == "pigdm" and options.get("weight") == "adaptive" and not sampler.off_line:
        raise InvalidRequest(
            f"pigdm(weight=adaptive) and the sampler {sampler.name!r} do not go together: it gives a picture and a "
            "noise that do not add up to x, and this sampler uses x itself; use pigdm(weight=score), or ddim or ddpm"
        )
    if name == "dps" and sampler.evaluations is None:
        raise InvalidRequest(
            f"dps and the sampler {sampler.name!r} do not go together: dps is part of a step of the grid, and this "
            "sampler chooses its own steps; use ddim, ddpm or dpmpp_2m, or the method mmps"
        )


async def _differentiable(
    denoise: Denoise, x: Vector, at: Level
) -> tuple[Estimate, Callable[[Tensor], Tensor]]:
    """The estimate of ``x``, without its graph, and the function v -> J^T v of rows like x0, J = dx0 / dx."""
    free = _rows(x).detach().requires_grad_()
    found = await _with_grad(denoise, free, at)
    x0 = found.x0

    def pull(v: Tensor) -> Tensor:
        slope = (
            torch.autograd.grad(x0, free, v, retain_graph=True, allow_unused=True)[0]
            if x0.requires_grad
            else None
        )
        if slope is None:
            raise InvalidRequest(
                "this posterior method differentiates the denoiser, whose answer has no gradient: ask a model with "
                "model.denoise(x, at, cond, grad=True), leave out torch.no_grad, or choose diffpir"
            )
        return slope

    return replace(found, x0=x0.detach(), eps=found.eps.detach()), pull


@coroutine
def _with_grad(denoise: Denoise, x: Tensor, at: Level) -> Generator[Any, Any, Estimate]:
    """``await denoise(x, at)`` with gradients on while it runs, and only then.

    Whoever drives the coroutines may run others between an ask and its answer, so torch's switch, which is the
    thread's, is not left on across one.
    """
    with torch.enable_grad():
        steps: Any = _started(denoise(x, at))
    resume: Callable[[Any], Any] = steps.send
    reply: Any = None
    while True:
        try:
            with torch.enable_grad():
                ask = resume(reply)
        except StopIteration as end:
            found: Estimate = end.value
            return found
        try:
            reply = yield ask
            resume = steps.send
        except GeneratorExit:
            steps.close()
            raise
        except BaseException as error:
            reply, resume = error, steps.throw


def _started(awaitable: Awaitable[Estimate]) -> Generator[Any, Any, Estimate]:
    return awaitable.__await__()


def _rows(x: Vector) -> Tensor:
    """``x`` if it is rows of a tensor that can be differentiated; InvalidRequest otherwise."""
    if not isinstance(x, Tensor) or x.ndim < 2 or not x.is_floating_point():
        raise InvalidRequest("posterior guidance needs x as a tensor of rows of floats, (B, ...)")
    if x.is_inference():
        raise InvalidRequest(
            "posterior guidance needs gradients, which torch.inference_mode forbids; use torch.no_grad"
        )
    return x


def _covariance(pull: Callable[[Tensor], Tensor], at: Level) -> Callable[[Tensor], Tensor]:
    """v -> Cov[x0 | x] v, ``sigma^2 / alpha J^T v``; v itself in pure noise."""
    if at.alpha == 0:
        return lambda v: v
    factor = at.sigma**2 / at.alpha
    return lambda v: factor * pull(v)


def _towards(found: Estimate, x0: Tensor) -> Estimate:
    return replace(found.towards(x0), learned=found.learned)
