"""What torch and CUDA generators draw: against torch, against published numbers, against the kernel's own words."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from diffusers.utils.torch_utils import randn_tensor
from hypothesis import given, settings
from hypothesis import strategies as st

from sfumato.errors import InvalidRequest
from sfumato.noise import CudaBatch, CudaRows, TorchBatch
from sfumato.noise.batch import LEAST_THREADS, CudaGenerator
from sfumato.noise.philox import box_muller, philox
from sfumato.process.level import Level

AT, TO = Level(0.5, 0.5, 0.5), Level(0.4, 0.6, 0.4)

# torch.manual_seed(0); torch.randn(8, 8, device="cuda"), as printed in a talk on torch.compile.
SEED_0 = """
-0.9247 -0.4253 -2.6438  0.1452 -0.1209 -0.5797 -0.6229 -0.3284
-1.0745 -0.3631 -1.6711  2.2655  0.3117 -0.1842  1.2866  1.1820
-0.1271  1.2169  1.4353  1.0605 -0.4941 -1.4244 -0.7244 -1.2973
 0.0697 -0.0074  1.8969  0.6878 -0.0779 -0.8373  1.3506 -0.2879
-0.5965 -0.3283 -0.9086 -0.8059 -0.7407 -0.0504  0.5435  1.5150
 0.0141  0.4532  1.6349  0.7124 -0.1806  1.0252 -1.4622 -0.7554
-0.1836  0.3824  0.3918 -0.0830  0.8971 -1.1123  0.1116  0.4863
-0.5499 -0.3231 -0.5469  0.9049  0.2837  0.1210  0.4730 -1.0823
"""
# Six draws of 4 after seed 42, as printed in a report of a fault in torch.compile.
SEED_42 = """
 0.1940  2.1614 -0.1721  0.8491
 0.1391 -0.1082 -0.7174  0.7566
-0.5187  1.2268  0.6255 -0.9117
-0.6974 -1.8688 -0.8832 -1.6627
-1.2682 -0.0383 -0.1029  1.4400
 1.4640 -0.3238  0.7740  1.5892
