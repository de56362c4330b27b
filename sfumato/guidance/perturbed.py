"""Guidance away from a network that is made worse on purpose: in its attention, or by leaving layers out."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sfumato.errors import InvalidRequest
from sfumato.guidance.classifier_free import Branches, When, always
from sfumato.guidance.interval import share
from sfumato.guidance.rescale import rescaled
from sfumato.process.estimate import Denoise, Estimate
from sfumato.process.level import Level
from sfumato.process.prediction import Prediction
from sfumato.process.vector import Vector


def perturbed(
    denoise: Branches,
    want: Any,
    avoid: Any,
    worse: Any,
    *,
    scale: float,
    push: float,
    prediction: Prediction,
    rescale: float = 0.0,
    guides: When = always,
    pushes: When = always,
) -> Denoise:
    """``n + w (p - n) + s (p - p')``: classifier-free guidance, and away from a worse network's answer p'.

    (Ahn et al. 2024; Hong 2024; skip-layer guidance of Stable Diffusion 3.5, in diffusers' pipelines for all three.)
    ``want`` gives p, ``avoid`` n, and ``worse``, the wanted condition in another manner, p'. w is ``scale`` and s is
    ``push``: without classifier-free guidance, w = 1, it is p + s (p - p'), and then ``avoid`` is not evaluated.
    ``guides`` and ``pushes`` say at which levels each of the two acts; ``rescale`` is guidance.rescaled's phi, of the
    sum of both.
    """

    async def guided(x: Vector, at: Level) -> Estimate:
        both = scale != 1 and guides(at)
        pushed = push != 0 and pushes(at)
        conds = [want, *([avoid] if both else []), *([worse] if pushed else [])]
        wanted, *others = await denoise(x, at, *conds)

        def combine(x: Vector, p: Estimate, n: Estimate) -> Estimate:
            found = n + scale * (p - n) if both else p
            return found + push * (p - others[-1]) if pushed else found

        if not others:
            return wanted
        found = rescaled(combine, rescale, prediction)(x, wanted, others[0])
        return found if wanted.learned is None else replace(found, learned=wanted.learned)

    return guided


def steps_from(grid: Sequence[Level], start: float, stop: float) -> When:
    """The levels of the steps k of ``grid``, counted from 0, with ``start n <= k < stop n`` of all n.

    A level between two of the grid belongs to the later one's step. InvalidRequest unless 0 <= start <= stop <= 1.
    """
    if not 0 <= start <= stop <= 1:
        raise InvalidRequest(
            f"start = {start:g} and stop = {stop:g} are not a part of the steps: 0 <= start <= stop <= 1 is allowed"
        )
    if start == 0 and stop == 1:
        return always
    rising = [-share(level) for level in grid]
    count = len(grid) - 1
    first, last = round(start * count, 9), round(stop * count, 9)
    return lambda at: first <= bisect_left(rising, -share(at)) < last
