"""Stochastic samplers of one evaluation a step: how much noise is drawn anew, and the rules that suit it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from sfumato.errors import InvalidRequest
from sfumato.process.estimate import Denoise, Estimate, Fresh, Line
from sfumato.process.level import Level, posterior_std
from sfumato.process.vector import Vector
from sfumato.samplers.adams import levels, summed
from sfumato.samplers.multistep import Churn, multistep
from sfumato.samplers.polynomial import over_lambda
from sfumato.samplers.rules import Rule, ddim, dpmpp_2m


def within(name: str, value: float, low: float, high: float = math.inf) -> float:
    """``value``, or InvalidRequest if the option ``name`` is not between ``low`` and ``high``."""
    if not low <= value <= high:
        room = f"{low:g} and above" if math.isinf(high) else f"{low:g} to {high:g}"
        raise InvalidRequest(f"{name} = {value:g} is outside what is allowed: {room}")
    return value


def louder(fresh: Fresh, s_noise: float) -> Fresh:
    """``fresh`` times ``s_noise``: noise that is not of unit variance (Karras et al. 2022, section 4)."""
    if within("s_noise", s_noise, 0.0) == 1:
        return fresh
    return lambda at, to, visit=0: s_noise * fresh(at, to, visit)


def ancestral_by(eta: float) -> Churn:
    """``eta`` times the posterior's deviation (Song et al. 2021a, equation 16)."""
    within("eta", eta, 0.0, 1.0)
    return lambda at, to: eta * posterior_std(at, to)


def sde_by(eta: float) -> Churn:
    """``sigma_to sqrt(1 - e^(-2 eta h))``, h the step in lambda: the noise of an SDE run with ``eta`` times its noise.

    (Lu et al. 2022b, SDE-DPM-Solver++; Xue et al. 2023, section 4, with eta = tau^2.) Equal to
    ``ancestral_by`` at eta 0 and 1, and not between.
    """
    within("eta", eta, 0.0)

    def std(at: Level, to: Level) -> float:
        if eta == 0 or to.sigma == 0:
            return 0.0
        return to.sigma * math.sqrt(-math.expm1(-2 * eta * max(0.0, to.lam - at.lam)))

    return std


def rectified_by(eta: float) -> Churn:
    """The noise of ancestral steps on a rectified flow.

    The step goes down to the flow's level of ``sigma_to (1 + eta (sigma_to / sigma - 1))``; scaled back to
    ``alpha_to``, its sigma lacks what the noise must add.
    """
    within("eta", eta, 0.0, 1.0)

    def std(at: Level, to: Level) -> float:
        if to.sigma == 0 or to.sigma >= at.sigma:
            return 0.0
        down = to.sigma * (1 + eta * (to.sigma / at.sigma - 1))
        kept = down * to.alpha / (1 - down)
        return math.sqrt(max(0.0, (to.sigma - kept) * (to.sigma + kept)))

    return std


async def ddpm(
    x: Vector, grid: Sequence[Level], denoise: Denoise, fresh: Fresh, *, variance: str = "small"
) -> Vector:
    """Ancestral sampling (Ho et al. 2020, algorithm 2), with the posterior's mean and one of three variances.

    ``variance`` is ``"small"``, beta tilde, right for data of one point; ``"large"``, right for data of unit
    variance, which is beta on a variance-preserving process (Ho et al. 2020, section 3.2); or ``"learned"``, what
    the network says between the logarithms of the two (Nichol & Dhariwal 2021, equation 15). Mean and eps are the
    same in all; a step to sigma = 0 draws nothing. InvalidRequest for another name, and for ``"learned"`` from a
    network that says nothing of it.
    """
    if variance not in ("small", "large", "learned"):
        raise InvalidRequest(f"variance = {variance!r} is not one of 'small', 'large', 'learned'")
    for at, to in pairwise(grid):
        now = await denoise(x, at)
        small = posterior_std(at, to)
        kept = math.sqrt(max(0.0, (to.sigma - small) * (to.sigma + small)))
        if small == 0 or variance == "small":
            x = now.move(to, small, fresh(at, to) if small else 0.0, kept)
        elif variance == "large":
            x = now.move(to, small * _large(at, to), fresh(at, to), kept)
        elif now.learned is None:
            raise InvalidRequest(
                "variance = 'learned' needs a network that was trained to predict variances, and this one was "
                "not: use 'small' or 'large'"
            )
        else:
            x = now.move(to, small, _large(at, to) ** now.learned * fresh(at, to), kept)
    return x


