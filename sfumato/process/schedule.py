"""Schedules: from a time to a noise level, and from a log signal-to-noise ratio back to a time.

``Table`` holds the 1,000 levels of a discrete process (DDPM, Stable Diffusion) and interpolates between them;
``Cosine``, ``Flow`` and ``Exploding`` are closed forms.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from sfumato.errors import InvalidRequest
from sfumato.process.level import Level


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
        """The level with ``log(alpha / sigma) = lam``, limited to the schedule's range."""
        ...


@dataclass(frozen=True)
class Table:
    """A discrete process: ``signal[i]`` is the running product of 1 - beta, alpha_i^2 (Ho et al. 2020, eq. 4).

    Between two indices the log signal-to-noise ratio is interpolated linearly.
    """

    signal: tuple[float, ...]

    @property
    def t_min(self) -> float:
        """Index 0."""
        return 0.0

    @property
    def t_max(self) -> float:
        """The last index."""
        return float(len(self.signal) - 1)

    def level(self, t: float) -> Level:
        """The level at index ``t``, which need not be whole."""
        if not 0 <= t <= self.t_max:
            raise InvalidRequest(f"t = {t:g} is outside the schedule; allowed: 0 to {self.t_max:g}")
        low = min(int(t), len(self.signal) - 2)
        part = t - low
        a, b = self.signal[low], self.signal[low + 1]
        if part == 0 or b == 0:
            signal = a if part == 0 else (b if part == 1 else a * (1 - part))
            return Level(t, math.sqrt(signal), math.sqrt(1 - signal))
        lam = (1 - part) * _half_logit(a) + part * _half_logit(b)
        return _vp(t, lam)

    def at(self, lam: float) -> Level:
        """The level with ``lam``; the index is found by bisection."""
        lams = [-_half_logit(s) for s in self.signal]
        if -lam <= lams[0]:
            return self.level(0.0)
        if -lam >= lams[-1]:
            return self.level(self.t_max)
        high = bisect.bisect_left(lams, -lam)
        part = (-lam - lams[high - 1]) / (lams[high] - lams[high - 1])
        return _vp(high - 1 + part, lam)


@dataclass(frozen=True)
class Cosine:
    """``alpha = cos(pi t / 2)``, ``sigma = sin(pi t / 2)`` for t in [0, 1] (Salimans & Ho 2022, section 3)."""

    t_min: float = 1e-3
    t_max: float = 1.0

    def level(self, t: float) -> Level:
        """The level at ``t``."""
        _within(t)
        if t == 1:
            return Level(1.0, 0.0, 1.0)
        return Level(t, math.cos(math.pi * t / 2), math.sin(math.pi * t / 2))

    def at(self, lam: float) -> Level:
        """The level with ``lam``: t = 2 / pi atan(e^-lam)."""
        return self.level(min(max(2 / math.pi * math.atan(math.exp(-lam)), self.t_min), self.t_max))


@dataclass(frozen=True)
class Flow:
    """Rectified flow, ``alpha = 1 - s``, ``sigma = s``, s = shift t / (1 + (shift - 1) t) for t in [0, 1].

    (Liu et al. 2022; the shift is Esser et al. 2024, equation 23.)
    """

    shift: float = 1.0
    t_min: float = 1e-3
    t_max: float = 1.0

    def level(self, t: float) -> Level:
        """The level at ``t``; ``Level.t`` is s, the time that flow networks are told."""
        _within(t)
        s = self.shift * t / (1 + (self.shift - 1) * t)
        return Level(s, 1 - s, s)

    def at(self, lam: float) -> Level:
        """The level with ``lam``: s = 1 / (1 + e^lam)."""
        s = 1 / (1 + math.exp(min(lam, 700.0)))
        return Level(s, 1 - s, s)


@dataclass(frozen=True)
class Exploding:
    """EDM's process, ``alpha = 1``, ``sigma = t`` (Karras et al. 2022, table 1)."""

    t_min: float = 0.002
    t_max: float = 80.0

    def level(self, t: float) -> Level:
        """The level with sigma = ``t``."""
        if not 0 <= t < math.inf:
            raise InvalidRequest(f"sigma = {t:g} is outside the schedule; allowed: 0 and above")
        return Level(t, 1.0, t)

    def at(self, lam: float) -> Level:
        """The level with ``lam``: sigma = e^-lam."""
        return self.level(min(max(math.exp(-lam), self.t_min), self.t_max))


def linear(steps: int = 1000, first: float = 1e-4, last: float = 0.02) -> Table:
    """Betas on a line (Ho et al. 2020, section 4)."""
    return from_betas([first + (last - first) * i / (steps - 1) for i in range(steps)])


def scaled_linear(steps: int = 1000, first: float = 0.00085, last: float = 0.012) -> Table:
    """Betas whose roots lie on a line: Stable Diffusion's schedule (Rombach et al. 2022, released code)."""
    a, b = math.sqrt(first), math.sqrt(last)
    return from_betas([(a + (b - a) * i / (steps - 1)) ** 2 for i in range(steps)])


def cosine() -> Cosine:
    """The cosine schedule in continuous time."""
    return Cosine()


def flow(shift: float = 1.0) -> Flow:
    """Rectified flow with a static shift, 1 for none."""
    if not 0 < shift < math.inf:
        raise InvalidRequest(f"shift = {shift:g} is outside what is allowed: above 0 (1 is no shift)")
    return Flow(shift)


def edm(sigma_min: float = 0.002, sigma_max: float = 80.0) -> Exploding:
    """EDM's variance-exploding schedule between two sigmas."""
    if not 0 < sigma_min < sigma_max < math.inf:
        raise InvalidRequest(
            f"sigma_min = {sigma_min:g} and sigma_max = {sigma_max:g} must be positive and rise"
        )
    return Exploding(sigma_min, sigma_max)


def from_betas(betas: Sequence[float]) -> Table:
    """The table of a list of betas, each in (0, 1)."""
    if len(betas) < 2 or not all(0 < b < 1 for b in betas):
        raise InvalidRequest("betas must be at least two numbers between 0 and 1")
    signal, table = 1.0, []
    for beta in betas:
        signal *= 1 - beta
        table.append(signal)
    return Table(tuple(table))


def _within(t: float) -> None:
    if not 0 <= t <= 1:
        raise InvalidRequest(f"t = {t:g} is outside the schedule; allowed: 0 to 1")


def _half_logit(signal: float) -> float:
    if signal <= 0:
        return -math.inf
    return 0.5 * math.log(signal / (1 - signal))


def _vp(t: float, lam: float) -> Level:
    """The variance-preserving level with ``lam``: alpha^2 = sigmoid(2 lam)."""
    return Level(t, math.sqrt(1 / (1 + math.exp(-2 * lam))), math.sqrt(1 / (1 + math.exp(2 * lam))))
