"""CFG-Zero* (Fan et al. 2025): the avoided branch is scaled to fit, and the first steps stand still."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from sfumato.errors import InvalidRequest
from sfumato.guidance.classifier_free import Branches, Combine, always, combined, never
from sfumato.guidance.interval import share
from sfumato.guidance.rows import dot, each_row, ratio
from sfumato.process.estimate import Denoise, Estimate
from sfumato.process.level import Level
from sfumato.process.prediction import Prediction
from sfumato.process.vector import Vector


def fitted(scale: float, prediction: Prediction) -> Combine:
    """``s n + w (p - s n)`` with ``s = <p, n> / <n, n>`` of each row (Fan et al. 2025, section 4).

    s makes s n the nearest to p of all multiples of n. p and n are the network's own outputs, of ``prediction``: the
    velocity of a rectified flow, which is the paper's case.
    """

    def combine(x: Tensor, wanted: Estimate, avoided: Estimate) -> Estimate:
        at = wanted.at
        p = prediction.target(wanted.x0, wanted.eps, at)
        n = prediction.target(avoided.x0, avoided.eps, at)
        n = ratio(each_row(dot, p, n), each_row(dot, n, n), empty=0.0) * n
        return prediction.estimate(x, n + scale * (p - n), at)

    return combine


def zero_star(denoise: Branches, want: Any, avoid: Any, scale: float, prediction: Prediction) -> Denoise:
    """CFG-Zero* without the steps that stand still; w = 1 is off."""
    return combined(denoise, want, avoid, fitted(scale, prediction), never if scale == 1 else always)


def standing(denoise: Denoise, grid: Sequence[Level], steps: int) -> Denoise:
    """The velocity eps - x0 is zero in the first ``steps`` steps of ``grid`` (Fan et al. 2025, zero-init).

    There the estimate is ``x0 = eps = x / (alpha + sigma)``, and the network is not asked: on a rectified flow x
    stays what it is, on any process ``x / (alpha + sigma)`` does. It is the velocity and not the network's output
    that is zero: an eps network's zero would say that x has no noise in it. Levels with more noise than
    ``grid[steps]`` belong to the first steps, so evaluations within a step do too. InvalidRequest if ``steps``
    leaves the walk no step of its own.
    """
    if not 0 <= steps < len(grid) - 1:
        raise InvalidRequest(
            f"zero = {steps} is not allowed on a grid of {len(grid) - 1} steps: 0 or more, and fewer than the steps"
        )
    if steps == 0:
        return denoise
    end = share(grid[steps])

    async def held(x: Vector, at: Level) -> Estimate:
        if share(at) <= end:
            return await denoise(x, at)
        both = (1 / (at.alpha + at.sigma)) * x
        return Estimate(at, both, both)

    return held
