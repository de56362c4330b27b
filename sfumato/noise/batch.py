"""Noise that other programs draw: torch's one generator for a whole batch, and a CUDA generator without CUDA."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from sfumato.errors import InvalidRequest
from sfumato.noise.philox import normals
from sfumato.noise.stream import checked_seed, checked_seeds
from sfumato.process.level import Level

Card = tuple[int, int]
"""A CUDA card: how many multiprocessors it has, and how many threads each of them holds."""

BLOCK = 256
"""Threads in a block of torch's CUDA kernels for random numbers."""

LEAST_THREADS = 16 * 1536
"""The resident threads of the smallest GeForce RTX card, the RTX 2050 (16 multiprocessors of 1536 threads)."""


class TorchBatch:
    """One CPU generator for the whole batch: ``torch.randn(count, *shape)``, again and again.

    It is what diffusers draws for one ``torch.Generator().manual_seed(seed)`` in float32. Only the first row is
    the same in batches of another size.
    """

    def __init__(
        self, seed: int, count: int, shape: Sequence[int], dtype: torch.dtype = torch.float32
    ) -> None:
        """``count`` rows of ``shape``; InvalidRequest for a bad seed or a count below 1."""
        self.generator = torch.Generator("cpu").manual_seed(checked_seed(seed))
        self.shape, self.dtype = (_checked_count(count), *shape), dtype

    def start(self) -> Tensor:
        """The first draw, (count, *shape)."""
        return self._draw()

    def __call__(self, at: Level, to: Level, visit: int = 0) -> Tensor:
        """The next draw, (count, *shape); the levels do not matter."""
        return self._draw()

    def _draw(self) -> Tensor:
        drawn = torch.randn(self.shape, generator=self.generator, dtype=torch.float32, device="cpu")
        return drawn.to(self.dtype)


class CudaGenerator:
    """What ``torch.Generator("cuda").manual_seed(seed)`` draws with ``torch.randn``, computed by numpy.

    Number i of a draw is made by thread i, and each draw moves the counter of all threads on. A card that has
    fewer threads than a draw has numbers gives each thread several, and then the order depends on the card.
    """

    def __init__(self, seed: int, card: Card | None = None) -> None:
        """InvalidRequest for a bad seed or a ``card`` that cannot run a block of threads."""
        self.seed, self.card, self.offset = checked_seed(seed), _checked_card(card), 0

    def randn(self, *shape: int) -> Tensor:
        """The next draw, float32, on the CPU; InvalidRequest where it depends on a card and none is named."""
        size = math.prod(shape)
        if size == 0:
            return torch.empty(shape, dtype=torch.float32, device="cpu")
        threads = -(-size // BLOCK) * BLOCK
        if self.card is not None:
            # A multiprocessor holds whole blocks alone.
            threads = min(threads, self.card[0] * (self.card[1] // BLOCK) * BLOCK)
        elif size > LEAST_THREADS:
            raise InvalidRequest(
                f"a CUDA generator's draw of {size} numbers depends on the card above {LEAST_THREADS}, which the "
                f"smallest GeForce RTX makes at once: name the card, such as card = (82, 1536), its "
                f"multiprocessors and the threads of each (an RTX 3090)"
            )
        # Every call of a thread gives four numbers, `threads` places apart; see DistributionTemplates.h of torch.
        calls = -(-size // (4 * threads))
        blocks = [normals(self.seed, self.offset + call, np.arange(threads)) for call in range(calls)]
        self.offset += calls
        flat = np.concatenate([part for block in blocks for part in block])[:size]
        return torch.from_numpy(flat).reshape(shape)


class CudaBatch:
    """One CUDA generator for the whole batch, ``torch.randn(count, *shape, device="cuda")``, without a CUDA device.

    The numbers are those of the device up to the last bits (see ``philox.box_muller``).
    """

    def __init__(
        self,
        seed: int,
        count: int,
        shape: Sequence[int],
        dtype: torch.dtype = torch.float32,
        *,
        card: Card | None = None,
    ) -> None:
        """``count`` rows of ``shape``; InvalidRequest for a bad seed, count or card."""
        self.generator = CudaGenerator(seed, card)
        self.shape, self.dtype = (_checked_count(count), *shape), dtype

    def start(self) -> Tensor:
        """The first draw, (count, *shape)."""
        return self._draw()

    def __call__(self, at: Level, to: Level, visit: int = 0) -> Tensor:
        """The next draw, (count, *shape); the levels do not matter."""
        return self._draw()

    def _draw(self) -> Tensor:
        return self.generator.randn(*self.shape).to(self.dtype)


class CudaRows:
    """One CUDA generator a row, without a CUDA device: rows depend on their own seed alone.

    It is what diffusers draws for a list of CUDA generators, and A1111 with random numbers from the "GPU".
    """

    def __init__(
        self,
        seeds: Sequence[int],
        shape: Sequence[int],
        dtype: torch.dtype = torch.float32,
        *,
        card: Card | None = None,
    ) -> None:
        """Rows of ``shape`` for ``seeds``; InvalidRequest for a bad seed or card."""
        self.generators = [CudaGenerator(seed, card) for seed in checked_seeds(seeds)]
        self.shape, self.dtype = tuple(shape), dtype

    def start(self) -> Tensor:
        """The first draw of every row, (rows, *shape)."""
        return self._draw()

    def __call__(self, at: Level, to: Level, visit: int = 0) -> Tensor:
        """The next draw of every row, (rows, *shape); the levels do not matter."""
        return self._draw()

    def _draw(self) -> Tensor:
        return torch.stack([generator.randn(*self.shape) for generator in self.generators]).to(self.dtype)


def _checked_count(count: int) -> int:
    if count < 1:
        raise InvalidRequest(f"count = {count} is outside what is allowed: 1 and above")
    return count


def _checked_card(card: Card | None) -> Card | None:
    if card is not None and (card[0] < 1 or card[1] < BLOCK):
        raise InvalidRequest(
            f"card = {card} is outside what is allowed: at least 1 multiprocessor of at least {BLOCK} threads, "
            f"such as (82, 1536) for an RTX 3090"
        )
    return card
