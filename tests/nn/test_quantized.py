"""Layers with packed weights: the same bits as the layers with unpacked ones, at the memory of the file."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from sfumato.families.keys.joint import flux_table, mmdit_table
from sfumato.families.keys.text import t5_table
from sfumato.nn.flux import Flux, FluxConfig
from sfumato.nn.mmdit import MMDiT, MMDiTConfig
from sfumato.nn.pack import pack
from sfumato.nn.quantized import QuantizedEmbedding, QuantizedLinear, quantized
from sfumato.nn.residual import onto
from sfumato.nn.t5 import T5Config, T5Encoder
from sfumato.weights.keys import KeyTable
from sfumato.weights.load import load_into
from sfumato.weights.quantized import UNPACK, Packed
from sfumato.weights.source import open_source
from tests.weights.ggufs import original_state, packed, write

FLUX = FluxConfig(
    channels=4, outer=4, width=256, heads=4, double=1, single=1, tokens=256, vector=32, axes=(16, 24, 24)
)
MMDIT = MMDiTConfig(channels=4, outer=4, width=256, depth=2, heads=4, tokens=256, vector=32, side=8, dual=1)
T5 = T5Config(vocabulary=1024, width=64, layers=2, heads=2, head=32, mlp=128)


def made(which: str) -> tuple[nn.Module, KeyTable, dict[str, Any]]:
    """A network with drawn weights, its table, and inputs."""
    torch.manual_seed(4)
    told = {"tokens": torch.randn(2, 3, 256), "vector": torch.randn(2, 32)}
    x = {"x": torch.randn(2, 4, 8, 8), "clock": torch.tensor([0.3, 0.9])}
    if which == "flux":
        return Flux(FLUX), flux_table(FLUX), {**x, **told, "guidance": torch.tensor([3.5, 1.0])}
    if which == "mmdit":
        return MMDiT(MMDIT), mmdit_table(MMDIT), {**x, **told}
    return T5Encoder(T5), t5_table(T5), {"ids": torch.randint(0, 1024, (2, 7))}


def copy_of(net: nn.Module) -> nn.Module:
    """A network of the same configuration, to be filled."""
    return type(net)(net.config)


def cast(inputs: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    return {k: v.to(dtype) if v.is_floating_point() and k != "clock" else v for k, v in inputs.items()}


def both(
    net: nn.Module, table: KeyTable, layout: str, path: Path, dtype: torch.dtype
) -> tuple[nn.Module, nn.Module]:
    """The network of ``path`` unpacked, and packed."""
    source = open_source(path)
    return tuple(  # type: ignore[return-value]
        load_into(lambda: copy_of(net), source, table, layout, dtype=dtype, packed=how)
        for how in (None, quantized)
    )


@pytest.mark.parametrize(
    ("which", "layout"),
    [
        ("flux", "original"),
        ("flux", "diffusers"),
        ("mmdit", "original"),
        ("mmdit", "diffusers"),
        ("t5", "diffusers"),
    ],
)
def test_outputs_are_the_same_bits(tmp_path: Path, which: str, layout: str) -> None:
    net, table, inputs = made(which)
    state = original_state(net, table, tmp_path / "o.safetensors", layout)
    # Queries, keys and values of different types: parts of one matrix of ours in the layout of diffusers.
    block, kinds = (32, ("Q8_0", "Q5_0")) if which == "t5" else (256, ("Q4_K", "Q8_0", "Q6_K", "Q4_0"))
    chosen = {
        name: kinds[number % len(kinds)] if t.ndim == 2 and t.shape[1] % block == 0 else "F32"
        for number, (name, t) in enumerate(state.items())
    }
    path = write(tmp_path / "n.gguf", {k: v.numpy() for k, v in state.items()}, chosen)
    for dtype in (torch.float32, torch.bfloat16):
        plain, kept = both(net, table, layout, path, dtype)
        layers = [m for m in kept.modules() if isinstance(m, QuantizedLinear | QuantizedEmbedding)]
        halved = (
            {"flux": 1, "mmdit": 2}.get(which, 0) if layout == "diffusers" else 0
        )  # in the other order there
        parts = halved + sum(kind != "F32" for kind in chosen.values())
        assert sum(len(layer.unpacks) for layer in layers) == parts
        with torch.no_grad():
            assert torch.equal(plain(**cast(inputs, dtype)), kept(**cast(inputs, dtype)))


@pytest.mark.parametrize("scale", [None, torch.tensor(0.3), torch.rand(96, 1)])
@pytest.mark.parametrize("stored", [torch.float8_e4m3fn, torch.float8_e5m2, torch.float16])
def test_eight_bit_floats_stay_what_they_are(
    tmp_path: Path, stored: torch.dtype, scale: Tensor | None
) -> None:
    table = KeyTable.parse("0 first first\n1 second second")
    net = nn.Sequential(nn.Linear(40, 96), nn.Linear(96, 8))
    tensors = {
        "first.weight": net[0].weight.detach().to(stored),
        "first.bias": net[0].bias.detach(),
        "second.weight": net[1].weight.detach(),
        "second.bias": net[1].bias.detach(),
    }
    if scale is not None:
        tensors["first.scale_weight"] = scale
    save_file(tensors, tmp_path / "n.safetensors")
    source = open_source(tmp_path / "n.safetensors")

    def make() -> nn.Module:
        return nn.Sequential(nn.Linear(40, 96), nn.Linear(96, 8))

    plain = load_into(make, source, table, "original", dtype=torch.float32)
    kept = load_into(make, source, table, "original", dtype=torch.float32, packed=quantized)
    assert [type(m) for m in kept] == [QuantizedLinear, nn.Linear]  # what is not smaller is read as ever
    x = torch.randn(5, 40)
    assert torch.equal(plain(x), kept(x))
    assert torch.equal(kept.double()[0].bias, plain[0].bias.double())
    assert torch.equal(kept[0].weight, plain[0].weight)  # a change of dtype leaves bytes and scales alone


@pytest.mark.parametrize("kind", [*UNPACK, "F8_E4M3", "BF16"])
def test_gradients_with_respect_to_inputs(kind: str) -> None:
    plain = nn.Linear(512, 12)
    if kind in UNPACK:
        raw = torch.from_numpy(
            packed(np.random.default_rng(0).standard_normal((12, 512)).astype(np.float32), kind)
        )
    else:
        stored = torch.float8_e4m3fn if kind == "F8_E4M3" else torch.bfloat16
        raw = plain.weight.detach().to(stored).view(torch.uint8)
    layer = QuantizedLinear(plain, [Packed(kind, raw)], torch.float32)
    plain.weight.data = layer.weight
    x, rest = torch.randn(2, 3, 512, requires_grad=True), torch.randn(2, 3, 12)
    g = torch.randn(2, 3, 12)
    grads = []
    for one in (plain, layer):
        plain.bias.grad = None
        out = onto(rest, one, x)
        mine = torch.autograd.grad(out, (x, plain.bias), g)
        grads.append((out, *mine))
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


def test_no_weight_is_held_for_the_backward() -> None:
    held: list[Tensor] = []
    raw = torch.from_numpy(packed(np.ones((64, 256), np.float32), "Q8_0"))
    layer = QuantizedLinear(nn.Linear(256, 64), [Packed("Q8_0", raw)], torch.float32).requires_grad_(False)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: held.append(t) or t, lambda t: t):
        layer(torch.randn(2, 256, requires_grad=True)).sum()
    assert [tuple(t.shape) for t in held] == []


def test_memory_is_that_of_the_file(tmp_path: Path) -> None:
    net, table, _ = made("flux")
    state = original_state(net, table, tmp_path / "o.safetensors")
    chosen = {n: "Q4_K" if t.ndim == 2 and t.shape[1] % 256 == 0 else "F32" for n, t in state.items()}
    path = write(tmp_path / "n.gguf", {k: v.numpy() for k, v in state.items()}, chosen)
    _, kept = both(net, table, "original", path, torch.bfloat16)
    held = sum(t.nbytes for t in (*kept.parameters(), *kept.buffers()))
    assert held < 1.1 * path.stat().st_size


def test_copies_packing_and_half_layers() -> None:
    raw = torch.from_numpy(packed(np.ones((64, 256), np.float32), "Q4_1"))
    layer = QuantizedLinear(nn.Linear(256, 64), [Packed("Q4_1", raw)], torch.float32)
    x = torch.randn(3, 256)
    with torch.no_grad():
        twin = copy.deepcopy(layer)
        assert torch.equal(twin(x), layer(x))
        net = nn.Sequential(layer).eval().requires_grad_(False)
        assert pack(net) is net  # which has no layer of this kind
    assert sorted(layer.state_dict()) == ["bias"]
    with pytest.raises(ValueError, match="rows are not 64"):
        QuantizedLinear(nn.Linear(256, 64), [Packed("Q4_1", raw[:10])], torch.float32)
