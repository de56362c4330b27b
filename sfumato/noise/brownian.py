"""Noise as increments of a Brownian path, so that a finer grid is the same noise seen at more points."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from struct import pack, unpack

import torch
from torch import Tensor

from sfumato.errors import InvalidRequest
from sfumato.noise.stream import Stream, checked_seeds
from sfumato.process.level import Level

DEPTH = 20
"""How often a cell is halved. Below, the path is a line: a relative step of r has a variance off by < 2^-21 / r."""
FIRST = -40
"""Cell 0 is the clock from 0 to 2^FIRST; cell i > 0 is the octave from 2^(FIRST + i - 1) to its double."""
CELLS = 128
END = 2.0 ** (FIRST + CELLS - 1)
"""Where the path ends: sigma / alpha below 1e-13. A later clock counts as infinite, which is sigma = 0."""
WHITE, LAST = CELLS << DEPTH, (CELLS << DEPTH) + 1
"""Numbers, above those of all nodes, of the noise of an interval without length and of an infinite one."""
MEMORY = 2**25
"""Bytes that each of the stores of one Brownian may take (a value at a time is held whatever its size)."""


def clock(at: Level) -> float:
    """``(alpha / sigma)^2``, the signal-to-noise ratio: 0 at pure noise, infinite where the path has ended.

    On this clock the noise that an ancestral (eta = 1) step draws is an increment of one path. With n the noise
    in ``x = alpha x0 + sigma n`` and c the clock, DDIM's step at eta = 1 (Song et al. 2021a, equations 12 and
    16) reads ``sqrt(c_to) n_to = sqrt(c_at) n_at + sqrt(c_to - c_at) fresh``. InvalidRequest for a level that
    has no clock.
    """
    ratio = float(at.alpha) / float(at.sigma) if at.sigma else math.inf
    time = ratio * ratio
    if not time >= 0:
        raise InvalidRequest(
            f"alpha = {at.alpha}, sigma = {at.sigma} is no level: noise is drawn between numbers"
        )
    return time if time < END else math.inf


class Brownian:
    """One Brownian path W a row over the clock ``c = (alpha / sigma)^2``; noise is its normalised increments.

    ``brownian(at, to)`` is ``(W(c_to) - W(c_at)) / sqrt(|c_to - c_at|)``. So noise is a function of seed and
    interval: asked again it is the same, in any order, and an ancestral sampler on a finer grid meets the same
    path, which makes the picture converge as steps grow. A sampler that comes back to an interval passes
    ``visit``, and each visit has a path of its own. Steps may go up in noise.

    W is the virtual tree of Li et al. 2020 (section 4, algorithm 3): octaves by independent increments, each
    halved ``DEPTH`` times by Lévy's midpoints, a line below. Every node has a generator of its own, seeded by
    row and node; its normals are float32, sums are float64. Nothing need be stored, what is stored saves time.

    Two limits are values too. An interval without length has white noise, drawn for that clock alone. One to
    sigma = 0 is infinite, and the limit of its increments is one draw that no other depends on.
    """

    def __init__(
        self, seeds: Sequence[int], shape: Sequence[int], dtype: torch.dtype = torch.float32
    ) -> None:
        """Rows of ``shape`` for ``seeds``; InvalidRequest for a seed outside 0 .. 2^63 - 1."""
        self.seeds = checked_seeds(seeds)
        self.shape, self.dtype = tuple(shape), dtype
        self._generator = torch.Generator("cpu")
        self._work = torch.empty((len(self.seeds), *self.shape), dtype=torch.float64, device="cpu")
        room = MEMORY // max(self._work.nbytes, 1)
        self._values, self._edges = _Recent(4), _Recent(min(max(room, 1), CELLS))
        self._normals = _Recent(min(2 * room, 4 * DEPTH))

    def start(self) -> Tensor:
        """The noise to begin with, (rows, *shape): the first draw of Stream, which no path depends on."""
        return Stream(self.seeds, self.shape, self.dtype).start()

    def __call__(self, at: Level, to: Level, visit: int = 0) -> Tensor:
        """The noise of the step from ``at`` to ``to``, (rows, *shape), of unit variance."""
        if visit < 0:
            raise InvalidRequest(f"visit = {visit} is outside what is allowed: 0 and above")
        start, end = clock(at), clock(to)
        if start == end:
            return self._draw(visit, WHITE, _bits(start)).to(self.dtype)
        if math.inf in (start, end):
            sign = 1.0 if end == math.inf else -1.0
            return self._draw(visit, LAST).mul_(sign).to(self.dtype)
        step = self._value(end, visit) - self._value(start, visit)
        return step.mul_(1 / math.sqrt(abs(end - start))).to(self.dtype)

    def value(self, time: float, visit: int = 0) -> Tensor:
        """W at the clock ``time``, from 0 to below END, float64, (rows, *shape)."""
        if not 0 <= time < END:
            raise InvalidRequest(f"time = {time} is outside what is allowed: 0 to below {END:g}")
        return self._value(float(time), visit).clone()

    def _value(self, time: float, visit: int) -> Tensor:
        return self._values.get((visit, time), lambda: self._climb(time, visit))

    def _climb(self, time: float, visit: int) -> Tensor:
        """W(time): the value at the foot of its cell, and what each node of the tree adds to it there."""
        cell = 0 if time < 2.0**FIRST else math.frexp(time)[1] - FIRST
        foot, length = _span(cell)
        value = self._edge(cell, visit).clone()
        place = (time - foot) / length
        if place:
            self._add(value, math.sqrt(length) * place, visit, cell << DEPTH)
        node = 1
        for _ in range(DEPTH):
            if not place:
                break
            # The middle of a bridge has a quarter of its length as variance; a tent carries it to both ends.
            self._add(value, math.sqrt(length) * min(place, 1 - place), visit, cell << DEPTH | node)
            right = place >= 0.5
            node, place, length = 2 * node + right, 2 * place - right, length / 2
        return value

    def _edge(self, cell: int, visit: int) -> Tensor:
        """W at the foot of ``cell``: the sum of the increments of all cells below, added in their order."""
        known = next((c for c in range(cell, 0, -1) if (visit, c) in self._edges), 0)
        if known:
            value = self._edges.get((visit, known), lambda: self._edge(known, visit))
        else:
            value = torch.zeros((len(self.seeds), *self.shape), dtype=torch.float64, device="cpu")
        for below in range(known, cell):
            value = value.clone()
            self._add(value, math.sqrt(_span(below)[1]), visit, below << DEPTH)
            self._edges.put((visit, below + 1), value)
        return value

    def _add(self, value: Tensor, factor: float, visit: int, node: int) -> None:
        # Product and sum apart: fused, they would be rounded otherwise at the end of a row than inside it.
        normal = self._normals.get((visit, node), lambda: self._draw(visit, node))
        value.add_(self._work.copy_(normal).mul_(factor))

    def _draw(self, visit: int, node: int, salt: int = 0) -> Tensor:
        """The normals of a node, float32."""
        drawn = torch.empty(self._work.shape, dtype=torch.float32, device="cpu")
        for row, seed in zip(drawn, self.seeds, strict=True):
            key = _mixed(_mixed(_mixed(seed) ^ visit) ^ salt)
            row.normal_(generator=self._generator.manual_seed(_scattered(node, key)))
        return drawn


class _Recent:
    """The tensors asked for last, as many as there is room for."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.held: OrderedDict[Hashable, Tensor] = OrderedDict()

    def __contains__(self, key: Hashable) -> bool:
        return key in self.held

    def get(self, key: Hashable, make: Callable[[], Tensor]) -> Tensor:
        found = self.held.get(key)
        return self.put(key, make() if found is None else found)

    def put(self, key: Hashable, value: Tensor) -> Tensor:
        self.held[key] = value
        self.held.move_to_end(key)
        while len(self.held) > self.room:
            self.held.popitem(last=False)
        return value


