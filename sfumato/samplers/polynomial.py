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


def weights(nodes: Sequence[float], moments: Sequence[float]) -> list[float]:
    """w with ``sum w_j p(nodes_j) = mean of p`` for polynomials p of degree below ``len(nodes)``.

    ``moments[k]`` is the mean of ``s^k``; the first is 1. The nodes must differ. The system ``sum_j s_j^k w_j =
    moments[k]`` is solved by the method of Bjoerck and Pereyra (1970). Answers are remembered, since requests walk
    the same grids.
    """
    return list(_solved(tuple(nodes), tuple(moments[: len(nodes)])))


@lru_cache(maxsize=4096)
def _solved(nodes: tuple[float, ...], moments: tuple[float, ...]) -> tuple[float, ...]:
    found, last = list(moments), len(nodes) - 1
    for k in range(last):
        for i in range(last, k, -1):
            found[i] -= nodes[k] * found[i - 1]
    for k in range(last - 1, -1, -1):
        for i in range(k + 1, last + 1):
            found[i] /= nodes[i] - nodes[i - k - 1]
        for i in range(k, last):
            found[i] -= found[i + 1]
    return tuple(found)


def flat(count: int) -> list[float]:
    """The first ``count`` moments of the flat weight on [0, 1]: ``1 / (k + 1)``."""
    return [1 / (k + 1) for k in range(count)]


def exponential(rate: float, count: int) -> list[float]:
    """The first ``count`` moments of the weight ``e^(rate s)`` on [0, 1], divided by its whole.

    ``J_k = int s^k e^(rate s) ds`` obeys ``rate J_k + k J_{k-1} = e^rate``: upwards where the rate is large, downwards
    from a power series where that would cancel. A large positive rate is taken out as a factor. Answers are
    remembered, as those of ``weights`` are.
    """
    return list(_moments(rate, count))


@lru_cache(maxsize=4096)
def _moments(rate: float, count: int) -> tuple[float, ...]:
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
