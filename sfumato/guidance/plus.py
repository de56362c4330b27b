"""CFG++ (Chung et al. 2024): the picture is guided, the noise is not."""

from __future__ import annotations

from typing import Any

from sfumato.errors import InvalidRequest
from sfumato.guidance.classifier_free import Branches, Combine, always, combined
from sfumato.process.estimate import Denoise, Estimate
from sfumato.process.vector import Vector


def interpolated(scale: float) -> Combine:
    """x0 at ``n + w (p - n)``, eps that of ``n`` (Chung et al. 2024, algorithm 2).

    w is in [0, 1], an interpolation between the branches. The two ends are not on one line with x, so only samplers
    that move along estimates and never look back at x accept it (``Sampler.off_line``). What w does depends on the
    grid: every step adds its share, so more steps guide more, and there is no limit of many steps. Multistep
    samplers extrapolate the guided x0. InvalidRequest for w outside 0 to 1.
    """
    if not 0 <= scale <= 1:
        raise InvalidRequest(
            f"guidance = {scale:g} is outside what 'cfgpp' allows: 0 to 1, an interpolation (0.6 is usual)"
        )

    def combine(x: Vector, wanted: Estimate, avoided: Estimate) -> Estimate:
        return Estimate(wanted.at, avoided.x0 + scale * (wanted.x0 - avoided.x0), avoided.eps)

    return combine


def plus_plus(denoise: Branches, want: Any, avoid: Any, scale: float) -> Denoise:
    """CFG++ between ``avoid`` and ``want``; both branches are evaluated at every ``scale`` in [0, 1]."""
    return combined(denoise, want, avoid, interpolated(scale), always)
