"""Adams methods as weights: the exact mean, over the step ahead, of the polynomial through past values.

Of values f_j at nodes s_j (0 for the newest, 1 where the step ends) the mean of their Lagrange polynomial under a
weight function on [0, 1] is ``sum w_j f_j``; w depends on the nodes and on the moments of the weight function alone.
With the flat weight these are the methods of Adams and Bashforth (Hairer, Norsett & Wanner 1993, section III.1),
with an exponential one those of exponential integrators, whose moments are ratios of phi functions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence


def weights(nodes: Sequence[float], moments: Sequence[float]) -> list[float]:
    """w with ``sum w_j p(nodes_j) = mean of p`` for polynomials p of degree below ``len(nodes)``.

    ``moments[k]`` is the mean of ``s^k``; the first is 1. The nodes must differ.
    """
    found = []
    for j, here in enumerate(nodes):
        basis = [1.0]  # the coefficients of prod (s - s_k) / (s_j - s_k), from the constant up
        for k, other in enumerate(nodes):
            if k != j:
                gap = here - other
                basis = [(a - other * b) / gap for a, b in zip([0.0, *basis], [*basis, 0.0], strict=True)]
        found.append(math.fsum(c * m for c, m in zip(basis, moments, strict=False)))
    return found


def flat(count: int) -> list[float]:
    """The first ``count`` moments of the flat weight on [0, 1]: ``1 / (k + 1)``."""
    return [1 / (k + 1) for k in range(count)]


def exponential(rate: float, count: int) -> list[float]:
    """The first ``count`` moments of the weight ``e^(rate s)`` on [0, 1], divided by its whole.

    ``J_k = int s^k e^(rate (s - 1)) ds`` for a positive rate obeys ``J_k = (1 - k J_{k-1}) / rate``, and likewise for
    a negative one; where that would cancel, its power series is summed.
    """
    if abs(rate) < 2.0:
        terms = [1.0]
        while abs(terms[-1]) > 1e-18:
            terms.append(terms[-1] * rate / len(terms))
        parts = [math.fsum(a / (n + k + 1) for n, a in enumerate(terms)) for k in range(count)]
    else:
        near, far = (math.exp(-rate), 1.0) if rate > 0 else (1.0, math.exp(rate))
        parts = [(far - near) / rate]
        for k in range(1, count):
            parts.append((far - k * parts[-1]) / rate)
    return [part / parts[0] for part in parts]
