"""What every noise is, what a seed may be, and the plainest noise: one generator a row, consumed in order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import Protocol

import torch
from torch import Tensor

from sfumato.errors import InvalidRequest
from sfumato.process.level import Level

MAX_SEED = 2**63 - 1
"""The greatest seed."""


class Noise(Protocol):
    """Where a task and its sampler get their noise."""

    def start(self) -> Tensor:
        """The first draw of every row."""
        ...

    def __call__(self, at: Level, to: Level, visit: int = 0) -> Tensor:
        """Fresh noise for the step from ``at`` to ``to``, of unit variance; ``visit`` counts returns to it."""
        ...


def checked_seed(seed: object) -> int:
    """``seed`` as an int; InvalidRequest for what is not a whole number from 0 to 2^63 - 1.

    Whole numbers of numpy are taken. ``True`` and ``1.0`` are not seeds: they would pass for 1 unnoticed.
    """
    if isinstance(seed, bool) or not isinstance(seed, Integral):
        raise InvalidRequest(f"seed = {seed!r} is not a whole number; allowed: 0 to {MAX_SEED}")
    number = int(seed)
    if not 0 <= number <= MAX_SEED:
        raise InvalidRequest(f"seed = {number} is outside what is allowed: 0 to {MAX_SEED}")
    return number


def checked_seeds(seeds: Iterable[object]) -> tuple[int, ...]:
    """All ``seeds`` by ``checked_seed``; InvalidRequest where there are none."""
    checked = tuple(checked_seed(seed) for seed in seeds)
    if not checked:
        raise InvalidRequest("there are no seeds; noise has a row for each, and at least one")
    return checked


class Stream:
    """One CPU generator a row, consumed in order, float32: the same bits in any batch and on any device."""

    def __init__(
        self, seeds: Sequence[int], shape: Sequence[int], dtype: torch.dtype = torch.float32
    ) -> None:
        """Rows of ``shape`` for ``seeds``; InvalidRequest for a seed outside 0 .. 2^63 - 1.

        Draws are float32 and then turned into ``dtype``, so that the same seed is the same noise in each.
        """
        self.generators = [torch.Generator("cpu").manual_seed(seed) for seed in checked_seeds(seeds)]
        self.shape, self.dtype = tuple(shape), dtype

    def start(self) -> Tensor:
        """The first draw of every row, (rows, *shape)."""
        return self._draw()

    def __call__(self, at: Level, to: Level, visit: int = 0) -> Tensor:
        """The next draw of every row, (rows, *shape); the levels do not matter."""
        return self._draw()

    def _draw(self) -> Tensor:
        rows = [
            torch.randn(self.shape, generator=generator, dtype=torch.float32, device="cpu")
            for generator in self.generators
        ]
        return torch.stack(rows).to(self.dtype)


class Only:
    """One row of a noise, as if it were all: what that row would get in company of the others."""

    def __init__(self, noise: Noise, row: int) -> None:
        """Row ``row``, counted from 0, of ``noise``."""
        self.noise, self.row = noise, row

    def start(self) -> Tensor:
        """The first draw of the row, (1, *shape)."""
        return self.noise.start()[self.row : self.row + 1]

    def __call__(self, at: Level, to: Level, visit: int = 0) -> Tensor:
        """Fresh noise for the row, (1, *shape)."""
        return self.noise(at, to, visit)[self.row : self.row + 1]