def _large(at: Level, to: Level) -> float:
    """DDPM's largest deviation over its smallest: the posterior's if x0 had unit variance, over that of one x0."""
    here, there = math.hypot(at.alpha, at.sigma), math.hypot(to.alpha, to.sigma)
    return (at.sigma / to.sigma) * (there / here)


async def euler_ancestral(
    x: Vector,
    grid: Sequence[Level],
    denoise: Denoise,
    fresh: Fresh,
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
) -> Vector:
    """Euler steps with ``eta`` times the posterior's noise: DDIM's eta (Song et al. 2021a, equations 12 and 16)."""
    return await multistep(x, grid, denoise, louder(fresh, s_noise), rules=(ddim,), churn=ancestral_by(eta))


async def euler_ancestral_rf(
    x: Vector,
    grid: Sequence[Level],
    denoise: Denoise,
    fresh: Fresh,
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
) -> Vector:
    """Euler's ancestral steps in the form that rectified-flow models use; not ``euler_ancestral``.

    A step goes down past the next level and noise is added on the way back, as the flow's own alpha = 1 - sigma
    asks. It draws less than the posterior's noise. InvalidRequest on levels where alpha + sigma is not 1.
    """
    for at in grid:
        if abs(at.alpha + at.sigma - 1) > 1e-6:
            raise InvalidRequest(
                "the sampler 'euler_ancestral_rf' is for rectified flows (alpha + sigma = 1), and this model's "
                "levels are not: use 'euler_ancestral'"
            )
    return await multistep(x, grid, denoise, louder(fresh, s_noise), rules=(ddim,), churn=rectified_by(eta))


async def dpmpp_2m_sde(
    x: Vector,
    grid: Sequence[Level],
    denoise: Denoise,
    fresh: Fresh,
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
) -> Vector:
    """SDE-DPM-Solver++(2M) (Lu et al. 2022b, appendix): 2M's rule, midpoint form, with the noise of ``sde_by``."""
    rules = (ddim, dpmpp_2m)
    return await multistep(x, grid, denoise, louder(fresh, s_noise), rules=rules, churn=sde_by(eta))


async def dpmpp_2m_sde_heun(
    x: Vector,
    grid: Sequence[Level],
    denoise: Denoise,
    fresh: Fresh,
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
) -> Vector:
    """SDE-DPM-Solver++(2M) in k-diffusion's "heun" form: the line through two x0 integrated exactly."""
    rules = (ddim, integrated(eta))
    return await multistep(x, grid, denoise, louder(fresh, s_noise), rules=rules, churn=sde_by(eta))


async def dpmpp_3m_sde(
    x: Vector,
    grid: Sequence[Level],
    denoise: Denoise,
    fresh: Fresh,
    *,
    eta: float = 1.0,
    s_noise: float = 1.0,
    curvature: float = 0.5,
) -> Vector:
    """DPM-Solver++(3M) SDE as k-diffusion defines it: x0 on a parabola, of which ``curvature`` is kept.

    DPM-Solver++'s published code, and all after it, give the parabola's second-order term half of its integral; 1 is
    the exact integral. The weak order is 2 with either: with fresh noise the differences of x0 are no derivatives.
    """
    rules = (ddim, integrated(eta), integrated(eta, within("curvature", curvature, 0.0)))
    return await multistep(x, grid, denoise, louder(fresh, s_noise), rules=rules, churn=sde_by(eta))


def integrated(eta: float, curvature: float = 1.0) -> Rule:
    """x0 on the polynomial through all past estimates in lambda, integrated exactly under the noise of ``eta``.

    The mean has the weight ``e^((1 + eta) lambda)`` (Xue et al. 2023, section 5, tau^2 = eta); ``curvature`` multiplies
    its second moment. First order from pure noise and to sigma = 0, where lambda is infinite.
    """

    def rule(past: Sequence[Estimate], to: Level) -> Line:
        now = past[-1]
        if not to.ratio < now.at.ratio:
            return now
        return summed(past, "x0", over_lambda(levels(past), now.at, to, 1 + eta, curvature))

    return rule
