"""Guidance in an interval of noise levels (Kynkäänniemi et al. 2024)."""

from __future__ import annotations

import math

from sfumato.errors import InvalidRequest
from sfumato.guidance.classifier_free import When, always
from sfumato.process.level import Level


def share(at: Level) -> float:
    """``sigma / hypot(alpha, sigma)``: 0 without noise, 1 in pure noise, the same in every frame and schedule.

    It is sigma itself on a variance-preserving process, ``s / hypot(s, 1 - s)`` on a rectified flow and
    ``sigma / sqrt(1 + sigma^2)`` on EDM's process.
    """
    return at.sigma / math.hypot(at.alpha, at.sigma)


def interval(lo: float, hi: float) -> When:
    """Guidance where ``lo <= share(level) <= hi``, none elsewhere (Kynkäänniemi et al. 2024, section 3).

    The paper's interval is (sigma_lo, sigma_hi] of EDM's sigma; its (0.28, 2.9] is 0.27 to 0.945 here. InvalidRequest
    unless 0 <= lo <= hi <= 1.
    """
    if not 0 <= lo <= hi <= 1:
        raise InvalidRequest(
            f"lo = {lo:g} and hi = {hi:g} are not an interval of guidance: 0 <= lo <= hi <= 1 is allowed, "
            f"in sigma / hypot(alpha, sigma)"
        )
    if lo == 0 and hi == 1:
        return always
    return lambda at: lo <= share(at) <= hi
