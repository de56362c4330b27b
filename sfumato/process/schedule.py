"""Schedules: from a time to a noise level, and from a log signal-to-noise ratio back to a level.

``Cosine``, ``VP``, ``Laplace``, ``Flow`` and ``Exploding`` are closed forms of a continuous time; ``Table``, for
discrete processes, is sfumato.process.table's. All by name: sfumato.process.schedules.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from sfumato.errors import InvalidRequest
from sfumato.process.level import Level
from sfumato.process.table import Table, from_betas, linear, preserving, scaled_linear


class Schedule(Protocol):
    """Noise levels as a function of time; noise grows with time."""

    @property
    def t_min(self) -> float:
        """The least time at which a network was trained."""
        ...

    @property
    def t_max(self) -> float:
        """The greatest time, where a picture is begun."""
        ...

    def level(self, t: float) -> Level:
        """The level at time ``t``."""
        ...

    def at(self, lam: float) -> Level:
        """The level with ``log(alpha / sigma) = lam``, limited to the levels from t_min to t_max."""
        ...


@dataclass(frozen=True)
class Cosine:
    """``alpha = cos(pi t / 2)``, ``sigma = sin(pi t / 2)`` for t in [0, 1] (Salimans & Ho 2022, section 3)."""

    t_min: float = 1e-3
    t_max: float = 1.0

    def __post_init__(self) -> None:
        """Check the range of times."""
        _check_range(self.t_min, self.t_max, 1.0)

    def level(self, t: float) -> Level:
        """The level at ``t``; t = 1 is pure noise, exactly."""
        _check_time(t)
        if t == 1:
            return Level(1.0, 0.0, 1.0)
        return Level(t, math.cos(math.pi * t / 2), math.sin(math.pi * t / 2))

    def at(self, lam: float) -> Level:
        """The level with ``lam``: t = 2 / pi atan(e^-lam)."""
        t = 2 / math.pi * math.atan(_exp(-lam))
        return self.level(min(max(t, self.t_min), self.t_max))


@dataclass(frozen=True)
class VP:
    """``alpha = e^(-B / 2)``, ``sigma^2 = 1 - e^-B``, B = beta_min t + (beta_max - beta_min) t^2 / 2, t in [0, 1].

    (Song et al. 2021b, equation 33: the variance-preserving process with betas on a line.) ``t_min`` is where that
    paper ends its samples, appendix C.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0
    t_min: float = 1e-3
    t_max: float = 1.0

    def __post_init__(self) -> None:
        """Check the betas and the range of times."""
        for name, beta in (("beta_min", self.beta_min), ("beta_max", self.beta_max)):
            if not 0 < beta < math.inf:
                raise InvalidRequest(f"{name} = {beta:g} is outside what is allowed: above 0")
        _check_range(self.t_min, self.t_max, 1.0)

    def level(self, t: float) -> Level:
        """The level at ``t``."""
        _check_time(t)
        grown = t * (self.beta_min + (self.beta_max - self.beta_min) * t / 2)
        return Level(t, math.exp(-grown / 2), math.sqrt(-math.expm1(-grown)))

    def at(self, lam: float) -> Level:
        """The level with ``lam``: B = log(1 + e^(-2 lam)), and t solves the quadratic."""
        if not -1e8 < lam < math.inf:
            return self.level(self.t_max if lam < 0 else self.t_min)
        grown = math.log1p(math.exp(-2 * lam)) if lam > 0 else math.log1p(math.exp(2 * lam)) - 2 * lam
        room = self.beta_min**2 + 2 * (self.beta_max - self.beta_min) * grown
        # A falling beta never reaches some levels; room is then below 0.
        t = 2 * grown / (self.beta_min + math.sqrt(room)) if room >= 0 else self.t_max
        return self.level(min(max(t, self.t_min), self.t_max))


@dataclass(frozen=True)
class Laplace:
    """``log(alpha^2 / sigma^2) = mu - b sgn(1/2 - t) log(1 - 2 |1/2 - t|)``, alpha^2 + sigma^2 = 1, t in [0, 1].

    (Hang et al. 2024, table 1.) At even times the log signal-to-noise ratio has a Laplace distribution of middle
    ``mu`` and width ``b``: it is made for drawing training levels, and dwells where both ends are mixed. t = 1 is
    pure noise.
    """

    mu: float = 0.0
    b: float = 0.5
    t_min: float = 1e-3
    t_max: float = 1.0

    def __post_init__(self) -> None:
        """Check the distribution and the range of times."""
        if not math.isfinite(self.mu):
            raise InvalidRequest(f"mu = {self.mu:g} is outside what is allowed: any finite number")
        if not 0 < self.b < math.inf:
            raise InvalidRequest(f"b = {self.b:g} is outside what is allowed: above 0 (0.5 is usual)")
        _check_range(self.t_min, self.t_max, 1.0)

    def level(self, t: float) -> Level:
        """The level at ``t``; t = 0 is no noise and t = 1 pure noise, exactly."""
        _check_time(t)
        if t in (0, 1):
            return Level(t, 1.0 - t, t * 1.0)
        snr = self.mu - self.b * math.log(2 * t) if t <= 0.5 else self.mu + self.b * math.log(2 * (1 - t))
        return preserving(t, snr / 2)

    def at(self, lam: float) -> Level:
        """The level with ``lam``: t is the distribution's upper tail."""
        off = (2 * lam - self.mu) / self.b
        t = 0.5 * math.exp(-off) if off >= 0 else 1 - 0.5 * math.exp(off)
        return self.level(min(max(t, self.t_min), self.t_max))


