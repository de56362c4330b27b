"""GGUF files written by the package gguf: names, shapes, every packed type bit for bit, networks, hostile bytes."""

from __future__ import annotations

import struct
import sys
from collections.abc import Mapping
from pathlib import Path
from random import Random

import gguf
import numpy as np
import pytest
import torch
from gguf.quants import dequantize, quantize
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from sfumato.errors import MissingExtra, SfumatoError, WeightsError
from sfumato.families.checkpoint import open_checkpoint
from sfumato.families.keys.joint import flux_table, mmdit_table
from sfumato.families.keys.text import t5_table
from sfumato.nn.flux import Flux, FluxConfig
from sfumato.nn.mmdit import MMDiT, MMDiTConfig
from sfumato.nn.t5 import T5Config, T5Encoder
from sfumato.weights.gguf import BLOCKS, TYPES, t5_name
from sfumato.weights.links import links
from sfumato.weights.load import load_into
from sfumato.weights.quantized import UNPACK, unpacked
from sfumato.weights.source import open_source
from tests.weights.ggufs import original_state, write

Kind = gguf.GGMLQuantizationType


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def same_bits(mine: Tensor, theirs: np.ndarray) -> bool:
    """Equal bit for bit, save the sign and payload of NaN."""
    own, sound = mine.numpy(), ~np.isnan(theirs)
    equal = np.array_equal(own[sound].view(np.uint32), theirs[sound].view(np.uint32))
    return equal and np.array_equal(np.isnan(own), ~sound)


def test_types_are_those_of_the_package() -> None:
    assert all(Kind(number).name == name for number, name in TYPES.items())
    assert all(gguf.constants.GGML_QUANT_SIZES[Kind[name]] == sizes for name, sizes in BLOCKS.items())


@pytest.mark.parametrize("kind", [*BLOCKS, "BF16"])
def test_any_bytes_are_unpacked_as_the_package_does(kind: str) -> None:
    size = BLOCKS[kind][1] if kind in BLOCKS else 64
    raw = np.random.default_rng(1).integers(0, 256, (5, 3 * size), dtype=np.uint8)
    with np.errstate(all="ignore"):  # scales of NaN and infinity are among them
        assert same_bits(unpacked(kind, torch.from_numpy(raw)), dequantize(raw, Kind[kind]))


# gguf.quants.quantize has no writer for the K types; tests below pack those from drawn bytes.
@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "TQ2_0"])
def test_what_the_package_packs_is_read_back(tmp_path: Path, kind: str) -> None:
    values = draw(6, 512)
    path = write(tmp_path / "x.gguf", {"a.weight": values}, {"a.weight": kind})
    source = open_source(path)
    expected = dequantize(quantize(values, Kind[kind]), Kind[kind])
    assert source.shapes == {"a.weight": (6, 512)}
    assert source["a.weight"].dtype == kind
    assert same_bits(source.read("a.weight", torch.float32), expected)
    part = torch.empty(700, dtype=torch.float32)
    source.read_into("a.weight", part, first=333)  # begins and ends within blocks
    assert same_bits(part, expected.reshape(-1)[333:1033])
    half = source.read("a.weight", torch.bfloat16)
    assert torch.equal(half, torch.from_numpy(expected.copy()).to(torch.bfloat16))


@pytest.mark.parametrize("kind", [kind for kind in UNPACK if kind.endswith("K")])
def test_k_types_in_files(tmp_path: Path, kind: str) -> None:
    rows = 2**18 // 1024 + 3  # more than is unpacked at once
    path = write(tmp_path / "x.gguf", {"a": draw(rows, 1024)}, {"a": kind})
    raw = gguf.GGUFReader(path).tensors[0].data
    assert same_bits(open_source(path).read("a"), dequantize(raw, Kind[kind]))


def test_settings_integers_and_shapes_that_were_flattened(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "sd1")
    writer.add_array("comfy.gguf.orig_shape.conv.weight", [4, 8, 3, 3])
    writer.add_array("tokenizer.words", ["a", "bc", ""])
    writer.add_array("tokenizer.scores", [0.5, -1.0])
    writer.add_bool("some.flag", True)
    writer.add_string("general.licence", "é")
    kernel = draw(4, 8, 3, 3)
    flat = quantize(kernel.reshape(-1, 32), Kind.Q8_0)
    writer.add_tensor("conv.weight", flat, raw_dtype=Kind.Q8_0)
    writer.add_tensor("whole", np.arange(3, dtype=np.int32))
    close(writer)
    source = open_source(tmp_path / "x.gguf")
    assert source.metadata == {
        "general.architecture": "sd1",
        "some.flag": "true",
        "general.licence": "é",
    }
    assert source.shapes == {"conv.weight": (4, 8, 3, 3), "whole": (3,)}
    assert same_bits(source.read("conv.weight"), dequantize(flat, Kind.Q8_0).reshape(kernel.shape))
    assert source.read("whole").tolist() == [0, 1, 2]


