"""Noise: unit-variance draws in which picture k depends on its own seed alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from sfumato.errors import InvalidRequest
from sfumato.process.level import Level

MAX_SEED = 2**63 - 1


class Noise(Protocol):
    """Where a task and its sampler get their noise."""

    def start(self) -> Tensor:
        """The first draw of every row."""
        ...

    def __call__(self, at: Level, to: Level, visit: int = 0) -> Tensor:
        """Fresh noise for the step from ``at`` to ``to``, of unit variance; ``visit`` counts returns to it."""
        ...


class Stream:
    """One CPU generator a row, consumed in order, float32: the same bits in any batch and on any device."""

    def __init__(
        self, seeds: Sequence[int], shape: Sequence[int], dtype: torch.dtype = torch.float32
    ) -> None:
        """Rows of ``shape`` for ``seeds``; InvalidRequest for a seed outside 0 .. 2^63 - 1."""
        for seed in seeds:
            if not 0 <= seed <= MAX_SEED:
                raise InvalidRequest(f"seed = {seed} is outside what is allowed: 0 to {MAX_SEED}")
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.shape, self.dtype = tuple(shape), dtype

    def start(self) -> Tensor:
        """The first draw of every row, (rows, *shape)."""
        return self._draw()

    def __call__(self, at: Level, to: Level, visit: int = 0) -> Tensor:
        """The next draw of every row, (rows, *shape)."""
        return self._draw()

    def _draw(self) -> Tensor:
        rows = [torch.randn(self.shape, generator=g) for g in self.generators]
        return torch.stack(rows).to(self.dtype)
