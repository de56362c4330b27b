"""Compare sfumato's CUDA generators with a device: ``python -m tests.noise.cuda_layout`` where there is one.

Prints a line for each draw and exits with 1 where one differs by more than ALLOWED.
"""

from __future__ import annotations

import sys

import torch

from sfumato.noise import CudaRows
from sfumato.noise.batch import LEAST_THREADS, CudaGenerator

ALLOWED = 1e-5
"""The device's fast sine is right to about 2^-21 of a radius that is below 7."""
SEEDS = (0, 42, 2**32 + 5, 2**63 - 1)


def sizes(card: tuple[int, int]) -> list[int]:
    """Sizes on both sides of every place where the layout changes."""
    resident = card[0] * (card[1] // 256) * 256
    around = [256, 1024, LEAST_THREADS, resident, 2 * resident, 4 * resident, 8 * resident]
    return sorted(
        {1, 12, 4 * 64 * 64, 4 * 128 * 128, 16 * 128 * 128, *(n + d for n in around for d in (-1, 0, 1))}
    )


def main() -> int:
    """Compare and print; 2 where there is no device."""
    if not torch.cuda.is_available():
        print("there is no CUDA device here")
        return 2
    properties = torch.cuda.get_device_properties(0)
    card = (properties.multi_processor_count, properties.max_threads_per_multi_processor)
    print(f"{properties.name}, card = {card}, torch {torch.__version__}")
    worst = 0.0
    for seed in SEEDS:
        theirs, ours = torch.Generator("cuda").manual_seed(seed), CudaGenerator(seed, card)
        for size in sizes(card):
            device = torch.randn(size, device="cuda", generator=theirs).cpu()
            gap = float((device - ours.randn(size)).abs().max())
            worst = max(worst, gap)
            print(f"seed {seed:>20}  size {size:>9}  greatest difference {gap:.2e}")
    rows = CudaRows(SEEDS, (4, 64, 64)).start()
    for row, seed in zip(rows, SEEDS, strict=True):
        generator = torch.Generator("cuda").manual_seed(seed)
        device = torch.randn(4, 64, 64, device="cuda", generator=generator).cpu()
        worst = max(worst, float((device - row).abs().max()))
    print(f"worst of all: {worst:.2e}; {'equal' if worst <= ALLOWED else 'DIFFERENT'} to {ALLOWED:g}")
    return 0 if worst <= ALLOWED else 1


if __name__ == "__main__":
    sys.exit(main())
