"""Discrete processes: a table of levels, and the published lists of betas that make one.

beta_i is the variance of the noise that step i adds (Ho et al. 2020, equation 2); a table keeps the running product
of 1 - beta, which is alpha^2.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from sfumato.errors import InvalidRequest
from sfumato.process.level import Level


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
        return preserving(t, (part - 1) * self._noise[low] - part * self._noise[low + 1])

    def at(self, lam: float) -> Level:
        """The level with ``lam``; the index is found by bisection."""
        noise = self._noise
        if -lam <= noise[0]:
            return self.level(0.0)
        if -lam >= noise[-1]:
            return self.level(self.t_max)
        high = bisect.bisect_left(noise, -lam)
        if noise[high] == math.inf:
            here = preserving(0.0, lam)
            return here._replace(t=high - here.alpha * here.alpha / self.signal[high - 1])
        return preserving(high - 1 + (-lam - noise[high - 1]) / (noise[high] - noise[high - 1]), lam)


def linear(steps: int = 1000, first: float = 1e-4, last: float = 0.02, zero_snr: bool = False) -> Table:
    """Betas on a line from ``first`` to ``last``.

    (Ho et al. 2020, section 4.)
    """
    _check_betas(steps, first, last)
    return _table([first + (last - first) * i / (steps - 1) for i in range(steps)], zero_snr)


def scaled_linear(
    steps: int = 1000, first: float = 0.00085, last: float = 0.012, zero_snr: bool = False
) -> Table:
    """Betas whose roots lie on a line: Stable Diffusion's schedule.

    (Rombach et al. 2022, released code.)
    """
    _check_betas(steps, first, last)
    a, b = math.sqrt(first), math.sqrt(last)
    return _table([(a + (b - a) * i / (steps - 1)) ** 2 for i in range(steps)], zero_snr)


def squared_cosine(
    steps: int = 1000, offset: float = 0.008, max_beta: float = 0.999, zero_snr: bool = False
) -> Table:
    """alpha^2 close to cos^2(pi / 2 (t + s) / (1 + s)), t = i / steps, s = ``offset``, betas at most ``max_beta``.

    (Nichol & Dhariwal 2021, equation 17.) diffusers calls it ``squaredcos_cap_v2``. ``Cosine`` is the continuous
    schedule with s = 0.
    """
    _check_betas(steps, max_beta, max_beta)
    if not 0 <= offset < math.inf:
        raise InvalidRequest(f"offset = {offset:g} is outside what is allowed: 0 and above (0.008 is usual)")
    signal = [math.cos((i / steps + offset) / (1 + offset) * math.pi / 2) ** 2 for i in range(steps + 1)]
    return _table([min(1 - b / a, max_beta) for a, b in pairwise(signal)], zero_snr)


def sigmoid(steps: int = 1000, first: float = 1e-4, last: float = 0.02, zero_snr: bool = False) -> Table:
    """Betas ``first + (last - first) / (1 + e^-u)``, u on a line from -6 to 6.

    (GeoDiff: Xu et al. 2022, released code.) It is diffusers' ``sigmoid``. Jabri et al. 2022 have another schedule
    of this name: there alpha^2 itself, and not beta, is a sigmoid of time.
    """
    _check_betas(steps, first, last)
    return _table(
        [first + (last - first) / (1 + math.exp(6 - 12 * i / (steps - 1))) for i in range(steps)], zero_snr
    )


def from_betas(betas: Sequence[float]) -> Table:
    """The table of a list of betas in (0, 1); the last may be 1, which makes its level pure noise."""
    signal, table = 1.0, []
    for beta in betas:
        if not 0 < beta <= 1:
            raise InvalidRequest(f"beta = {beta:g} is outside what is allowed: above 0 and at most 1")
        signal *= 1 - beta
        table.append(signal)
    return Table(tuple(table))


def zero_snr(table: Table) -> Table:
    """``table`` with alpha moved and scaled so that the first stays and the last is 0 (Lin et al. 2024, algorithm 1).

    The last level is then pure noise, of which a network that predicts eps says nothing: take v.
    """
    roots = [math.sqrt(s) for s in table.signal]
    first, last = roots[0], roots[-1]
    return Table(tuple(((root - last) * first / (first - last)) ** 2 for root in roots))


def preserving(t: float, lam: float) -> Level:
    """The level of a variance-preserving process with ``lam``: alpha = e^lam sigma, alpha^2 + sigma^2 = 1."""
    small = math.exp(-abs(lam))
    long = math.hypot(1, small)
    return Level(t, 1 / long, small / long) if lam > 0 else Level(t, small / long, 1 / long)


def _table(betas: Sequence[float], zero: bool) -> Table:
    return zero_snr(from_betas(betas)) if zero else from_betas(betas)


def _check_betas(steps: int, first: float, last: float) -> None:
    if not 2 <= steps <= 100_000:
        raise InvalidRequest(f"a table of steps = {steps} levels is not allowed: 2 to 100000 (1000 is usual)")
    for beta in (first, last):
        if not 0 < beta < 1:
            raise InvalidRequest(f"beta = {beta:g} is outside what is allowed: above 0 and below 1")
