"""Packed networks compute what plain ones do, on any size, and hold their weights once."""

from __future__ import annotations

import copy
import threading
import warnings

import pytest
import torch

from benchmarks.diffusers_names import redraw
from sfumato.nn import pack as packing
from sfumato.nn.attention import Attention, GatedMLP
from sfumato.nn.autoencoder import Autoencoder, AutoencoderConfig
from sfumato.nn.pack import PackedConv2d, PackedLinear, pack
from sfumato.nn.residual import onto
from sfumato.nn.unet import UNet, UNetConfig

pytestmark = pytest.mark.skipif(
    not packing.available(), reason="this torch has no oneDNN operations to pack for"
)

COMMON = {"inner": 3, "outer": 3, "widths": (32, 48), "blocks": 1, "groups": 8, "head": 16}
TEXT = UNetConfig(
    **COMMON, attention=("self", "text"), middle="text", tokens=24, vector=8, scale_shift=True, mlp=2
)
PLAIN = UNetConfig(**COMMON, attention=("none", "self"), classes=5)
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2.5e-2}


def network(config, dtype):
    net = UNet(config)
    redraw(net)
    return net.eval().requires_grad_(False).to(dtype=dtype, memory_format=torch.channels_last)


def inputs(config, rows, size, dtype):
    generator = torch.Generator().manual_seed(rows)
    draw = lambda *shape: torch.randn(*shape, generator=generator).to(dtype)  # noqa: E731
    cond = {}
    if config.tokens:
        cond = {"tokens": draw(rows, 7, 24), "vector": draw(rows, 8), "mask": torch.ones(rows, 7).bool()}
        cond["mask"][0, 3:] = False
    if config.classes:
        cond = {"label": torch.arange(rows)}
    x = draw(rows, 3, *size).contiguous(memory_format=torch.channels_last)
    return (x, torch.linspace(1, 900, rows)), cond


def distance(a, b):
    return float((a.float() - b.float()).norm() / b.float().norm())


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("config", [TEXT, PLAIN])
def test_packed_unet_computes_the_same_at_any_size(config, dtype):
    net = network(config, dtype)
    exact = copy.deepcopy(net).float()
    packed = pack(net)
    assert packed is not net
    for rows, size in ((1, (8, 8)), (3, (8, 8)), (2, (5, 7)), (1, (16, 8)), (1, (1, 2))):
        x, cond = inputs(config, rows, size, dtype)
        got, plain = packed(*x, **cond), net(*x, **cond)
        assert got.dtype == dtype
        assert distance(got, plain) < TOLERANCE[dtype]
        wide = {k: v.float() if v.is_floating_point() else v for k, v in cond.items()}
        want = exact(x[0].float(), x[1], **wide)
        assert distance(got, want) < max(1e-5, 1.5 * distance(plain, want))


@torch.inference_mode()
def test_packed_unet_reads_contiguous_pictures():
    net = network(PLAIN, torch.float32)
    (x, t), cond = inputs(PLAIN, 2, (8, 8), torch.float32)
    assert distance(pack(net)(x.contiguous(), t, **cond), net(x, t, **cond)) < 1e-5


@torch.inference_mode()
def test_packing_leaves_the_module_alone():
    net = network(TEXT, torch.bfloat16)
    x, cond = inputs(TEXT, 1, (8, 8), torch.bfloat16)
    before, state = net(*x, **cond), {k: v.clone() for k, v in net.state_dict().items()}
    packed = pack(net)
    packed(*x, **cond)
    assert type(net.down[0].look.attention) is Attention
    assert net.state_dict().keys() == state.keys()
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())
    assert torch.equal(net(*x, **cond), before)


@torch.inference_mode()
def test_single_layers_are_bit_equal_in_bf16():
    conv = torch.nn.Conv2d(16, 32, 3, 2, 1).bfloat16().eval().requires_grad_(False)
    linear = torch.nn.Linear(48, 32).bfloat16().eval().requires_grad_(False)
    for side in (8, 5, 12):
        x = torch.randn(2, 16, side, side).bfloat16().contiguous(memory_format=torch.channels_last)
        assert torch.equal(PackedConv2d(conv)(x), conv(x))
    rows = torch.randn(2, 9, 48).bfloat16()
    assert torch.equal(PackedLinear(linear.weight, linear.bias)(rows), linear(rows))


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_joined_sums_and_products(dtype):
    tolerance = TOLERANCE[dtype]
    conv = torch.nn.Conv2d(16, 32, 3, padding=1).to(dtype).eval()
    x, rest = (torch.randn(2, c, 6, 6).to(dtype) for c in (16, 32))
    want = rest + conv(x)
    assert distance(onto(rest, PackedConv2d(conv), x), want) < tolerance
    assert distance(onto(rest.clone(), PackedConv2d(conv), x, overwrite=True), want) < tolerance
    mlp = GatedMLP(16, 2).to(dtype).eval()
    rows = torch.randn(2, 5, 16).to(dtype)
    assert distance(pack(mlp)(rows), mlp(rows)) < tolerance
    assert distance(pack(mlp)(rows, rest=rows), mlp(rows, rest=rows)) < tolerance


