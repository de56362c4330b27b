"""Flat parameters: the same arithmetic as torch's own on the module's parameters, in two long vectors."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.train.flat import FlatParameters


class Net(nn.Module):
    """Kernels of several shapes, matrices, vectors, a number, a frozen part and buffers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.enter = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.GroupNorm(2, 8)
        self.point = nn.Conv2d(8, 6, 1)
        self.leave = nn.Linear(6, 4)
        self.scale = nn.Parameter(torch.tensor(0.7))
        self.frozen = nn.Parameter(torch.ones(4), requires_grad=False)
        self.register_buffer("offset", torch.full((4,), 0.1))
        self.register_buffer("count", torch.tensor([3]))

    def forward(self, x: Tensor) -> Tensor:
        h = self.point(F.silu(self.norm(self.enter(x)))).mean((2, 3))
        return self.leave(h) * self.scale * self.frozen + self.offset


def batch(step: int) -> Tensor:
    return torch.randn(5, 3, 6, 6, generator=torch.Generator().manual_seed(step))


def pull(net: nn.Module, step: int) -> None:
    (net(batch(step)) - 1).square().mean().backward()


def test_a_float32_module_computes_with_the_masters_themselves() -> None:
    net, before = Net(), Net().state_dict()
    flat = FlatParameters(net, torch.float32)
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name])
    for master in flat.master:
        with torch.no_grad():
            master.fill_(0.25)
    for name, parameter in net.named_parameters():
        assert (parameter == (1.0 if name == "frozen" else 0.25)).all()
    assert sum(len(m) for m in flat.master) == sum(p.numel() for p in net.parameters() if p.requires_grad)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_parameters_and_gradients_are_views_that_tile_the_vectors(dtype: torch.dtype) -> None:
    net = Net()
    flat = FlatParameters(net, dtype)
    for vectors, attribute in ((flat.working, "data"), (flat.gradient, "grad")):
        for vector in vectors:
            vector.zero_()
        for parameter in net.parameters():
            if parameter.requires_grad:
                view = getattr(parameter, attribute)
                assert view.dtype == dtype
                view += 1
        # Each place of the vectors belongs to exactly one parameter.
        assert all((vector == 1).all() for vector in vectors)
    assert net.offset.dtype == dtype
    assert net.count.dtype == torch.int64
    assert net.frozen.dtype == torch.float32


def test_kernels_lie_channels_last_and_matrices_decay() -> None:
    net = Net()
    flat = FlatParameters(net, torch.float32)
    for kernel in (net.enter.weight, net.point.weight):
        for tensor in (kernel, kernel.grad):
            assert tensor is not None
            assert tensor.is_contiguous(memory_format=torch.channels_last)
    assert net.enter.weight.stride() == (27, 1, 9, 3)
    decaying = {n for n, (group, _, _) in flat.places.items() if group == 0}
    assert decaying == {"enter.weight", "point.weight", "leave.weight"}


def test_backward_adds_into_the_vectors_and_clear_empties_them() -> None:
    net, peer = Net(), Net()
    flat = FlatParameters(net, torch.float32)
    for step in range(2):
        pull(net, step)
        pull(peer, step)
    found = flat.named(flat.gradient)
    for name, parameter in peer.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None
            assert torch.allclose(found[name], parameter.grad, rtol=1e-5, atol=1e-7)
    flat.clear()
    assert all((g == 0).all() for g in flat.gradient)
    assert net.leave.weight.grad is not None
    assert (net.leave.weight.grad == 0).all()