def close(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


FLUX = FluxConfig(
    channels=16,
    outer=16,
    width=256,
    heads=4,
    double=1,
    single=1,
    tokens=256,
    vector=32,
    axes=(16, 24, 24),
    guidance=True,
)
MMDIT = MMDiTConfig(channels=4, outer=4, width=256, depth=2, heads=4, tokens=256, vector=32, side=8)


def mixed(state: Mapping[str, Tensor], big: str) -> dict[str, str]:
    """Matrices of whole blocks in ``big`` and, every third, in Q8_0; the rest as published files have it."""
    kinds = {}
    for number, (name, tensor) in enumerate(state.items()):
        kind = "Q8_0" if number % 3 == 0 else big
        fits = tensor.ndim == 2 and tensor.shape[1] % BLOCKS[kind][0] == 0
        kinds[name] = kind if fits else "F16" if tensor.ndim > 1 else "F32"
    return kinds


@pytest.mark.parametrize("big", ["Q4_K", "Q5_1"])
@pytest.mark.parametrize("which", ["flux", "mmdit"])
def test_a_network_equals_the_one_from_unpacked_values(tmp_path: Path, which: str, big: str) -> None:
    torch.manual_seed(2)
    net: Flux | MMDiT = Flux(FLUX) if which == "flux" else MMDiT(MMDIT)
    table = flux_table(FLUX) if which == "flux" else mmdit_table(MMDIT)
    state = original_state(net, table, tmp_path / "o.safetensors")
    path = write(tmp_path / "n.gguf", {k: v.numpy() for k, v in state.items()}, mixed(state, big))
    values = {
        tensor.name: torch.from_numpy(
            np.array(dequantize(tensor.data, tensor.tensor_type).reshape(tensor.shape[::-1]))
        )
        for tensor in gguf.GGUFReader(path).tensors
    }
    save_file(values, tmp_path / "plain.safetensors")
    parts = open_checkpoint(open_source(path)).parts
    assert (parts["denoiser"].kind, parts["denoiser"].layout) == (which, "original")
    make = type(net)
    nets = [
        load_into(lambda: make(net.config), open_source(file), table, "original", dtype=torch.float32)  # type: ignore[arg-type]
        for file in (path, tmp_path / "plain.safetensors")
    ]
    for (name, one), (_, other) in zip(
        nets[0].state_dict().items(), nets[1].state_dict().items(), strict=True
    ):
        assert torch.equal(one, other), name


def test_t5_has_the_names_of_llama_cpp(tmp_path: Path) -> None:
    config = T5Config(vocabulary=64, width=32, layers=2, heads=2, head=16, mlp=64)
    net = T5Encoder(config)
    state = original_state(net, t5_table(config), tmp_path / "o.safetensors", "diffusers")
    back = {t5_name(name): name for name in gguf_t5_names(2)}
    assert set(back) == set(state)
    names = {back[name]: tensor.numpy() for name, tensor in state.items()}
    names["dec.blk.0.attn_q.weight"] = draw(32, 32)
    kinds = {
        name: "Q8_0" if value.ndim == 2 and value.shape[1] == 32 else "F32" for name, value in names.items()
    }
    source = open_source(write(tmp_path / "t5.gguf", names, kinds, "t5encoder"))
    loaded = load_into(lambda: T5Encoder(config), source, t5_table(config), "diffusers", dtype=torch.float32)
    stands = {
        link.ours[0]: back[link.theirs[0]] for link in links(t5_table(config), "diffusers", net.state_dict())
    }
    for name, tensor in loaded.state_dict().items():
        whole = names[stands[name]]
        kind = Kind[kinds[stands[name]]]
        assert torch.equal(tensor, torch.from_numpy(dequantize(quantize(whole, kind), kind))), name


def gguf_t5_names(layers: int) -> list[str]:
    """The names that llama.cpp's own table (in the package) gives an encoder's tensors."""
    arch = gguf.MODEL_ARCH.T5ENCODER
    patterns = [gguf.TENSOR_NAMES[kind] for kind in gguf.MODEL_TENSORS[arch]]
    names = [p.format(bid=i) for p in patterns for i in (range(layers) if "{bid}" in p else (0,))]
    unused = {"blk.1.attn_rel_b", "enc.blk.1.attn_rel_b", "output"}  # one table for all blocks
    return [f"{name}.weight" for name in names if name not in unused]


# Hostile files


def small(tmp_path: Path) -> bytes:
    writer = gguf.GGUFWriter(tmp_path / "s.gguf", "flux")
    writer.add_array("comfy.gguf.orig_shape.a", [2, 32])
    writer.add_array("words", ["x", "y"])
    writer.add_uint32("general.alignment", 32)
    writer.add_tensor("a", quantize(draw(2, 32), Kind.Q8_0), raw_dtype=Kind.Q8_0)
    writer.add_tensor("b", draw(5))
    close(writer)
    return (tmp_path / "s.gguf").read_bytes()


def header(
    version: int = 3, tensors: int = 0, settings: int = 0, rest: bytes = b"", magic: bytes = b"GGUF"
) -> bytes:
    return magic + struct.pack("<IQQ", version, tensors, settings) + rest


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def tensor(name: bytes, sides: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(sides)}QIQ", len(sides), *sides, kind, offset)


def alignment(value: int) -> bytes:
    return text(b"general.alignment") + struct.pack("<II", 4, value)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "truncated"),
        (header(magic=b"GGML"), "does not begin with GGUF"),
        (header(1), "version 1;"),
        (header(0x03000000), "big-endian"),
        (header(tensors=2**63), "tensors, more than"),
        (header(settings=2**40), "settings, more than"),
        (header(tensors=1), "truncated"),
        (header(settings=1, rest=struct.pack("<Q", 2**62)), "would be 4611686018427387904 bytes long"),
        (header(settings=1, rest=text(b"k") + struct.pack("<I", 77)), "of the type 77"),
        (header(settings=1, rest=text(b"k") + struct.pack("<IIQ", 9, 4, 2**61)), "a list in its header"),
        (
            header(settings=1, rest=text(b"k") + struct.pack("<IIQ", 9, 8, 2**61)),
            "lists in its header are longer",
        ),
        (
            header(settings=1, rest=text(b"k") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 9),
            "without end",
        ),
        (header(settings=2, rest=alignment(32) * 2), "twice"),
        (header(settings=1, rest=alignment(0)), "alignment"),
        (header(settings=1, rest=alignment(48)), "alignment"),
        (header(settings=1, rest=text(b"\xff") + struct.pack("<IB", 0, 1)), "utf-8"),
        (header(tensors=1, rest=text(b"")), "empty"),
        (header(tensors=1, rest=text(b"a") + struct.pack("<I", 2**31)), "dimensions"),
        (header(tensors=1, rest=tensor(b"a", (4,), kind=99)), "type 99"),
        (header(tensors=1, rest=tensor(b"a", (4,), kind=4)), "type 4,"),
        (header(tensors=1, rest=tensor(b"a", (33,), kind=8)), "no whole blocks of 32"),
        (header(tensors=1, rest=tensor(b"a", (2**40, 2**40))), "which cannot be"),
        (header(tensors=1, rest=tensor(b"a", (2**40,))), "truncated"),
        (header(tensors=1, rest=tensor(b"a", (4,), offset=2**63)), "behind a hole"),
        (header(tensors=1, rest=tensor(b"a", (4,), offset=7)), "behind a hole"),
        (header(tensors=2, rest=tensor(b"a", (4,)) * 2) + bytes(99), "twice"),
        (header(tensors=2, rest=tensor(b"a", (4,)) + tensor(b"b", (4,))) + bytes(99), "overlap"),
        (header(tensors=1, rest=tensor(b"a", (4,))) + bytes(999), "does not tell of all"),
    ],
)
def test_hostile_headers_are_refused(tmp_path: Path, data: bytes, told: str) -> None:
    (tmp_path / "x.gguf").write_bytes(data)
    with pytest.raises(WeightsError, match=told) as caught:
        open_source(tmp_path / "x.gguf")
    assert "x.gguf" in str(caught.value)
    assert len(str(caught.value)) < 600


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
def test_changed_bytes_are_refused_or_read(tmp_path: Path, seed: int) -> None:
    if not (tmp_path / "s.gguf").exists():
        small(tmp_path)
    (tmp_path / "x.gguf").write_bytes(changed((tmp_path / "s.gguf").read_bytes(), Random(seed)))
    told = ""
    try:
        source = open_source(tmp_path / "x.gguf")
        shapes = {name: source.read(name).shape for name in source.entries}
        assert shapes == source.shapes
    except SfumatoError as error:
        told = str(error)
    assert len(told) < 600


