"""Residual block, halving and doubling against plain torch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from benchmarks.diffusers_names import redraw
from sfumato.nn.resnet import Double, GroupNorm, GroupNormSiLU, Halve, ResBlock


@pytest.mark.parametrize("outer", [8, 12])
@pytest.mark.parametrize("kind", ["none", "shift", "scale_shift"])
def test_block_is_its_formula(outer, kind):
    block = ResBlock(
        8, outer, clock=0 if kind == "none" else 5, groups=4, scale_shift=kind == "scale_shift"
    ).double()
    redraw(block)
    x, clock = torch.randn(2, 8, 6, 5, dtype=torch.float64), torch.randn(2, 5, dtype=torch.float64)

    def norm(layer, h):
        return F.group_norm(h, 4, layer.weight, layer.bias, 1e-5)

    h = block.conv1(F.silu(norm(block.norm1, x)))
    if kind == "shift":
        h = h + block.clock(clock)[:, :, None, None]
    h = norm(block.norm2, h)
    if kind == "scale_shift":
        both = block.clock(clock)[:, :, None, None]
        h = h * (1 + both[:, :outer]) + both[:, outer:]
    short = x if block.short is None else block.short(x)
    want = short + block.conv2(F.silu(h))
    torch.testing.assert_close(block(x, clock if kind != "none" else None), want)
    assert (block.short is None) == (outer == 8)


@pytest.mark.parametrize("side", [1, 2, 5, 8])
def test_halve_and_double_return_to_the_side(side):
    x = torch.randn(1, 4, side, side + 1)
    half = Halve(4)(x)
    assert half.shape[-2:] == ((side + 1) // 2, (side + 2) // 2)
    assert Double(4)(half, x.shape[-2:]).shape == x.shape
    assert Double(4, 6)(half).shape == (1, 6, 2 * half.shape[-2], 2 * half.shape[-1])


def test_halve_without_padding_pads_right_and_below():
    layer, x = Halve(4, pad=0), torch.randn(1, 4, 6, 6)
    want = F.conv2d(F.pad(x, (0, 1, 0, 1)), layer.conv.weight, layer.conv.bias, stride=2)
    torch.testing.assert_close(layer(x), want)
    assert not torch.allclose(Halve(4, pad=1)(x), layer(x))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_norms_are_group_norm(layout):
    x = torch.randn(2, 8, 4, 3).contiguous(memory_format=layout)
    plain, active = GroupNorm(4, 8), GroupNormSiLU(4, 8)
    redraw(plain)
    active.load_state_dict(plain.state_dict())
    want = F.group_norm(x, 4, plain.weight, plain.bias)
    torch.testing.assert_close(plain(x), want)
    torch.testing.assert_close(active(x), F.silu(want))
