"""What samplers do with vectors besides + and *: fused where the vector is a tensor, plain where it is a number."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

Vector = Any
"""Anything that can be added to itself and multiplied by floats: float, complex, a torch tensor."""


def blend(a: float, x: Vector, b: float, y: Vector) -> Vector:
    """``a x + b y``: of tensors and plain factors in two kernels, one if a factor is 1, where plain sums take three.

    An end whose factor is 0 is left out, so that an infinity in it cannot spoil the sum; where that leaves one end
    as it is, the result is that very vector and not a copy.
    """
    if isinstance(b, (float, int)) and isinstance(a, (float, int)):
        if b == 0:
            return x if a == 1 else a * x
        if a == 0:
            return y if b == 1 else b * y
        if hasattr(x, "add_") and hasattr(y, "add_"):
            if a == 1:
                return x.add(y, alpha=b)
            return y.add(x, alpha=a) if b == 1 else x.mul(a).add_(y, alpha=b)
    return a * x + b * y


def mix(weights: Sequence[float], vectors: Sequence[Vector]) -> Vector:
    """The sum of ``weights[i] vectors[i]``; of tensors with one kernel each, one less where the first factor is 1.

    Weights of 0 are left out. The sum is a new vector, whatever the weights are.
    """
    terms = [term for term in zip(weights, vectors, strict=True) if term[0] != 0]
    if len(terms) < 2:
        return terms[0][0] * terms[0][1] if terms else 0.0 * vectors[0]
    (a, x), (b, y) = terms[:2]
    total = blend(a, x, b, y)
    if hasattr(total, "add_"):
        for weight, vector in terms[2:]:
            total.add_(vector, alpha=weight)
        return total
    for weight, vector in terms[2:]:
        total = total + weight * vector
    return total


def rms(x: Vector) -> float:
    """The root of the mean square of the values of ``x``: a norm that does not grow with its size."""
    if hasattr(x, "square"):
        return math.sqrt(float(x.abs().square().mean()))
    return float(abs(x))


def scaled_rms(error: Vector, x: Vector, y: Vector, atol: float, rtol: float) -> float:
    """The root of the mean square of ``error / max(atol, rtol max(|x|, |y|))``, value by value; 1 is allowed."""
    if hasattr(error, "square"):
        return rms(error / (rtol * x.abs().maximum(y.abs())).clamp_min(atol))
    allowed: float = max(atol, rtol * max(abs(x), abs(y)))
    return float(abs(error)) / allowed