def changed(data: bytes, random: Random) -> bytes:
    """``data`` with some bytes replaced, inserted or left out, or cut short."""
    whole = bytearray(data)
    for _ in range(random.randint(1, 3)):
        at = random.randrange(len(whole))
        value = random.choice((0, 1, 2, 8, 9, 127, 128, 255, random.randrange(256)))
        whole[at : at + random.choice((0, 1, 1, 1, 8))] = bytes([value])
    return bytes(whole[: random.randrange(len(whole))] if random.random() < 0.1 else whole)


def test_a_file_that_is_cut_while_it_is_read(tmp_path: Path) -> None:
    whole = small(tmp_path)
    source = open_source(tmp_path / "s.gguf")
    (tmp_path / "s.gguf").write_bytes(whole[:-64])
    with pytest.raises(WeightsError, match="changed"):
        source.read("a")


def test_rare_types_need_the_package_and_others_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "x.gguf", {"a": draw(2, 256), "b": draw(2, 256)}, {"a": "Q4_K", "b": "IQ4_XS"})
    monkeypatch.setitem(sys.modules, "gguf", None)
    source = open_source(path)
    assert source.read("a").shape == (2, 256)
    with pytest.raises(MissingExtra, match=r"IQ4_XS needs .*sfumato\[gguf\]"):
        source.read("b")
