"""Modules from files and back: the worked example of docs/families.md, against torch's own attention."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.errors import OutputError, WeightsError
from sfumato.weights.header import DTYPES
from sfumato.weights.keys import KeyTable
from sfumato.weights.load import load_into
from sfumato.weights.save import save_component, save_module, save_tensors
from sfumato.weights.source import open_source

WIDTH, HEADS, DEPTH = 8, 2, 2

TABLE = KeyTable.parse(
    """
    # ours              original                         diffusers
    embed               token_embedding                  embeddings.token_embedding
    blocks.{i}.qkv.{p}  layers.{i}.attn.in_proj_{p}      layers.{i}.self_attn.[q_proj,k_proj,v_proj].{p}
    blocks.{i}.out      layers.{i}.attn.out_proj         layers.{i}.self_attn.out_proj
    norm                ln_final                         final_layer_norm
    modulate            adaln.1                          ~norm_out.linear
    proj                mixer : linear->conv             mixer
    head.weight         text_projection : transpose      text_projection.weight
    -                   logit_scale                      -
    """,
    ranges={"i": DEPTH, "p": ("weight", "bias")},
    ignore={"diffusers": ("*.position_ids",)},
)


class Block(nn.Module):
    """Attention with one matrix for query, key and value."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (y.unflatten(-1, (HEADS, -1)).transpose(-2, -3) for y in self.qkv(x).chunk(3, -1))
        return x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(-2, -3).flatten(-2))


class Small(nn.Module):
    """A text encoder in small: everything that the table's signs stand for."""

    places: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(DEPTH))
        self.norm = nn.LayerNorm(WIDTH)
        self.modulate = nn.Linear(WIDTH, 2 * WIDTH)
        self.proj = nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, 4, bias=False)
        self.register_buffer("places", torch.linspace(0, 1, 5, device="cpu")[:, None], persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens) + self.places
        for block in self.blocks:
            x = block(x)
        shift, scale = self.modulate(x).chunk(2, -1)
        return self.head(self.proj(self.norm(x) * (1 + scale) + shift))


class Peer(nn.Module):
    """The same network as others write it: torch's attention, a 1 x 1 convolution, a bare matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(10, WIDTH)
        self.layers = nn.ModuleList(
            nn.ModuleDict({"attn": nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)})
            for _ in range(DEPTH)
        )
        self.ln_final = nn.LayerNorm(WIDTH)
        self.adaln = nn.Sequential(nn.Identity(), nn.Linear(WIDTH, 2 * WIDTH))
        self.mixer = nn.Conv2d(WIDTH, WIDTH, 1)
        self.text_projection = nn.Parameter(torch.zeros(WIDTH, 4))
        self.logit_scale = nn.Parameter(torch.zeros(()))
        draw(self)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.token_embedding(tokens) + torch.linspace(0, 1, 5)[:, None]
        for layer in self.layers:
            x = x + layer["attn"](x, x, x, need_weights=False)[0]
        shift, scale = self.adaln(x).chunk(2, -1)
        x = self.ln_final(x) * (1 + scale) + shift
        return self.mixer(x.transpose(1, 2)[..., None])[..., 0].transpose(1, 2) @ self.text_projection


def draw(module: nn.Module) -> None:
    """Every parameter drawn anew, so that no two are alike."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))


def split_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The peer's tensors in the other layout, written out by hand."""
    out = {"embeddings.token_embedding.weight": state["token_embedding.weight"]}
    for i in range(DEPTH):
        for p in ("weight", "bias"):
            parts = state[f"layers.{i}.attn.in_proj_{p}"].chunk(3)
            for name, part in zip("qkv", parts, strict=True):
                out[f"layers.{i}.self_attn.{name}_proj.{p}"] = part.clone()
            out[f"layers.{i}.self_attn.out_proj.{p}"] = state[f"layers.{i}.attn.out_proj.{p}"]
    for p in ("weight", "bias"):
        out[f"final_layer_norm.{p}"] = state[f"ln_final.{p}"]
        out[f"norm_out.linear.{p}"] = torch.cat(state[f"adaln.1.{p}"].chunk(2)[::-1])
        out[f"mixer.{p}"] = state["mixer.bias"] if p == "bias" else state["mixer.weight"][..., 0, 0]
    out["text_projection.weight"] = state["text_projection"].T.contiguous()
    out["embeddings.position_ids"] = torch.arange(5)
    return out


@pytest.fixture
def peer() -> Peer:
    return Peer()


