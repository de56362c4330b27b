"""Adams methods as weights: the exact mean, over the step ahead, of the polynomial through past values.

Of values f_j at nodes s_j (0 for the newest, 1 where the step ends) the mean of their Lagrange polynomial under a
weight function on [0, 1] is ``sum w_j f_j``; w depends on the nodes and on the moments of the weight function alone.
With the flat weight these are the methods of Adams and Bashforth (Hairer, Norsett & Wanner 1993, section III.1),
with an exponential one those of exponential integrators, whose moments are ratios of phi functions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

from sfumato.process.level import Level

Shares = tuple[tuple[int, ...], tuple[float, ...]]
"""Which past values a mean is made of, counted from the newest, and the weight of each."""

REMEMBERED = 4096
"""How many answers are kept: requests walk the same grids, and then a step costs its vectors alone."""

NEAREST = 1e-6
"""Nodes nearer to one another than this part of the step are one: what lies between them is rounding."""


@lru_cache(maxsize=REMEMBERED)
def over_lambda(
    seen: tuple[Level, ...], at: Level, to: Level, rate: float = 1.0, curvature: float = 1.0
) -> Shares:
    """The mean, over the step from ``at`` to ``to``, of the polynomial in lambda through values at ``seen``.

    ``seen`` is newest first; the mean is weighted by ``e^(rate lambda)``, and ``curvature`` multiplies the moments
    above the first. The newest alone where the step has no finite length, which is from pure noise and to sigma = 0.
    """
    here, ahead = at.lam, to.lam - at.lam
    if ahead == 0 or not math.isfinite(ahead):
        return (0,), (1.0,)
    picks, nodes = apart([level.lam for level in seen], here, ahead)
    moments = exponential(rate * ahead, len(nodes))
    return picks, weights(nodes, moments[:2] + tuple(curvature * moment for moment in moments[2:]))


@lru_cache(maxsize=REMEMBERED)
def over_ratio(seen: tuple[Level, ...], to: Level) -> Shares:
    """The mean, over the step from the newest of ``seen``, of the polynomial in sigma / alpha through values there."""
    here, ahead = seen[0].ratio, to.ratio - seen[0].ratio
    if ahead == 0 or not math.isfinite(ahead):
        return (0,), (1.0,)
    picks, nodes = apart([level.ratio for level in seen], here, ahead)
    return picks, weights(nodes, flat(len(nodes)))


def apart(places: Sequence[float], here: float, ahead: float) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Which of ``places``, newest first, are finite and not yet taken by a newer one; and their nodes.

    A node is a place as seen from ``here``, in units of the step ``ahead``.
    """
    picks: list[int] = []
    nodes: list[float] = []
    for pick, place in enumerate(places):
        node = (place - here) / ahead
        if math.isfinite(node) and all(abs(node - other) > NEAREST for other in nodes):
            picks.append(pick)
            nodes.append(node)
    return tuple(picks), tuple(nodes)


def weights(nodes: Sequence[float], moments: Sequence[float]) -> tuple[float, ...]:
    """w with ``sum w_j p(nodes_j) = mean of p`` for polynomials p of degree below ``len(nodes)``.

    ``moments[k]`` is the mean of ``s^k``; the first is 1. The nodes must differ. The system ``sum_j s_j^k w_j =
    moments[k]`` is solved by the method of Bjoerck and Pereyra (1970).
    """
    found, last = list(moments[: len(nodes)]), len(nodes) - 1
    for k in range(last):
        for i in range(last, k, -1):
            found[i] -= nodes[k] * found[i - 1]
    for k in range(last - 1, -1, -1):
        for i in range(k + 1, last + 1):
            found[i] /= nodes[i] - nodes[i - k - 1]
        for i in range(k, last):
            found[i] -= found[i + 1]
    return tuple(found)


def flat(count: int) -> tuple[float, ...]:
    """The first ``count`` moments of the flat weight on [0, 1]: ``1 / (k + 1)``."""
    return tuple(1 / (k + 1) for k in range(count))


def exponential(rate: float, count: int) -> tuple[float, ...]:
    """The first ``count`` moments of the weight ``e^(rate s)`` on [0, 1], divided by its whole.

    ``J_k = int s^k e^(rate s) ds`` obeys ``rate J_k + k J_{k-1} = e^rate``: upwards where the rate is large, downwards
    from a power series where that would cancel. A large positive rate is taken out as a factor.
    """
    if abs(rate) < 2.0:
        term, n, part, far = 1.0, 0, 1 / count, math.exp(rate)
        while abs(term) > 1e-18:
            n += 1
            term *= rate / n
            part += term / (n + count)
        parts = [part]
        for k in range(count - 1, 0, -1):
            parts.append((far - rate * parts[-1]) / k)
        parts.reverse()
    else:
        near, far = (math.exp(-rate), 1.0) if rate > 0 else (1.0, math.exp(rate))
        parts = [(far - near) / rate]
        for k in range(1, count):
            parts.append((far - k * parts[-1]) / rate)
    return tuple(part / parts[0] for part in parts)