@torch.inference_mode()
def test_residual_input_is_not_overwritten():
    """x is also a skip connection: the block may not write its sum there."""
    net = network(PLAIN, torch.bfloat16)
    packed = pack(net)
    (x, t), cond = inputs(PLAIN, 1, (8, 8), torch.bfloat16)
    seen = []
    for layer in packed.down:
        layer.register_forward_hook(
            lambda _m, args, out: seen.append((args[0], args[0].clone(), out, out.clone()))
        )
    packed(x, t, **cond)
    for held, before, out, after in seen:
        assert torch.equal(held, before)
        assert torch.equal(out, after)


@torch.inference_mode()
@pytest.mark.parametrize("context", [0, 12])
def test_attention_projects_once(context):
    attention = Attention(32, 4, context=context, qk_norm=True).eval().requires_grad_(False)
    redraw(attention)
    packed = pack(attention)
    x, other = torch.randn(2, 6, 32), torch.randn(2, 5, context or 32)
    assert sum(isinstance(m, PackedLinear) for m in packed.modules()) == (3 if context else 2)
    assert distance(packed(x, other), attention(x, other)) < 1e-5
    if not context:
        assert distance(packed(x), attention(x)) < 1e-5


@torch.inference_mode()
def test_autoencoder_can_be_packed():
    auto = Autoencoder(AutoencoderConfig(latent=4, encoder=(16, 16), decoder=(16, 32), groups=8))
    auto.eval().requires_grad_(False)
    redraw(auto)
    packed, latent = pack(auto), torch.randn(1, 4, 4, 4)
    assert distance(packed.decode(latent), auto.decode(latent)) < 1e-5


@torch.inference_mode()
def test_weights_are_held_once_and_packed_once():
    net = network(TEXT, torch.bfloat16)
    packed = pack(net)
    x, cond = inputs(TEXT, 2, (8, 8), torch.bfloat16)
    packed(*x, **cond)
    layers = [m for m in packed.modules() if isinstance(m, (PackedConv2d, PackedLinear))]
    assert all(m.plain is None and m.packed is not None for m in layers)
    held = [m.packed for m in layers]
    packed(*inputs(TEXT, 1, (16, 16), torch.bfloat16)[0], **inputs(TEXT, 1, (8, 8), torch.bfloat16)[1])
    assert all(m.packed is before for m, before in zip(layers, held, strict=True))


def test_threads_may_race_to_pack():
    net = network(TEXT, torch.bfloat16)
    x, cond = inputs(TEXT, 2, (8, 8), torch.bfloat16)
    with torch.inference_mode():
        want = pack(net)(*x, **cond)
    for _ in range(5):
        packed, out, errors = pack(net), [], []

        def call(packed=packed, out=out, errors=errors):
            try:
                with torch.inference_mode():
                    out.append(packed(*x, **cond))
            except Exception as error:
                errors.append(error)

        threads = [threading.Thread(target=call) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not errors
        assert all(torch.equal(o, want) for o in out)


def test_what_cannot_be_packed_is_returned_as_it_is(monkeypatch):
    net = network(PLAIN, torch.float32)
    packed = pack(net)
    assert pack(packed) is packed
    assert pack(net.double()) is net
    assert pack(net.float().train()) is net
    net.eval()
    assert pack(net) is not net
    monkeypatch.setattr(packing, "available", lambda: False)
    assert pack(net) is net


def test_parameters_left_tell_dtype_and_device():
    packed = pack(network(PLAIN, torch.bfloat16))
    assert {p.dtype for p in packed.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("config", [TEXT, PLAIN])
@pytest.mark.parametrize("before", [False, True], ids=["first call", "already packed"])
def test_gradients_of_the_input_are_those_of_the_plain_network(config, dtype, before):
    """And no operation without a gradient is asked: torch would warn, and go on with a wrong one."""
    net = network(config, dtype)
    packed = pack(net)
    (x, clock), cond = inputs(config, 2, (16, 16), dtype)
    pull = torch.randn(x.shape, generator=torch.Generator().manual_seed(5)).to(dtype)
    if before:
        with torch.no_grad():
            packed(x, clock, **cond)

    def slope(module):
        free = x.clone().requires_grad_()
        return torch.autograd.grad(module(free, clock, **cond), free, pull)[0]

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = slope(packed)
    assert distance(found, slope(net)) < TOLERANCE[dtype]
    with torch.no_grad():
        assert distance(packed(x, clock, **cond), net(x, clock, **cond)) < TOLERANCE[dtype]