@pytest.mark.parametrize("clip", [1e-4, 0.05, 1.0, 1e6])
def test_collect_clips_as_torch_does(clip: float) -> None:
    net, peer = Net(), Net()
    flat = FlatParameters(net, torch.float32)
    pull(net, 0)
    pull(peer, 0)
    wanted = nn.utils.clip_grad_norm_([p for p in peer.parameters() if p.requires_grad], clip)
    norm = flat.collect(clip)
    assert norm.item() == pytest.approx(wanted.item(), rel=1e-6)
    after = torch.cat([m.grad for m in flat.master if m.grad is not None]).norm().item()
    assert after == pytest.approx(min(clip, norm.item()), rel=1e-2 if clip < 1e-3 else 1e-4)
    assert after <= clip
    places = flat.named([m.grad for m in flat.master if m.grad is not None])
    for name, parameter in peer.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None
            assert torch.allclose(places[name], parameter.grad, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_collect_tells_one_bad_number(bad: float) -> None:
    net = Net()
    flat = FlatParameters(net, torch.float32)
    pull(net, 0)
    assert net.scale.grad is not None
    net.scale.grad.fill_(bad)
    assert not torch.isfinite(flat.collect(1.0))


def test_adamw_on_the_vectors_is_adamw_on_the_parameters() -> None:
    net, peer = Net(), Net()
    flat = FlatParameters(net, torch.float32)
    settings = {"lr": 3e-3, "betas": (0.9, 0.99)}
    ours = torch.optim.AdamW(
        [
            {"params": [flat.master[0]], "weight_decay": 0.1},
            {"params": [flat.master[1]], "weight_decay": 0.0},
        ],
        fused=True,
        **settings,
    )
    trained = [p for p in peer.parameters() if p.requires_grad]
    theirs = torch.optim.AdamW(
        [
            {"params": [p for p in trained if p.ndim >= 2], "weight_decay": 0.1},
            {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
        ],
        fused=True,
        **settings,
    )
    for step in range(8):
        flat.clear()
        theirs.zero_grad()
        for module in (net, peer):
            pull(module, step)
        flat.collect(1e9)
        ours.step()
        theirs.step()
        flat.publish()
    moved = 0.0
    for (name, a), (_, b), (_, start) in zip(
        net.named_parameters(), peer.named_parameters(), Net().named_parameters(), strict=True
    ):
        assert torch.allclose(a, b, rtol=0, atol=2e-7), name
        moved = max(moved, float((a - start).detach().abs().max()))
    assert moved > 0.01


def test_bf16_weights_follow_float32_masters_that_keep_small_steps() -> None:
    net = Net()
    flat = FlatParameters(net, torch.bfloat16)
    start = [m.detach().clone() for m in flat.master]
    with torch.no_grad():
        for _ in range(100):
            for master in flat.master:
                master += 1e-4  # far below bf16's spacing near 1
            flat.publish()
    for master, before in zip(flat.master, start, strict=True):
        assert torch.allclose(master, before + 0.01, atol=1e-5)
    named = flat.named([m.data for m in flat.master])
    for name, parameter in net.named_parameters():
        if parameter.requires_grad:
            assert torch.equal(parameter.data, named[name].to(torch.bfloat16))


def test_named_and_load_are_inverse() -> None:
    net = Net()
    flat = FlatParameters(net, torch.float32)
    kept = {name: tensor.clone() for name, tensor in flat.named([m.data for m in flat.master]).items()}
    assert all(torch.equal(kept[n], p) for n, p in net.named_parameters() if p.requires_grad)
    fresh = [torch.full_like(m, 7.0) for m in flat.master]
    flat.load(kept, fresh)
    for master, vector in zip(flat.master, fresh, strict=True):
        assert torch.equal(master.data, vector)


def test_load_refuses_other_names_and_other_shapes_and_changes_nothing() -> None:
    flat = FlatParameters(Net(), torch.float32)
    vectors = [torch.zeros_like(m) for m in flat.master]
    kept = {name: tensor.clone() for name, tensor in flat.named([m.data for m in flat.master]).items()}
    missing = {name: tensor for name, tensor in kept.items() if name != "scale"}
    extra = {**kept, "stranger": torch.ones(1)}
    broadcast = {**kept, "leave.bias": torch.ones(1)}
    turned = {**kept, "leave.weight": kept["leave.weight"].T}
    for tensors, word in (
        (missing, "scale"),
        (extra, "stranger"),
        (broadcast, "leave.bias"),
        (turned, "leave.weight"),
    ):
        with pytest.raises(KeyError, match=word):
            flat.load(tensors, vectors)
        assert all((v == 0).all() for v in vectors)
