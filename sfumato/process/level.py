"""A noise level: how much of the picture and how much noise there is in ``x = alpha x0 + sigma eps``."""

from __future__ import annotations

import math
from typing import NamedTuple


class Level(NamedTuple):
    """A point of the noising process, ``x = alpha x0 + sigma eps``.

    ``t`` is the time that a network is told; it grows with noise, and its unit is the schedule's: an index of a
    table, 0 to 1, or sigma itself. In samplers the three are floats; a denoiser sees them as vectors, one value
    a row. The properties below are for floats.
    """

    t: float
    alpha: float
    sigma: float

    @property
    def lam(self) -> float:
        """Half the log signal-to-noise ratio, ``log(alpha / sigma)`` (Lu et al. 2022a, section 2.1)."""
        if self.sigma == 0:
            return math.inf
        return math.log(self.alpha) - math.log(self.sigma) if self.alpha > 0 else -math.inf

    @property
    def ratio(self) -> float:
        """``sigma / alpha``: the noise level in the variance-exploding frame, the sigma of k-diffusion."""
        return math.inf if self.alpha == 0 else self.sigma / self.alpha

    @property
    def deviation(self) -> float:
        """The deviation that x is begun with in place of sigma: that of data and noise of 1, but 1 at the least.

        On a rectified flow x has less than 1 on the way, and is begun with noise of 1 all the same.
        """
        return max(1.0, math.hypot(self.alpha, self.sigma))


CLEAN = Level(0.0, 1.0, 0.0)
"""No noise at all: where a walk ends. No network is asked here."""


def posterior_std(at: Level, to: Level) -> float:
    """The standard deviation of q(x_to | x_at, x0): the fresh noise of one ancestral step down.

    ``sigma_to sqrt(1 - (alpha_at sigma_to / (alpha_to sigma_at))^2)``, DDPM's square root of beta tilde (Ho et
    al. 2020, equation 7; Song et al. 2021a, equation 16 at eta = 1). 0 for a step that does not go down.
    """
    room = to.alpha * at.sigma
    if room == 0:
        return 0.0
    kept = at.alpha * to.sigma / room
    return to.sigma * math.sqrt(max(0.0, (1 - kept) * (1 + kept)))