@pytest.fixture
def files(peer: Peer, tmp_path: Path) -> dict[str, Path]:
    state = {name: tensor.detach() for name, tensor in peer.state_dict().items()}
    paths = {layout: tmp_path / f"{layout}.safetensors" for layout in ("original", "diffusers")}
    save_file(state, paths["original"])
    save_file(split_names(state), paths["diffusers"])
    return paths


@pytest.mark.parametrize("layout", ["original", "diffusers"])
def test_the_network_of_a_file_computes_what_its_author_s_does(
    layout: str, peer: Peer, files: dict[str, Path]
) -> None:
    ours = load_into(Small, open_source(files[layout]), TABLE, layout, dtype=torch.float64, finite=True)
    tokens = torch.tensor([[1, 2, 3, 4, 0], [9, 8, 7, 7, 5]])
    ours.places = ours.places.double()
    with torch.no_grad():
        assert torch.allclose(ours(tokens), peer.double()(tokens), atol=1e-7)
    assert not ours.training
    assert not any(parameter.requires_grad for parameter in ours.parameters())


def test_two_rows_swapped_are_noticed_by_the_numbers(peer: Peer, files: dict[str, Path]) -> None:
    swapped = [("norm", "ln_final", "-"), ("proj", "mixer : linear->conv", "-")]
    swapped += [
        (f"blocks.{i}.qkv.{p}", f"layers.{i}.attn.in_proj_{p}", "-")
        for i in (0, 1)
        for p in ("weight", "bias")
    ]
    swapped += [(f"blocks.{i}.out", f"layers.{1 - i}.attn.out_proj", "-") for i in (0, 1)]
    swapped += [("embed", "token_embedding", "-"), ("modulate", "adaln.1", "-"), ("-", "logit_scale", "-")]
    swapped += [("head.weight", "text_projection : transpose", "-")]
    ours = load_into(Small, open_source(files["original"]), KeyTable.of(swapped), "original")
    tokens = torch.tensor([[1, 2, 3, 4, 0]])
    with torch.no_grad():
        assert not torch.allclose(ours(tokens), peer(tokens), atol=1e-3)


@pytest.mark.parametrize("layout", ["original", "diffusers"])
@pytest.mark.parametrize("shard", [None, 300])
def test_what_is_written_is_what_was_read_bit_for_bit(
    layout: str, shard: int | None, files: dict[str, Path], tmp_path: Path
) -> None:
    ours = load_into(Small, open_source(files[layout]), TABLE, layout)
    target = tmp_path / "out" / "model.safetensors"
    target.parent.mkdir()
    opened = save_module(target, ours, TABLE, layout, shard_bytes=shard, metadata={"format": "pt"})
    assert opened.name == ("model.safetensors" if shard is None else "model.safetensors.index.json")
    wanted = load_file(files[layout])
    unused = {"logit_scale", "embeddings.position_ids"}
    source = open_source(target.parent)
    assert source.metadata == {"format": "pt"}
    assert source.entries.keys() == wanted.keys() - unused
    for name in source.entries:
        assert torch.equal(source.read(name), wanted[name])
    again = load_into(Small, open_source(opened), TABLE, layout)
    for name, tensor in ours.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)
    if shard is not None:
        sizes = [sum(e.bytes for e in open_source(f).entries.values()) for f in source.files]
        assert len(sizes) > 2
        assert all(
            size <= shard or len(open_source(f).entries) == 1
            for size, f in zip(sizes, source.files, strict=True)
        )


def test_one_layout_from_the_other(files: dict[str, Path], tmp_path: Path) -> None:
    ours = load_into(Small, open_source(files["diffusers"]), TABLE, "diffusers")
    written = load_file(save_module(tmp_path / "x.safetensors", ours, TABLE, "original"))
    wanted = load_file(files["original"])
    assert written.keys() == wanted.keys() - {"logit_scale"}
    assert all(torch.equal(written[name], wanted[name]) for name in written)


