"""Streams: a row's noise is its seed's alone, and what diffusers draws for a list of generators."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers.utils.torch_utils import randn_tensor
from hypothesis import given
from hypothesis import strategies as st

from sfumato.errors import InvalidRequest
from sfumato.noise import MAX_SEED, Brownian, CudaBatch, CudaRows, Stream, TorchBatch
from sfumato.process.level import Level

AT, TO = Level(0.5, 0.5, 0.5), Level(0.4, 0.6, 0.4)
SEEDS = st.lists(st.integers(0, MAX_SEED), min_size=1, max_size=5)
SHAPES = st.lists(st.integers(1, 9), min_size=0, max_size=3)


@given(seeds=SEEDS, shape=SHAPES, draws=st.integers(1, 3), data=st.data())
def test_a_row_is_the_same_bits_in_any_batch_order_and_company(seeds, shape, draws, data) -> None:
    order = data.draw(st.permutations(range(len(seeds))))
    together = Stream([seeds[k] for k in order], shape)
    batches = [together.start(), *(together(AT, TO) for _ in range(draws))]
    for row, k in enumerate(order):
        alone = Stream([seeds[k]], shape)
        for batch in batches:
            assert torch.equal(alone(TO, AT, visit=3), batch[row : row + 1])


@given(seeds=SEEDS, shape=SHAPES)
def test_a_stream_is_diffusers_list_of_generators(seeds, shape) -> None:
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    stream = Stream(seeds, shape)
    for _ in range(2):
        peer = randn_tensor((len(seeds), *shape), generator=generators, device=torch.device("cpu"))
        assert torch.equal(stream.start(), peer)


def test_the_bits_of_a_stream_do_not_depend_on_torchs_defaults() -> None:
    known = Stream([7, 8], (2, 3)).start()
    assert known[0, 0].tolist() == torch.randn(2, 3, generator=torch.Generator().manual_seed(7))[0].tolist()
    torch.set_default_dtype(torch.float64)
    try:
        again = Stream([7, 8], (2, 3)).start()
        path = Brownian([7], (3,))(AT, TO)
    finally:
        torch.set_default_dtype(torch.float32)
    assert again.dtype == torch.float32
    assert torch.equal(again, known)
    assert torch.equal(path, Brownian([7], (3,))(AT, TO))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_the_dtype_is_taken_after_the_draw(dtype: torch.dtype) -> None:
    drawn = Stream([1, 2], (40,), dtype).start()
    assert drawn.dtype == dtype
    assert torch.equal(drawn, Stream([1, 2], (40,)).start().to(dtype))


@pytest.mark.parametrize(
    "make",
    [
        lambda seed: Stream([3, seed], (2,)),
        lambda seed: Brownian([3, seed], (2,)),
        lambda seed: TorchBatch(seed, 1, (2,)),
        lambda seed: CudaBatch(seed, 1, (2,)),
        lambda seed: CudaRows([3, seed], (2,)),
    ],
    ids=["Stream", "Brownian", "TorchBatch", "CudaBatch", "CudaRows"],
)
def test_seeds_are_whole_numbers_in_range(make) -> None:
    for bad in (-1, MAX_SEED + 1, 2**64, True, np.True_, 1.0, np.float64(2), "7", None, torch.tensor(3)):
        with pytest.raises(InvalidRequest, match=r"seed = .*0 to 9223372036854775807"):
            make(bad)
    for good in (0, MAX_SEED):
        assert make(good).start().shape[-1] == 2
    for kind in (np.int32, np.int64, np.uint64):
        assert torch.equal(make(kind(5)).start(), make(5).start())


def test_no_seeds_are_refused() -> None:
    for make in (Stream, Brownian, CudaRows):
        with pytest.raises(InvalidRequest, match="no seeds"):
            make([], (2,))
    for batch in (TorchBatch, CudaBatch):
        with pytest.raises(InvalidRequest, match="count = 0"):
            batch(1, 0, (2,))
