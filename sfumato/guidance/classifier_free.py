"""Classifier-free guidance (Ho & Salimans 2022)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from sfumato.process.estimate import Denoise, Estimate
from sfumato.process.level import Level
from sfumato.process.vector import Vector

Branches = Callable[..., Awaitable[tuple[Estimate, ...]]]
"""What answers for several conditions at once: (x, level, *conditions) -> one estimate a condition."""


def classifier_free(denoise: Branches, want: Any, avoid: Any, scale: float) -> Denoise:
    """``n + w (p - n)``: from the estimate for ``avoid`` towards, and past, that for ``want``.

    (Ho & Salimans 2022, equation 6, in the field's scale: w = 1 is off, and then only ``want`` is evaluated.)
    ``denoise(x, level, *conditions)`` answers all branches in one call.
    """

    async def guided(x: Vector, at: Level) -> Estimate:
        if scale == 1:
            (wanted,) = await denoise(x, at, want)
            return wanted
        wanted, avoided = await denoise(x, at, want, avoid)
        return avoided + scale * (wanted - avoided)

    return guided
