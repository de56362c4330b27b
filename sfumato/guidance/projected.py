"""Adaptive projected guidance (Sadat et al. 2024): less of what only makes the picture more saturated."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from sfumato.guidance.classifier_free import Branches, Combine, always, combined, never
from sfumato.guidance.interval import share
from sfumato.guidance.rows import dot, each_row, ratio
from sfumato.process.estimate import Denoise, Estimate


def projected(scale: float, eta: float = 0.0, norm: float = 15.0, momentum: float = -0.5) -> Combine:
    """``p + (w - 1) (o + eta l)`` on x0, o and l the guidance across and along p (Sadat et al. 2024).

    The guidance is ``d = p - n`` of the denoised pictures. With ``momentum`` m it is averaged over the evaluations so
    far, ``d <- d + m d_before``; then no row of it is longer than ``norm`` (0 is no limit), ``d <- min(1, norm /
    |d|) d``; then it is split, ``l = (<d, p> / <p, p>) p`` and ``o = d - l``. eta = 1 with norm = momentum = 0 is
    classifier-free guidance.

    The average lives in the function that is returned: make a new one for every walk. It begins anew where the noise
    grows (a restart, the next walk). It is meant for one evaluation a step: a sampler with more would count a step as
    often.
    """
    before: list[Tensor] = []
    last = math.inf

    def combine(x: Tensor, wanted: Estimate, avoided: Estimate) -> Estimate:
        nonlocal last
        if not wanted.at.sigma:
            return wanted  # without noise both branches have x for their picture
        p, d = wanted.x0, wanted.x0 - avoided.x0
        if momentum:
            if before and share(wanted.at) <= last:
                d = d + momentum * before[0]
            before[:], last = [d], share(wanted.at)
        if norm:
            d = (norm / each_row(_norm, d)).clamp(max=1.0) * d
        along = ratio(each_row(dot, d, p), each_row(dot, p, p), empty=0.0) * p
        return wanted.towards(p + (scale - 1) * (d - along + eta * along))

    return combine


def adaptive_projected(
    denoise: Branches,
    want: Any,
    avoid: Any,
    scale: float,
    *,
    eta: float = 0.0,
    norm: float = 15.0,
    momentum: float = -0.5,
) -> Denoise:
    """Adaptive projected guidance from ``avoid`` to ``want`` for one walk; w = 1 is off."""
    return combined(
        denoise, want, avoid, projected(scale, eta, norm, momentum), never if scale == 1 else always
    )


def _norm(values: Tensor) -> Tensor:
    length: Tensor = values.norm()
    return length
