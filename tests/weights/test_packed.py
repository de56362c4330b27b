"""Packed weights: how far they are from the original, and that a damaged file is told and nothing else."""

from __future__ import annotations

import hashlib
import json
import random
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from sfumato.errors import WeightsError
from sfumato.weights.packed import SCALE, dequantize, load_packed, quantize, save_packed

FACTS: dict[str, object] = {"recipe": "a", "seen": 2**53 - 1, "bins": [0.1, None, 1e-300], "text": "é\n\"'"}


def some(*shape: int, seed: int = 0, size: float = 1.0) -> Tensor:
    return size * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def tensors() -> dict[str, Tensor]:
    return {
        "kernel": some(16, 32, 3, 3, seed=1) * torch.logspace(-6, 3, 16).view(-1, 1, 1, 1),
        "matrix": some(64, 64, seed=2).T,
        "norm.weight": some(64, seed=3, size=30),
        "small": some(3, 5, seed=4),
        "number": torch.tensor(0.3),
    }


@pytest.fixture
def packed(tmp_path: Path) -> tuple[Path, str]:
    path = tmp_path / "weights.safetensors"
    return path, save_packed(path, tensors(), FACTS)


@contextmanager
def refused_at_once(path: Path) -> Iterator[None]:
    """The block must raise WeightsError that names ``path``, in one sentence and within a second."""
    began = time.perf_counter()
    with pytest.raises(WeightsError) as caught:
        yield
    assert time.perf_counter() - began < 1
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@settings(max_examples=150, deadline=None)
@given(
    rows=st.integers(1, 6),
    rest=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    spread=st.floats(0, 12),
    seed=st.integers(0, 2**31),
    zero=st.booleans(),
)
def test_int8_is_within_half_a_step_of_each_channel(
    rows: int, rest: list[int], spread: float, seed: int, zero: bool
) -> None:
    weight = some(rows, *rest, seed=seed)
    weight *= 10 ** (spread * (torch.rand(rows, generator=torch.Generator().manual_seed(seed)) - 0.5)).view(
        -1, *[1] * len(rest)
    )
    if zero:
        weight[0] = 0
    values, scale = quantize(weight)
    error = (weight.double() - dequantize(values, scale).double()).abs().flatten(1)
    step = scale.double()[:, None]
    assert (error <= 0.5 * step * (1 + 1e-4)).all()
    # The largest value of a channel is exact up to rounding, and the scale is no wider than it must be.
    largest = weight.abs().flatten(1).amax(1).double()
    assert torch.allclose(127 * scale.double(), largest, rtol=1e-6, atol=1e-11)
    assert int(values.max()) <= 127
    assert int(values.min()) >= -127


@pytest.mark.parametrize("number", [1, -1, 127, -127, 64])
def test_whole_steps_are_exact(number: int) -> None:
    weight = torch.tensor([[127.0, number], [254.0, 2 * number]])
    values, scale = quantize(weight)
    assert torch.equal(dequantize(values, scale), weight)


def test_a_round_trip_keeps_names_shapes_values_and_metadata(packed: tuple[Path, str]) -> None:
    path, sha = packed
    assert sha == hashlib.sha256(path.read_bytes()).hexdigest()
    back, facts = load_packed(path, sha)
    assert facts == FACTS
    assert back.keys() == tensors().keys()
    stored = load_file(path)
    for name, original in tensors().items():
        assert back[name].dtype == torch.float32
        assert back[name].shape == original.shape
        if name in ("kernel", "matrix"):
            assert stored[name].dtype == torch.int8
            half = 0.5 * stored[name + SCALE].double().view(-1, *[1] * (original.ndim - 1)) * (1 + 1e-4)
            assert ((back[name].double() - original.double()).abs() <= half).all()
        else:
            assert torch.equal(back[name], original.half().float())


def test_loading_and_saving_again_changes_nothing(packed: tuple[Path, str], tmp_path: Path) -> None:
    path, _ = packed
    back, facts = load_packed(path)
    save_packed(tmp_path / "again.safetensors", back, facts)
    again, _ = load_packed(tmp_path / "again.safetensors")
    for name, value in back.items():
        assert torch.allclose(again[name], value, rtol=1e-6, atol=0)


def test_the_same_weights_make_the_same_file(packed: tuple[Path, str], tmp_path: Path) -> None:
    backwards = dict(reversed(tensors().items()))
    assert save_packed(tmp_path / "again.safetensors", backwards, dict(reversed(FACTS.items()))) == packed[1]


@pytest.mark.parametrize("name", ["kernel", "norm.weight", "number"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 1e6])
def test_what_cannot_be_stored_is_refused_and_not_written(name: str, value: float, tmp_path: Path) -> None:
    wanted = {key: value.contiguous() for key, value in tensors().items()}
    wanted[name].view(-1)[0] = value
    path = tmp_path / "weights.safetensors"
    if name == "kernel" and value == 1e6:
        save_packed(path, wanted, {})
        return
    with pytest.raises(WeightsError, match=name):
        save_packed(path, wanted, {})
    assert list(tmp_path.iterdir()) == []