@dataclass(frozen=True)
class Flow:
    """Rectified flow, ``alpha = 1 - s``, ``sigma = s``, s = shift t / (1 + (shift - 1) t) for t in [0, 1].

    (Liu et al. 2022; the shift is Esser et al. 2024, equation 23.) ``Level.t`` is s, which flow networks are
    told; it equals t where the shift is 1.
    """

    shift: float = 1.0
    t_min: float = 1e-3
    t_max: float = 1.0

    def __post_init__(self) -> None:
        """Check the shift and the range of times."""
        if not 0 < self.shift < math.inf:
            raise InvalidRequest(
                f"shift = {self.shift:g} is outside what is allowed: above 0 (1 is no shift)"
            )
        _check_range(self.t_min, self.t_max, 1.0)

    @classmethod
    def for_tokens(cls, tokens: int) -> Flow:
        """Flux's process for a picture of ``tokens`` patches: the shift is ``shift_for(tokens)``."""
        return cls(shift_for(tokens))

    def level(self, t: float) -> Level:
        """The level at ``t``; ``Level.t`` is s."""
        _check_time(t)
        far = self.shift * t
        s = far / (far + (1 - t))
        return Level(s, 1 - s, s)

    def at(self, lam: float) -> Level:
        """The level with ``lam``: s = 1 / (1 + e^lam)."""
        low, high = self.level(self.t_min), self.level(self.t_max)
        if lam >= low.lam or lam <= high.lam:
            return low if lam >= low.lam else high
        small = math.exp(-abs(lam))
        s, alpha = (
            (small / (1 + small), 1 / (1 + small)) if lam > 0 else (1 / (1 + small), small / (1 + small))
        )
        return Level(s, alpha, s)


@dataclass(frozen=True)
class Exploding:
    """EDM's process, ``alpha = 1``, ``sigma = t`` (Karras et al. 2022, table 1)."""

    t_min: float = 0.002
    t_max: float = 80.0

    def __post_init__(self) -> None:
        """Check the range of sigmas."""
        _check_range(self.t_min, self.t_max, math.inf)

    def level(self, t: float) -> Level:
        """The level with sigma = ``t``."""
        if not 0 <= t < math.inf:
            raise InvalidRequest(f"sigma = {t:g} is outside the schedule; allowed: 0 and above")
        return Level(t, 1.0, t)

    def at(self, lam: float) -> Level:
        """The level with ``lam``: sigma = e^-lam."""
        return self.level(min(max(_exp(-lam), self.t_min), self.t_max))


def shift_for(
    tokens: int, low: int = 256, low_mu: float = 0.5, high: int = 4096, high_mu: float = 1.15
) -> float:
    """The shift ``e^mu`` for a picture of ``tokens`` patches, mu on a line through (low, low_mu), (high, high_mu).

    (Flux, released code; a patch is 16 x 16 pixels there, so 1024 x 1024 pixels are 4096 tokens.) LTX-Video has
    (1024, 0.95) and (4096, 2.05). diffusers calls the numbers base_image_seq_len, base_shift, max_image_seq_len
    and max_shift. InvalidRequest for less than one token.
    """
    if tokens < 1:
        raise InvalidRequest(f"tokens = {tokens} is outside what is allowed: 1 and above")
    if low == high:
        raise InvalidRequest(f"low = high = {low}: a line needs two different counts of tokens")
    return math.exp(low_mu + (high_mu - low_mu) * (tokens - low) / (high - low))


def shift_between(tokens: int, known: int, shift: float = 1.0) -> float:
    """The shift for ``tokens`` where ``shift`` is right for ``known``: times sqrt(tokens / known).

    (Esser et al. 2024, equation 23.) It keeps the uncertainty of a picture's mean. InvalidRequest for less than
    one token.
    """
    if tokens < 1 or known < 1:
        raise InvalidRequest(f"tokens = {min(tokens, known)} is outside what is allowed: 1 and above")
    return shift * math.sqrt(tokens / known)


def _check_time(t: float) -> None:
    if not 0 <= t <= 1:
        raise InvalidRequest(f"t = {t:g} is outside the schedule; allowed: 0 to 1")


def _check_range(t_min: float, t_max: float, most: float) -> None:
    if not (0 < t_min < t_max <= most and t_max < math.inf):
        raise InvalidRequest(
            f"a schedule from t_min = {t_min:g} to t_max = {t_max:g} is not allowed: both must be positive and rise"
            + ("" if math.isinf(most) else f", to {most:g} at the most")
        )


def _exp(x: float) -> float:
    """e^x, infinite where a float ends."""
    return math.exp(x) if x < 709 else math.inf


__all__ = [
    "VP",
    "Cosine",
    "Exploding",
    "Flow",
    "Laplace",
    "Schedule",
    "Table",
    "from_betas",
    "linear",
    "scaled_linear",
    "shift_between",
    "shift_for",
]