"""


def table(text: str) -> torch.Tensor:
    return torch.tensor([[float(v) for v in line.split()] for line in text.strip().splitlines()])


@given(seed=st.integers(0, 2**63 - 1), count=st.integers(1, 5), shape=st.lists(st.integers(1, 8), max_size=3))
def test_a_torch_batch_is_torchs_own(seed: int, count: int, shape: list[int]) -> None:
    noise = TorchBatch(seed, count, shape)
    peer, diffusers = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed)
    for drawn in (noise.start(), noise(AT, TO), noise(AT, TO, visit=2)):
        assert torch.equal(drawn, torch.randn(count, *shape, generator=peer))
        assert torch.equal(
            drawn, randn_tensor((count, *shape), generator=diffusers, device=torch.device("cpu"))
        )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_torch_batch_in_half_precision_is_torchs_draw_in_it(dtype: torch.dtype) -> None:
    """For 16 values and more; torch draws fewer by another rule, in which the dtype has a part."""
    peer = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(3), dtype=dtype)
    assert torch.equal(TorchBatch(3, 2, (4, 6, 6), dtype).start(), peer)


def test_only_the_first_row_of_a_torch_batch_is_that_of_other_batches() -> None:
    one, two = TorchBatch(3, 1, (4, 8, 8)), TorchBatch(3, 2, (4, 8, 8))
    assert torch.equal(one.start()[0], two.start()[0])
    assert not torch.equal(one(AT, TO)[0], two(AT, TO)[0])


def test_a_cuda_generator_draws_what_devices_are_known_to_draw() -> None:
    assert CudaGenerator(0).randn(8, 8).numpy() == pytest.approx(table(SEED_0).numpy(), abs=5.1e-5)
    generator = CudaGenerator(42)
    for row in table(SEED_42):
        assert generator.randn(4).numpy() == pytest.approx(row.numpy(), abs=5.1e-5)


def kernel(seed: int, size: int, card: tuple[int, int], offset: int) -> tuple[np.ndarray, int]:
    """torch's kernel told thread by thread: the draw of ``size`` numbers and the offset after it, of curand."""
    blocks = min(card[0] * (card[1] // 256), math.ceil(size / 256))
    out, width = np.full(size, np.nan, np.float32), 256 * blocks
    for thread in range(width):
        counter, place = offset // 4, thread
        while place < size:
            word = philox(
                (counter & 0xFFFFFFFF, counter >> 32, thread & 0xFFFFFFFF, thread >> 32),
                (seed & 0xFFFFFFFF, seed >> 32),
            )
            four = [*box_muller(word[0], word[1]), *box_muller(word[2], word[3])]
            for k in range(4):
                if place + k * width < size:
                    out[place + k * width] = four[k]
            counter, place = counter + 1, place + 4 * width
    return out, offset + ((size - 1) // (width * 4) + 1) * 4


@pytest.mark.parametrize("card", [(1, 256), (1, 700), (2, 512)])
@pytest.mark.parametrize("size", [1, 255, 257, 1024, 1025, 2500])
def test_a_cuda_generators_layout_is_the_kernels(card: tuple[int, int], size: int) -> None:
    generator, offset = CudaGenerator(2**40 + 3, card), 0
    for numbers in (size, 300):
        expected, offset = kernel(2**40 + 3, numbers, card, offset)
        assert np.array_equal(generator.randn(numbers).numpy(), expected)
    assert 4 * generator.offset == offset


@given(size=st.integers(1, LEAST_THREADS), seed=st.integers(0, 2**63 - 1))
@settings(max_examples=20, deadline=None)
def test_a_draw_that_fits_depends_on_no_card(size: int, seed: int) -> None:
    draws = [CudaGenerator(seed, card).randn(size) for card in (None, (16, 1536), (82, 1536), (132, 2048))]
    assert all(torch.equal(draw, draws[0]) for draw in draws)


def test_a_draw_that_does_not_fit_needs_its_card() -> None:
    size = LEAST_THREADS + 1
    with pytest.raises(InvalidRequest, match=r"24577 .* above 24576.* card = \(82, 1536\)"):
        CudaGenerator(1).randn(size)
    with pytest.raises(InvalidRequest, match="name the card"):
        CudaBatch(1, 2, (4, 64, 64)).start()
    small, large = CudaGenerator(1, (16, 1536)).randn(size), CudaGenerator(1, (82, 1536)).randn(size)
    assert torch.equal(small[:-1], large[:-1])
    assert small[-1] != large[-1]
    for card in ((0, 1536), (-1, 1536), (82, 255)):
        with pytest.raises(InvalidRequest, match="card = "):
            CudaBatch(1, 1, (4,), card=card)


def test_rows_are_generators_of_their_own_and_a_batch_is_one() -> None:
    shape = (4, 8, 8)
    rows, batch = CudaRows([7, 3], shape), CudaBatch(7, 2, shape)
    alone, flat = [CudaGenerator(7), CudaGenerator(3)], CudaGenerator(7)
    for draw in range(3):
        drawn = rows.start() if draw == 0 else rows(AT, TO)
        assert torch.equal(drawn, torch.stack([generator.randn(*shape) for generator in alone]))
        drawn = batch.start() if draw == 0 else batch(AT, TO)
        assert torch.equal(drawn, flat.randn(2, *shape))
    # A row may be as large as a card's threads, however many rows there are.
    assert CudaRows([1, 2, 3], (4, 64, 64)).start().shape == (3, 4, 64, 64)


def test_the_dtype_is_taken_after_the_draw_and_nothing_is_something() -> None:
    assert torch.equal(CudaBatch(1, 2, (5,), torch.float16).start(), CudaBatch(1, 2, (5,)).start().half())
    assert CudaRows([1], (5,), torch.float64).start().dtype == torch.float64
    assert CudaGenerator(1).randn().shape == ()
    generator = CudaGenerator(1)
    assert generator.randn(0, 3).shape == (0, 3)
    assert torch.equal(generator.randn(3), CudaGenerator(1).randn(3))
