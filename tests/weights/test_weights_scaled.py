"""Files of 8-bit floats, with scales under each of their names: values, what is dropped, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from sfumato.errors import WeightsError
from sfumato.weights.header import Entry, File
from sfumato.weights.quantized import unpacked
from sfumato.weights.scaled import folded
from sfumato.weights.source import join, open_source

EIGHT = {"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}


def saved(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> Path:
    save_file(tensors, path, metadata)
    return path


def stored(dtype: torch.dtype, rows: int = 4, columns: int = 6) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(3)).to(dtype)


@pytest.mark.parametrize("kind", EIGHT)
def test_every_code_means_what_torch_says(kind: str) -> None:
    codes = torch.arange(256, dtype=torch.uint8).view(2, 128)
    assert torch.allclose(unpacked(kind, codes), codes.view(EIGHT[kind]).float(), 0, 0, equal_nan=True)


@pytest.mark.parametrize("dtype", [*EIGHT.values(), torch.bfloat16])
@pytest.mark.parametrize(
    ("name", "scale"),
    [
        ("scale_weight", torch.tensor(0.37)),
        ("scale_weight", torch.tensor([0.37])),
        ("weight_scale", torch.tensor(0.37, dtype=torch.bfloat16)),
        ("weight_scale", torch.tensor([0.5, 0.3, -2.0, 1e-3])),
        ("weight_scale", torch.tensor([[0.5], [0.3], [-2.0], [1e-3]])),
    ],
)
def test_a_weight_is_multiplied_by_its_scale(
    tmp_path: Path, dtype: torch.dtype, name: str, scale: Tensor
) -> None:
    weight, bias = stored(dtype), torch.randn(4)
    tensors = {"a.weight": weight, f"a.{name}": scale, "a.bias": bias, "b.weight": stored(dtype)}
    source = open_source(saved(tmp_path / "x.safetensors", tensors))
    expected = weight.float() * scale.float().reshape(-1, 1)
    assert list(source.entries) == [
        key for key in source.entries if key in ("a.weight", "a.bias", "b.weight")
    ]
    assert torch.equal(source.read("a.weight"), expected)
    assert torch.equal(source.read("a.weight", torch.bfloat16), expected.to(torch.bfloat16))
    part = torch.empty(13)
    source.read_into("a.weight", part, first=5)
    assert torch.equal(part, expected.view(-1)[5:18])
    assert source["b.weight"].torch_dtype == dtype
    assert source.read("b.weight").dtype == dtype  # without a scale: as it is


def test_markers_go_and_input_scales_are_noted(tmp_path: Path) -> None:
    weight = stored(torch.float8_e4m3fn)
    about = torch.tensor(list(json.dumps({"format": "float8_e4m3fn"}).encode()), dtype=torch.uint8)
    tensors = {
        "net.scaled_fp8": torch.zeros(2, dtype=torch.float8_e4m3fn),
        "net.a.weight": weight,
        "net.a.scale_weight": torch.tensor(2.0),
        "net.a.scale_input": torch.tensor(3.0),
        "net.b.weight": weight.clone(),
        "net.b.weight_scale": torch.tensor(0.5),
        "net.b.input_scale": torch.tensor(0.5),
        "net.b.comfy_quant": about,
        "net.c.scale": torch.ones(3),  # a norm's own
    }
    source = open_source(saved(tmp_path / "x.safetensors", tensors))
    assert set(source.entries) == {"net.a.weight", "net.b.weight", "net.c.scale"}
    assert source.notes == ("2 scales of inputs are not used: products are not of 8-bit numbers here",)
    assert torch.equal(source.under("net.").read("b.weight"), weight.float() / 2)
    assert join({"transformer": source}).notes == source.notes
    assert source.quantized


def test_shards_and_folders(tmp_path: Path) -> None:
    folder = tmp_path / "transformer"
    folder.mkdir()
    one, two = "m-00001-of-00002.safetensors", "m-00002-of-00002.safetensors"
    saved(folder / one, {"a.weight": stored(torch.float8_e4m3fn)})
    saved(folder / two, {"a.weight_scale": torch.tensor(2.0)})
    where = {"a.weight": one, "a.weight_scale": two}
    (folder / "m.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    (tmp_path / "model_index.json").write_text(json.dumps({"transformer": ["diffusers", "X"]}))
    whole = open_source(tmp_path)
    expected = stored(torch.float8_e4m3fn).float() * 2
    assert torch.equal(whole.read("transformer.a.weight"), expected)
    assert torch.equal(whole.part("transformer").read("a.weight"), expected)


@pytest.mark.parametrize(
    ("weight", "name", "scale"),
    [
        (stored(torch.float8_e4m3fn), "weight_scale", torch.ones(2, 3)),  # blocks
        (stored(torch.float8_e4m3fn), "weight_scale", torch.ones(6)),  # columns
        (stored(torch.float8_e4m3fn), "weight_scale_inv", torch.ones(1, 1)),
        (torch.zeros(4, 3, dtype=torch.uint8), "weight_scale_2", torch.ones(1)),  # 4-bit floats
        (torch.zeros(4, 3, dtype=torch.int8), "weight_scale", torch.ones(4)),
        (torch.zeros(4, 3, dtype=torch.uint8), "comfy_quant", torch.zeros(9, dtype=torch.uint8)),
        (stored(torch.float8_e4m3fn), "weight_scale", torch.ones(4, dtype=torch.int32)),
    ],
)
def test_other_ways_are_refused_by_name(tmp_path: Path, weight: Tensor, name: str, scale: Tensor) -> None:
    path = saved(tmp_path / "x.safetensors", {"a.weight": weight, f"a.{name}": scale})
    with pytest.raises(WeightsError, match=f"a way that is not read: 'a\\.{name}'"):
        open_source(path)


def test_two_scales_for_one_weight_and_scales_without_sense(tmp_path: Path) -> None:
    weight = stored(torch.float8_e5m2)
    both = {"a.weight": weight, "a.weight_scale": torch.ones(1), "a.scale_weight": torch.ones(1)}
    with pytest.raises(WeightsError, match="a way that is not read"):
        open_source(saved(tmp_path / "x.safetensors", both))
    bad = {"a.weight": weight, "a.weight_scale": torch.tensor([float("nan")])}
    source = open_source(saved(tmp_path / "y.safetensors", bad))
    with pytest.raises(WeightsError, match=r"the scale of a\.weight holds NaN"):
        source.read("a.weight")


NAMES = st.sampled_from(
    [
        f"{a}.{b}"
        for a in ("x", "y.z")
        for b in ("weight", "scale_weight", "weight_scale", "scale_input", "bias")
    ]
    + ["scaled_fp8", "x.comfy_quant", "x.weight_scale_2", "weight", "weight_scale", "scale"]
)
FILE = File(Path("f"), 0, 0)
ENTRIES = st.builds(
    lambda shape, dtype: Entry(shape, dtype, 0, FILE, 0),
    st.sampled_from([(), (1,), (4,), (4, 1), (4, 4), (0,)]),
    st.sampled_from(["F8_E4M3", "F32", "U8"]),
)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(NAMES, ENTRIES))
def test_nothing_is_lost_that_is_no_scale(entries: dict[str, Entry]) -> None:
    told = ""
    try:
        kept, _ = folded(entries)
    except WeightsError as error:
        told = str(error)
        kept = {}
    assert bool(told) or {k for k in entries if k.endswith(("weight", "bias"))} - {
        k for k in entries if k.endswith("scale_weight")
    } <= set(kept)
    for name, entry in kept.items():
        assert entry == entries[name] or (name.endswith("weight") and entry.scale is not None)