def _span(cell: int) -> tuple[float, float]:
    """Where a cell begins, and how long it is."""
    return (0.0, 2.0**FIRST) if cell == 0 else (2.0 ** (FIRST + cell - 1), 2.0 ** (FIRST + cell - 1))


def _bits(number: float) -> int:
    return int(unpack("<Q", pack("<d", number))[0])


def _mixed(number: int) -> int:
    """A one-to-one map of 64-bit numbers in which every bit depends on all: splitmix64's (Steele et al. 2014)."""
    mask = 2**64 - 1
    number = (number + 0x9E3779B97F4A7C15) & mask
    number = ((number ^ number >> 30) * 0xBF58476D1CE4E5B9) & mask
    number = ((number ^ number >> 27) * 0x94D049BB133111EB) & mask
    return number ^ number >> 31


def _scattered(number: int, key: int) -> int:
    """A one-to-one map of 32-bit numbers that a 64-bit ``key`` chooses.

    torch's CPU generator reads the low 32 bits of a seed alone, so with a hash some two nodes of a path might
    get one generator; with a one-to-one map none do.
    """
    mask = 2**32 - 1
    for part in (key & mask, key >> 32):
        number ^= part
        number = ((number ^ number >> 16) * 0x85EBCA6B) & mask
        number = ((number ^ number >> 13) * 0xC2B2AE35) & mask
        number ^= number >> 16
    return number
