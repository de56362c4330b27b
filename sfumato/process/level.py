"""A noise level: how much of the picture and how much noise there is in ``x = alpha x0 + sigma eps``."""

from __future__ import annotations

import math
from typing import NamedTuple

Number = float


class Level(NamedTuple):
    """A point of the noising process, ``x = alpha x0 + sigma eps``.

    ``t`` is the schedule's own time, which grows with noise (its unit is the schedule's: table index, or 0 to
    1). In samplers the three are floats; a denoiser sees them as vectors, one value a row.
    """

    t: float
    alpha: float
    sigma: float

    @property
    def lam(self) -> float:
        """Half the log signal-to-noise ratio, ``log(alpha / sigma)`` (Kingma et al. 2021; Lu et al. 2022)."""
        if self.sigma == 0:
            return math.inf
        return math.log(self.alpha / self.sigma) if self.alpha > 0 else -math.inf

    @property
    def snr(self) -> float:
        """The signal-to-noise ratio ``(alpha / sigma)^2`` (Kingma et al. 2021, equation 2)."""
        return math.inf if self.sigma == 0 else (self.alpha / self.sigma) ** 2

    @property
    def ratio(self) -> float:
        """``sigma / alpha``: the noise level in the variance-exploding frame, the sigma of k-diffusion."""
        return math.inf if self.alpha == 0 else self.sigma / self.alpha


def posterior_std(at: Level, to: Level) -> float:
    """The standard deviation of q(x_to | x_at, x0): the fresh noise of one ancestral step.

    ``sigma_to sqrt(1 - (alpha_at sigma_to / (alpha_to sigma_at))^2)``, DDPM's square root of beta tilde (Ho et
    al. 2020, equation 7; Song et al. 2021a, equation 16 at eta = 1).
    """
    if to.sigma == 0 or at.sigma == 0:
        return 0.0
    kept = (at.alpha * to.sigma) / (to.alpha * at.sigma)
    return to.sigma * math.sqrt(max(0.0, 1 - kept * kept))