def test_a_component_s_folder_opens_with_its_configuration(files: dict[str, Path], tmp_path: Path) -> None:
    ours = load_into(Small, open_source(files["original"]), TABLE, "original")
    folder = save_component(tmp_path / "pipe" / "text_encoder", ours, TABLE, {"width": WIDTH}, stem="model")
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]
    source = open_source(folder)
    assert source.config == {"width": WIDTH}
    assert torch.equal(load_into(Small, source, TABLE, "diffusers").head.weight, ours.head.weight)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(sorted(DTYPES)),
    st.lists(st.integers(0, 5), max_size=3),
    st.randoms(use_true_random=False),
)
def test_tensors_of_every_dtype_and_shape_return_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory, kind: str, shape: list[int], random: object
) -> None:
    dtype = getattr(torch, DTYPES[kind][0])
    size = torch.Size(shape).numel() * dtype.itemsize
    data = random.randbytes(size) if kind != "BOOL" else bytes(random.choices([0, 1], k=size))  # type: ignore[attr-defined]
    tensor = (
        torch.frombuffer(bytearray(data), dtype=dtype).view(shape)
        if size
        else torch.empty(shape, dtype=dtype)
    )
    path = tmp_path_factory.mktemp("any") / "x.safetensors"
    save_tensors(path, {"x": tensor, "y": torch.ones(3)}, metadata={"note": "é\n"})
    source = open_source(path)
    assert source.metadata == {"note": "é\n"}
    read = source.read("x")
    assert (read.dtype, read.shape) == (dtype, tensor.shape)
    assert read.reshape(-1).view(torch.uint8).numpy().tobytes() == data


def test_dtypes_by_policy(files: dict[str, Path]) -> None:
    source = open_source(files["original"])
    ours = load_into(Small, source, TABLE, "original", dtype=torch.bfloat16, keep_float32=("norm.*",))
    kinds = {name: parameter.dtype for name, parameter in ours.named_parameters()}
    assert {name for name, kind in kinds.items() if kind == torch.float32} == {"norm.weight", "norm.bias"}
    assert torch.equal(ours.embed.weight, source.read("token_embedding.weight").to(torch.bfloat16))
    wide = load_into(
        Small, source, TABLE, "original", dtype=lambda name, kind: torch.float64 if "qkv" in name else kind
    )
    assert wide.blocks[0].qkv.weight.dtype == torch.float64
    assert wide.embed.weight.dtype == torch.float32


@pytest.mark.parametrize(("kind", "joined"), [("bfloat16", "float32"), ("float8_e5m2", "float32")])
def test_parts_of_different_dtypes_lose_nothing_when_they_are_joined(
    kind: str, joined: str, files: dict[str, Path], tmp_path: Path
) -> None:
    tensors = load_file(files["diffusers"])
    for name, new in (("q", "float16"), ("k", kind)):
        key = f"layers.0.self_attn.{name}_proj.weight"
        tensors[key] = tensors[key].to(getattr(torch, new))
    tensors["layers.0.self_attn.v_proj.weight"] = tensors["layers.0.self_attn.v_proj.weight"].half()
    save_file(tensors, tmp_path / "mixed.safetensors")
    weight = (
        load_into(Small, open_source(tmp_path / "mixed.safetensors"), TABLE, "diffusers").blocks[0].qkv.weight
    )
    assert weight.dtype == getattr(torch, joined)
    parts = [tensors[f"layers.0.self_attn.{name}_proj.weight"].float() for name in "qkv"]
    assert torch.equal(weight, torch.cat(parts))


def test_written_in_another_dtype(files: dict[str, Path], tmp_path: Path) -> None:
    ours = load_into(Small, open_source(files["original"]), TABLE, "original")
    path = save_module(tmp_path / "half.safetensors", ours, TABLE, "diffusers", dtype=torch.float16)
    half = load_file(path)
    assert {tensor.dtype for tensor in half.values()} == {torch.float16}
    wanted = load_file(files["diffusers"])
    assert all(torch.equal(half[name], wanted[name].half()) for name in half)


Spoil = Callable[[dict[str, Tensor]], object]


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda t: t.pop("ln_final.bias"), r"not in the file: ln_final\.bias"),
        (lambda t: t.update(more=torch.zeros(1)), "not wanted: more"),
        (
            lambda t: t.update({"mixer.bias": torch.zeros(9)}),
            r"mixer\.bias has \[9\], wanted \[8\] for proj\.bias",
        ),
        (lambda t: t.update({"mixer.bias": torch.zeros(8, dtype=torch.int8)}), "is of real numbers"),
        (lambda t: t["layers.1.attn.in_proj_bias"].fill_(float("nan")), "holds NaN or infinity"),
        (lambda t: t["mixer.weight"][3].fill_(-torch.inf), "holds NaN or infinity"),
        (lambda t: t["text_projection"][3].fill_(1e30), "holds NaN or infinity"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    spoil: Spoil, why: str, files: dict[str, Path], tmp_path: Path
) -> None:
    tensors = load_file(files["original"])
    spoil(tensors)
    path = tmp_path / "spoilt.safetensors"
    save_file(tensors, path)
    with pytest.raises(WeightsError, match=why):
        load_into(Small, open_source(path), TABLE, "original", dtype=torch.float16, finite=True)


