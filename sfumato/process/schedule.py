"""Schedules: from a time to a noise level, and from a log signal-to-noise ratio back to a level.

``Table`` holds the levels of a discrete process (DDPM, Stable Diffusion) and interpolates between them;
``Cosine``, ``Flow`` and ``Exploding`` are closed forms.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
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
        """The level with ``log(alpha / sigma) = lam``, limited to the levels from t_min to t_max."""
        ...


@dataclass(frozen=True)
class Table:
    """A discrete process: ``signal[i]`` is alpha_i^2, the running product of 1 - beta (Ho et al. 2020, eq. 4).

    Between two indices log(alpha / sigma) is interpolated linearly, as k-diffusion and diffusers do; towards a
    last index of pure noise (signal 0; Lin et al. 2024) alpha^2 is. ``Level.t`` is the index.
    """

    signal: tuple[float, ...]

    def __post_init__(self) -> None:
        """Check that the signal falls, from below 1 to 0 at the least."""
        ends_fit = len(self.signal) >= 2 and self.signal[0] < 1 and self.signal[-1] >= 0
        if not (ends_fit and all(a > b for a, b in pairwise(self.signal))):
            raise InvalidRequest(
                "a table of signals must be at least two numbers below 1 that fall, to 0 at the least"
            )

    @property
    def t_min(self) -> float:
        """Index 0."""
        return 0.0

    @property
    def t_max(self) -> float:
        """The last index."""
        return float(len(self.signal) - 1)

    @cached_property
    def _noise(self) -> list[float]:
        """-lam at each index, rising; the last may be infinite."""
        return [-0.5 * math.log(s / (1 - s)) if s > 0 else math.inf for s in self.signal]

    def level(self, t: float) -> Level:
        """The level at index ``t``, which need not be whole."""
        if not 0 <= t <= self.t_max:
            raise InvalidRequest(f"t = {t:g} is outside the schedule; allowed: 0 to {self.t_max:g}")
        low = int(t)
        part = t - low
        if part == 0 or self.signal[low + 1] == 0:
            signal = self.signal[low] * (1 - part)
            return Level(float(t), math.sqrt(signal), math.sqrt(1 - signal))
        return _preserving(t, (part - 1) * self._noise[low] - part * self._noise[low + 1])

    def at(self, lam: float) -> Level:
        """The level with ``lam``; the index is found by bisection."""
        noise = self._noise
        if -lam <= noise[0]:
            return self.level(0.0)
        if -lam >= noise[-1]:
            return self.level(self.t_max)
        high = bisect.bisect_left(noise, -lam)
        if noise[high] == math.inf:
            here = _preserving(0.0, lam)
            return here._replace(t=high - here.alpha * here.alpha / self.signal[high - 1])
        return _preserving(high - 1 + (-lam - noise[high - 1]) / (noise[high] - noise[high - 1]), lam)


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

    def level(self, t: float) -> Level:
        """The level at ``t``; ``Level.t`` is s."""
        _check_time(t)
        far = self.shift * t
        s = far / (far + (1 - t))
        return Level(s, 1 - s, s)

    def at(self, lam: float) -> Level:
        """The level with ``lam``: s = 1 / (1 + e^lam)."""
        low, high = self.level(self.t_min), self.level(self.t_max)
        s = 1 / (1 + _exp(lam))
        return low if s <= low.sigma else high if s >= high.sigma else Level(s, 1 - s, s)


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


def linear(steps: int = 1000, first: float = 1e-4, last: float = 0.02) -> Table:
    """Betas on a line (Ho et al. 2020, section 4)."""
    return from_betas([first + (last - first) * i / (steps - 1) for i in range(steps)])


def scaled_linear(steps: int = 1000, first: float = 0.00085, last: float = 0.012) -> Table:
    """Betas whose roots lie on a line: Stable Diffusion's schedule (Rombach et al. 2022, released code)."""
    a, b = math.sqrt(first), math.sqrt(last)
    return from_betas([(a + (b - a) * i / (steps - 1)) ** 2 for i in range(steps)])


def from_betas(betas: Sequence[float]) -> Table:
    """The table of a list of betas in (0, 1); the last may be 1, which makes its level pure noise."""
    signal, table = 1.0, []
    for beta in betas:
        if not 0 < beta <= 1:
            raise InvalidRequest(f"beta = {beta:g} is outside what is allowed: above 0 and at most 1")
        signal *= 1 - beta
        table.append(signal)
    return Table(tuple(table))


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


def _preserving(t: float, lam: float) -> Level:
    """The level of a variance-preserving process with ``lam``: alpha = e^lam sigma, alpha^2 + sigma^2 = 1."""
    small = math.exp(-abs(lam))
    long = math.hypot(1, small)
    return Level(t, 1 / long, small / long) if lam > 0 else Level(t, small / long, 1 / long)
