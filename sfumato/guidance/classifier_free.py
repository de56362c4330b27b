"""Classifier-free guidance (Ho & Salimans 2022), and what every method of two branches shares."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from sfumato.process.estimate import Denoise, Estimate
from sfumato.process.level import Level
from sfumato.process.vector import Vector

Branches = Callable[..., Awaitable[tuple[Estimate, ...]]]
"""What answers for several conditions at once: (x, level, *conditions) -> one estimate a condition."""

Combine = Callable[[Vector, Estimate, Estimate], Estimate]
"""A method of guidance: (x, what is wanted, what is avoided) -> the guided estimate."""

When = Callable[[Level], bool]
"""At which levels there is guidance."""


def classifier_free(denoise: Branches, want: Any, avoid: Any, scale: float) -> Denoise:
    """``n + w (p - n)``: from the estimate for ``avoid`` towards, and past, that for ``want``.

    (Ho & Salimans 2022, equation 6, in the field's scale: w = 1 is off, and then only ``want`` is evaluated.)
    ``denoise(x, level, *conditions)`` answers all branches in one call.
    """
    return combined(denoise, want, avoid, extrapolated(scale), never if scale == 1 else always)


def extrapolated(scale: float) -> Combine:
    """``n + w (p - n)`` on both ends of the estimate (Ho & Salimans 2022, equation 6)."""

    def combine(x: Vector, wanted: Estimate, avoided: Estimate) -> Estimate:
        return avoided + scale * (wanted - avoided)

    return combine


def combined(denoise: Branches, want: Any, avoid: Any, combine: Combine, when: When) -> Denoise:
    """``combine`` of both branches at the levels of ``when``; elsewhere ``want`` alone is evaluated.

    What a network says of the noise of the next step (``Estimate.learned``) is not guided: the word of the branch
    that is wanted holds, as in Dhariwal & Nichol 2021.
    """

    async def guided(x: Vector, at: Level) -> Estimate:
        if not when(at):
            (wanted,) = await denoise(x, at, want)
            return wanted
        wanted, avoided = await denoise(x, at, want, avoid)
        found = combine(x, wanted, avoided)
        return found if wanted.learned is None else replace(found, learned=wanted.learned)

    return guided


def always(at: Level) -> bool:
    """Guidance at every level."""
    return True


def never(at: Level) -> bool:
    """Guidance at no level: the estimate for what is wanted."""
    return False