def test_a_table_that_is_no_weight_must_have_values(files: dict[str, Path]) -> None:
    class Forgetful(Small):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("angles", torch.arange(4), persistent=False)

    with pytest.raises(WeightsError, match="angles is in no file"):
        load_into(Forgetful, open_source(files["original"]), TABLE, "original")


def test_shared_parameters_stay_shared_and_are_read_once(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shared, self.again = nn.Embedding(3, 2), nn.Embedding(3, 2)
            self.again.weight = self.shared.weight

    table = KeyTable.parse("shared  shared  shared")
    save_tensors(tmp_path / "tied.safetensors", {"shared.weight": torch.rand(3, 2)})
    tied = load_into(Tied, open_source(tmp_path / "tied.safetensors"), table, "original")
    assert tied.shared.weight is tied.again.weight
    written = save_module(tmp_path / "again.safetensors", tied, table, "original")
    assert load_file(written).keys() == {"shared.weight"}


def test_a_folder_that_is_not_there_is_told_and_nothing_left(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="not a folder"):
        save_tensors(tmp_path / "no" / "x.safetensors", {"x": torch.zeros(2)})
    with pytest.raises(WeightsError, match="cannot hold"):
        save_tensors(tmp_path / "x.safetensors", {"x": torch.zeros(2, dtype=torch.complex128)})
    assert list(tmp_path.iterdir()) == []


def test_the_header_is_padded_and_wide_values_stand_first(tmp_path: Path) -> None:
    save_tensors(tmp_path / "x.safetensors", {"a": torch.zeros(3).half(), "b": torch.zeros(3)})
    data = (tmp_path / "x.safetensors").read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    assert size % 8 == 0
    assert header["b"]["data_offsets"] == [0, 12]
    assert header["a"]["data_offsets"] == [12, 18]


def test_loading_leaves_torch_as_it_was_and_gives_plain_tensors(files: dict[str, Path]) -> None:
    threads = torch.get_num_threads()
    with torch.inference_mode():
        ours = load_into(Small, open_source(files["original"]), TABLE, "original")
        assert torch.is_inference_mode_enabled()
    assert torch.get_num_threads() == threads
    assert not ours.head.weight.is_inference()
    assert ours.head.weight.requires_grad_(True).sum().requires_grad


MEASURE = """
import resource, sys, torch
from torch import nn
from sfumato.weights.keys import KeyTable
from sfumato.weights.load import Unfilled, load_into
from sfumato.weights.save import save_module
from sfumato.weights.source import open_source

with torch.device("meta"), Unfilled():
    kept = torch.zeros(2, device="cpu").fill_(3)
    embed, conv = nn.Embedding(3, 2), nn.Conv2d(2, 2, 3)
    nn.init.trunc_normal_(nn.Linear(2, 2).weight)
    nn.init.xavier_normal_(embed.weight)
    free = nn.Parameter(torch.empty(2)).data.normal_()
assert embed.weight.is_meta and conv.weight.is_meta and free.is_meta and kept.tolist() == [3, 3]
assert "sympy" not in sys.modules  # filling a meta tensor would import it, and a compiler

class Wide(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(2048, 2048, bias=False) for _ in range(int(sys.argv[2])))

def peak():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) * 1024

torch.zeros(10).half().bfloat16().aminmax()
table = KeyTable.parse("layers  layers  layers")
before = peak()
net = load_into(Wide, open_source(sys.argv[1]), table, "original", dtype=torch.bfloat16, finite=True)
size = sum(p.numel() * p.element_size() for p in net.parameters())
loaded = peak()
save_module(sys.argv[1] + ".out.safetensors", net, table, "diffusers", dtype=torch.float16)
print((loaded - before) / size, (peak() - before) / size)
"""


def test_building_imports_no_compiler_and_memory_is_little_more_than_the_weights(tmp_path: Path) -> None:
    count = int(os.environ.get("SFUMATO_MEASURE_LAYERS", "16"))  # 8 MB each; 50 make 400 MB
    path = tmp_path / "wide.safetensors"
    save_file({f"layers.{n}.weight": torch.full((2048, 2048), n / 64).half() for n in range(count)}, path)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path), str(count)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    loading, both = map(float, done.stdout.split())
    print(f"peak over the weights: loading {loading:.3f}, then saving {both:.3f}")
    assert loading <= 1.15
    assert both <= 1.15
    assert torch.equal(
        load_file(f"{path}.out.safetensors")["layers.3.weight"], load_file(path)["layers.3.weight"]
    )
