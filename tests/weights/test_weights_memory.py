"""Pages that are provided ahead change no value, wherever a tensor begins and ends; nor does converting in place."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from sfumato.weights import memory
from sfumato.weights.memory import page_in
from sfumato.weights.reading import PIECE, read_into
from sfumato.weights.source import open_source


@settings(derandomize=True, max_examples=25, deadline=None)
@given(first=st.integers(0, 9000), count=st.integers(0, 700_000))
def test_values_stay_and_neighbours_too(first: int, count: int) -> None:
    whole = torch.arange(720_000, dtype=torch.int32)
    page_in(whole[first : first + count])
    assert torch.equal(whole, torch.arange(720_000, dtype=torch.int32))


def test_a_system_without_it_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_madvise", lambda: None)
    page_in(torch.zeros(10**6))


@pytest.mark.parametrize("count", [1, 5, PIECE // 2 - 1, PIECE // 2, PIECE // 2 + 77, 3 * PIECE + 5])
def test_every_length_of_float16_becomes_the_bfloat16_that_torch_makes(count: int, tmp_path: Path) -> None:
    values = torch.randn(count, generator=torch.Generator().manual_seed(count)).half()
    values[: count // 3] = torch.tensor([65504.0, -6e-8, 0.0]).half().repeat(count)[: count // 3]
    save_file({"w": values}, tmp_path / "one.safetensors")
    with open_source(tmp_path / "one.safetensors") as source:
        out = torch.empty(count, dtype=torch.bfloat16)
        read_into("w", source["w"], out)
        assert torch.equal(out, values.to(torch.bfloat16))
        some = torch.empty(count // 2, dtype=torch.bfloat16)
        read_into("w", source["w"], some, first=count // 4)
        assert torch.equal(some, values[count // 4 : count // 4 + count // 2].to(torch.bfloat16))
