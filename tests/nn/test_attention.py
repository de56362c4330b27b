"""Attention against its formula, written out in float64, on both of its paths."""

from __future__ import annotations

import math

import pytest
import torch

from benchmarks.diffusers_names import redraw
from sfumato.nn import attend as attending
from sfumato.nn.attend import attend
from sfumato.nn.attention import Attention, GatedMLP, RMSNorm, SpatialAttention, grid_angles, turn


def heads(rows, length, count=3, size=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, length, count, size, generator=generator, dtype=torch.float64)


def formula(q, k, v, mask):
    out = torch.zeros_like(q)
    for b in range(q.shape[0]):
        for h in range(q.shape[2]):
            scores = q[b, :, h] @ k[b, :, h].T / math.sqrt(q.shape[-1])
            if mask is not None:
                scores[:, ~mask[b]] = -math.inf
            weights = scores.exp() / scores.exp().sum(1, keepdim=True)
            out[b, :, h] = weights @ v[b, :, h]
    return out.flatten(2)


@pytest.mark.parametrize("masked", ["", "bool", "numbers"])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("short", [0, 10**6])
def test_attend_is_the_formula(monkeypatch, masked, training, short):
    monkeypatch.setattr(attending, "SHORT", short)
    q, k, v = heads(2, 5), heads(2, 7, seed=1), heads(2, 7, seed=2)
    mask = torch.tensor([[1, 1, 0, 1, 0, 0, 0], [1] * 7]).bool() if masked else None
    want = formula(q, k, v, mask)
    if mask is not None and masked == "numbers":
        mask = torch.where(mask, 0.0, -math.inf)[:, None].double()
    got = attend(q.requires_grad_(training), k, v, mask)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-12)


def test_both_paths_have_the_same_gradient(monkeypatch):
    mask = torch.tensor([[1, 1, 0, 1, 0, 0, 0], [1] * 7]).bool()
    found = []
    for short in (0, 10**6):
        monkeypatch.setattr(attending, "SHORT", short)
        parts = [heads(2, n, seed=i).requires_grad_() for i, n in enumerate((5, 7, 7))]
        attend(*parts, mask).square().sum().backward()
        found.append([p.grad for p in parts])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_turn_is_a_rotation_of_pairs():
    x, angle = heads(1, 6, size=8), torch.randn(6, 4, dtype=torch.float64)
    got = turn(x, angle)
    pairs, turned = torch.complex(x[..., :4], x[..., 4:]), torch.complex(got[..., :4], got[..., 4:])
    torch.testing.assert_close(turned, pairs * torch.polar(torch.ones(1).double(), angle)[:, None])


def test_grid_angles_count_rows_and_columns():
    angles = grid_angles(3, 4, 16, theta=100.0).view(3, 4, 8)
    frequency = 100.0 ** (-torch.arange(4) / 4)
    for y in range(3):
        for x in range(4):
            torch.testing.assert_close(angles[y, x], torch.cat((y * frequency, x * frequency)))


def test_normalised_heads_do_not_see_the_length_of_queries():
    layer = Attention(24, 3, qk_norm=True, bias=False).double()
    redraw(layer)
    x = torch.randn(2, 5, 24, dtype=torch.float64)
    want = layer(x)
    with torch.no_grad():
        layer.q.weight *= 7
        layer.k.weight *= 0.3
    torch.testing.assert_close(layer(x), want, rtol=0, atol=1e-4)  # but for eps


def test_rest_is_added():
    layer, mlp = Attention(24, 3).double(), GatedMLP(24, 2).double()
    x, rest = torch.randn(2, 5, 24, dtype=torch.float64), torch.randn(2, 5, 24, dtype=torch.float64)
    torch.testing.assert_close(layer(x, rest=rest), rest + layer(x))
    torch.testing.assert_close(mlp(x, rest=rest), rest + mlp(x))


def test_rms_norm_is_the_formula():
    norm = RMSNorm(6).double()
    redraw(norm)
    x = torch.randn(4, 6, dtype=torch.float64)
    torch.testing.assert_close(norm(x), x / (x.square().mean(1, keepdim=True) + 1e-6).sqrt() * norm.weight)


def test_spatial_attention_moves_with_a_permutation_of_places():
    layer = SpatialAttention(16, 2, groups=4).double()
    redraw(layer)
    x = torch.randn(2, 16, 3, 4, dtype=torch.float64)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    moved = x.flatten(2)[..., order].unflatten(2, (3, 4))
    torch.testing.assert_close(layer(moved).flatten(2), layer(x).flatten(2)[..., order])
