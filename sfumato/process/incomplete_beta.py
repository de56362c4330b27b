"""The Beta distribution's function and its quantiles, on the standard library alone."""

from __future__ import annotations

import math


def beta_cdf(x: float, a: float, b: float) -> float:
    """I_x(a, b), the chance that a Beta(a, b) variable is below ``x`` in [0, 1], for a, b > 0.

    The continued fraction DLMF 8.17.22, by Lentz's method, on the side of the mean where it converges fast.
    """
    if x <= 0 or x >= 1:
        return 0.0 if x <= 0 else 1.0
    front = math.exp(a * math.log(x) + b * math.log1p(-x) - _log_beta(a, b))
    if x < (a + 1) / (a + b + 2):
        return front / a / _fraction(x, a, b)
    return 1 - front / b / _fraction(1 - x, b, a)


def beta_quantile(p: float, a: float, b: float) -> float:
    """The x in [0, 1] with ``beta_cdf(x, a, b) = p``, by Newton's method in log x, kept inside a bracket.

    The side below one half is solved, so that an x near 0 keeps its leading digits; one near 1 has them in 1 - x.
    """
    if p <= 0 or p >= 1:
        return 0.0 if p <= 0 else 1.0
    return 1 - _below_half(1 - p, b, a) if p > beta_cdf(0.5, a, b) else _below_half(p, a, b)


def _below_half(p: float, a: float, b: float) -> float:
    """The quantile where it is at most one half."""
    log_beta = _log_beta(a, b)
    low, high = -math.inf, math.log(0.5)
    u = min((math.log(p * a) + log_beta) / a, high)  # I_x is about x^a / (a B) near 0
    for _ in range(200):
        if u < -700:
            return 0.0
        x = math.exp(u)
        error = beta_cdf(x, a, b) - p
        low, high = (u, high) if error < 0 else (low, u)
        slope = math.exp(a * u + (b - 1) * math.log1p(-x) - log_beta)
        step = error / slope if slope > 0 else math.inf
        if abs(step) < 1e-15 or high - low < 1e-15:
            break
        after = u - step
        u = after if low < after < high else (low + high) / 2 if low > -math.inf else high - 1
    return math.exp(u)


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def _fraction(x: float, a: float, b: float) -> float:
    """1 + d_1 / (1 + d_2 / (1 + ...)) with the d of DLMF 8.17.23."""
    value, c, d = 1.0, 1.0, 0.0
    for i in range(1, 10_000):
        m = i // 2
        if i % 2:
            term = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            term = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        d = 1 / ((1 + term * d) or 1e-300)
        c = (1 + term / c) or 1e-300
        value *= c * d
        if abs(c * d - 1) < 1e-16:
            break
    return value
