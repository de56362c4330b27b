"""Several weighted prompts at once (Liu et al. 2022), and two models in place of two prompts (Karras et al. 2024)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sfumato.errors import InvalidRequest
from sfumato.guidance.classifier_free import Branches, classifier_free
from sfumato.process.estimate import Denoise, Estimate
from sfumato.process.level import Level
from sfumato.process.vector import Vector

Weighted = Sequence[tuple[Any, float]]
"""Conditions with their weights."""


def composed(denoise: Branches, wants: Weighted, avoids: Weighted, scale: float) -> Denoise:
    """``u + w sum_i w_i (p_i - u)``, the conjunction of the ``wants`` (Liu et al. 2022, equation 11).

    u is the mean of the ``avoids`` by their weights, which must be positive: as a rule the empty prompt alone. A
    weight below 0 among the ``wants`` is the paper's negation. One of each with weight 1 is classifier-free
    guidance. A condition whose part in the sum is 0 is not evaluated; what a network says of the noise of the next
    step is the first one's. InvalidRequest for weights that are not finite, no condition on a side, or avoids that
    do not weigh above 0.
    """
    if not wants or not avoids:
        raise InvalidRequest(
            "composed guidance needs a condition that is wanted and one that is avoided at least"
        )
    if not all(math.isfinite(weight) for _, weight in (*wants, *avoids)):
        raise InvalidRequest("every weight of a prompt must be a finite number")
    if any(weight <= 0 for _, weight in avoids):
        raise InvalidRequest(
            "a prompt to avoid weighs above 0; give a negative weight to a wanted one instead"
        )
    rest = 1 - scale * math.fsum(weight for _, weight in wants)
    total = math.fsum(weight for _, weight in avoids)
    parts = [(cond, scale * weight) for cond, weight in wants]
    parts += [(cond, rest * weight / total) for cond, weight in avoids]
    parts = [(cond, part) for cond, part in parts if part != 0]

    async def guided(x: Vector, at: Level) -> Estimate:
        found = await denoise(x, at, *(cond for cond, _ in parts))
        first, *others = (part * one for (_, part), one in zip(parts, found, strict=True))
        return replace(sum(others, first), learned=found[0].learned)

    return guided


def autoguidance(strong: Denoise, weak: Denoise, scale: float) -> Denoise:
    """``weak + w (strong - weak)``: away from a worse model of the same thing (Karras et al. 2024, equation 3).

    Both are denoisers with their conditions in them; w = 1 is off, and then ``weak`` is not asked.
    """
    return classifier_free(models, strong, weak, scale)


async def models(x: Vector, at: Level, *denoisers: Denoise) -> tuple[Estimate, ...]:
    """Branches whose conditions are whole denoisers, so that any method of two branches guides by a model."""
    return tuple([await denoise(x, at) for denoise in denoisers])