def test_truncation_anywhere_is_told(packed: tuple[Path, str]) -> None:
    path, sha = packed
    data = path.read_bytes()
    header = 8 + int.from_bytes(data[:8], "little")
    chance = random.Random(0)
    places = {0, 1, 7, 8, 9, header - 1, header, header + 1, len(data) - 1}
    for size in (
        places
        | {chance.randrange(header) for _ in range(30)}
        | {chance.randrange(len(data)) for _ in range(30)}
    ):
        path.write_bytes(data[:size])
        for expected in (sha, None):
            with refused_at_once(path):
                load_packed(path, expected)
    path.write_bytes(data + b"\0")
    for expected in (sha, None):
        with refused_at_once(path):
            load_packed(path, expected)


def test_a_flipped_bit_is_always_told_by_the_hash(packed: tuple[Path, str]) -> None:
    path, sha = packed
    data = bytearray(path.read_bytes())
    chance = random.Random(1)
    for place in [*range(16), *(chance.randrange(len(data)) for _ in range(60))]:
        bit = 1 << chance.randrange(8)
        data[place] ^= bit
        path.write_bytes(data)
        with refused_at_once(path):
            load_packed(path, sha)
        data[place] ^= bit
    path.write_bytes(data)
    load_packed(path, sha)


def test_without_a_hash_a_flipped_bit_of_the_header_is_told_or_harmless(packed: tuple[Path, str]) -> None:
    """Every bit of the names, types, shapes and places: the tensors that do come have their values."""
    path, _ = packed
    good = path.read_bytes()
    back, _ = load_packed(path)
    header = 8 + int.from_bytes(good[:8], "little")
    told = 0
    data = bytearray(good)
    for place in range(header):
        bit = 1 << (place % 8)
        data[place] ^= bit
        path.write_bytes(data)
        began = time.perf_counter()
        try:
            found, _ = load_packed(path)
        except WeightsError:
            told += 1
        else:
            for name in found.keys() & back.keys():
                assert torch.equal(found[name].flatten(), back[name].flatten())
        assert time.perf_counter() - began < 1
        data[place] ^= bit
    assert told > 0.6 * header


def rewrite(path: Path, change: dict[str, Tensor], drop: str = "") -> None:
    """Alter stored tensors with a valid header, as only a person or a program would."""
    stored = {name: value for name, value in load_file(path).items() if name != drop}
    save_file({**stored, **change}, path, {"sfumato": "{}"})


@pytest.mark.parametrize(
    ("change", "drop"),
    [
        ({"small": torch.full((3, 5), torch.nan, dtype=torch.float16)}, ""),
        ({"number": torch.tensor(torch.inf, dtype=torch.float16)}, ""),
        ({"kernel" + SCALE: torch.full((16,), torch.nan)}, ""),
        ({"kernel" + SCALE: torch.full((16,), 3e38)}, ""),
        ({"kernel" + SCALE: torch.ones(15)}, ""),
        ({"kernel" + SCALE: torch.ones(1)}, ""),
        ({"kernel" + SCALE: torch.ones(32)}, ""),
        ({}, "kernel" + SCALE),
        ({}, "kernel"),
        ({"small": torch.ones(3, 5, dtype=torch.int16)}, ""),
        ({"small": torch.ones(3, 5, dtype=torch.bool)}, ""),
        ({"small": torch.tensor(1, dtype=torch.int8), "small" + SCALE: torch.ones(())}, ""),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else value,
)
def test_tensors_that_do_not_fit_are_told(
    change: dict[str, Tensor], drop: str, packed: tuple[Path, str]
) -> None:
    path, _ = packed
    rewrite(path, change, drop)
    with refused_at_once(path):
        load_packed(path)


def with_header(header: object) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PK\x03\x04 a zip, such as a pickle of torch's" * 9,
        b"\x89PNG\r\n\x1a\n" * 9,
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 2**31) + b"{}",
        with_header([]),
        with_header({}),
        with_header({"__metadata__": {}}),
        with_header({"__metadata__": {"sfumato": "not JSON"}}),
        with_header({"__metadata__": {"sfumato": "[]"}}),
        with_header({"__metadata__": {"sfumato": "1"}}),
        with_header({"__metadata__": {"sfumato": "[" * 100_000}}),
        with_header(b"[" * 100_000),
        with_header({"__metadata__": {"sfumato": 1}}),
        with_header({"__metadata__": None}),
        with_header({"w": {"dtype": "F16", "shape": [2**62, 4], "data_offsets": [0, 0]}}),
        with_header({"w": {"dtype": "F16", "shape": [-1], "data_offsets": [0, 2]}}) + b"\0\0",
        with_header(b'{"__metadata__":{"sfumato":"\xff"}}'),
    ],
)
def test_what_is_no_such_file_is_told(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(data)
    with refused_at_once(path):
        load_packed(path)


def test_a_file_that_is_not_there_or_a_folder_is_told(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.safetensors", tmp_path):
        with refused_at_once(path):
            load_packed(path)
