"""The fused group norm against plain torch in float64, its determinism, and life without a compiler."""

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sfumato.nn.kernels import build
from sfumato.nn.kernels.norm_silu import _fits, group_norm_silu, plain

compiled = pytest.mark.skipif(build.load("norm_silu") is None, reason="no compiled kernel")

Case = tuple[Tensor, int, list[Tensor | None]]


def make(
    shape: tuple[int, int, int, int], groups: int, dtype: torch.dtype, modulated: bool, seed: int = 0
) -> Case:
    draw = torch.Generator().manual_seed(seed)
    B, C = shape[:2]

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=draw, dtype=torch.float64).to(dtype)

    x = (normal(*shape) * 1.5 + 0.7).to(dtype).contiguous(memory_format=torch.channels_last)
    rows = [normal(B, C), normal(B, C)] if modulated else [None, None]
    return x, groups, [normal(C), normal(C), *rows]


def run(function, case: Case, dy: Tensor, *, dtype: torch.dtype | None = None, silu: bool = True):
    """The output and every gradient of ``function``."""
    x, groups, rest = case
    leaves = [
        None if t is None else t.detach().to(dtype or t.dtype).clone().requires_grad_() for t in (x, *rest)
    ]
    px, w, b, scale, shift = leaves
    y = function(px, groups, w, b, 1e-5, silu=silu, scale=scale, shift=shift)
    grads = torch.autograd.grad(y, [t for t in leaves if t is not None], dy.to(y.dtype))
    return [y.detach(), *grads]


def error(got: Tensor, truth: Tensor) -> float:
    return float((got.double() - truth).norm() / (truth.norm() + 1e-3 * truth.numel() ** 0.5))


def check(shape, groups: int, dtype: torch.dtype, modulated: bool, silu: bool, seed: int = 0) -> None:
    case = make(shape, groups, dtype, modulated, seed)
    assert _fits(case[0], groups, *case[2][:2], *case[2][2:])
    dy = torch.randn(shape, generator=torch.Generator().manual_seed(seed + 1)).to(dtype)
    truth = run(plain, case, dy, dtype=torch.float64, silu=silu)
    torchs = run(plain, case, dy, silu=silu)
    ours = run(group_norm_silu, case, dy, silu=silu)
    assert ours[0].dtype == dtype
    assert ours[0].is_contiguous(memory_format=torch.channels_last)
    for got, other, true in zip(ours, torchs, truth, strict=True):
        assert got.dtype == dtype
        assert got.shape == true.shape
        # A floor of one rounding: on a handful of elements torch's path can be right by luck.
        floor = 1e-5 if dtype == torch.float32 else 2.0**-8
        assert error(got, true) <= max(floor, 1.5 * error(other, true) if dtype == torch.bfloat16 else 0)


@compiled
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("modulated", [False, True])
@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize(
    ("shape", "groups"),
    [
        ((2, 64, 64, 64), 16),
        ((3, 128, 32, 32), 32),
        ((5, 192, 16, 16), 16),
        ((8, 384, 8, 8), 32),
        ((1, 6, 3, 5), 3),
        ((1, 48, 40, 41), 16),
    ],
)
def test_agrees_with_float64(shape, groups, dtype, modulated, silu):
    check(shape, groups, dtype, modulated, silu)


@compiled
@settings(max_examples=60, deadline=None)
@given(
    B=st.integers(1, 5),
    groups=st.sampled_from([1, 2, 3, 7, 16]),
    width=st.integers(1, 6),
    side=st.sampled_from([(1, 1), (3, 5), (1, 7), (17, 16), (4, 4)]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    modulated=st.booleans(),
    silu=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_agrees_on_any_shape(B, groups, width, side, dtype, modulated, silu, seed):
    if width * side[0] * side[1] < 4:
        width = 4  # two or three values a group can be nearly equal: the norm then magnifies any rounding
    check((B, groups * width, *side), groups, dtype, modulated, silu, seed)


@compiled
def test_a_mean_far_from_zero_keeps_its_variance():
    x = (torch.randn(2, 32, 16, 16) + 1000).contiguous(memory_format=torch.channels_last)
    truth = plain(x.double(), 8)
    assert error(group_norm_silu(x, 8), truth) < 5e-5  # a float32 mean of 1000 is itself 3e-5 off


@compiled
def test_extremes_and_nan_pass():
    x = torch.zeros(1, 16, 2, 2).contiguous(memory_format=torch.channels_last)
    w, b = torch.ones(16), torch.linspace(-200, 200, 16)
    torch.testing.assert_close(group_norm_silu(x, 4, w, b), plain(x, 4, w, b))
    for dtype in (torch.float32, torch.bfloat16):
        bad = x.to(dtype, copy=True)
        bad[0, 0, 0, 0] = float("nan")
        assert torch.equal(group_norm_silu(bad, 4).isnan(), plain(bad, 4).isnan())


@compiled
@pytest.mark.parametrize("modulated", [False, True])
@pytest.mark.parametrize("shape", [(6, 64, 32, 32), (3, 40, 33, 31)])
def test_same_bits_alone_in_company_and_on_any_threads(shape, modulated):
    case = make(shape, 8, torch.bfloat16, modulated)
    x, groups, (w, b, *rows) = case
    dy = torch.randn(shape).bfloat16()
    first = run(group_norm_silu, case, dy)
    threads = torch.get_num_threads()
    try:
        for n in (1, 2, 4, 5):
            torch.set_num_threads(n)
            for one, two in zip(first, run(group_norm_silu, case, dy), strict=True):
                assert torch.equal(one, two)
    finally:
        torch.set_num_threads(threads)
    for k in range(shape[0]):
        row = [None if t is None else t[k : k + 1] for t in rows]
        alone = run(group_norm_silu, (x[k : k + 1], groups, [w, b, *row]), dy[k : k + 1])
        assert torch.equal(alone[0][0], first[0][k])
        assert torch.equal(alone[1][0], first[1][k])


@compiled
def test_no_grad_frozen_weights_and_strange_gradients():
    x, groups, (w, b, *_) = make((2, 32, 8, 8), 8, torch.float32, False)
    with torch.no_grad():
        assert not group_norm_silu(x, groups, w, b).requires_grad
    leaf = x.clone().requires_grad_()
    group_norm_silu(leaf, groups, w, b).sum().backward()  # its gradient is one number, expanded
    other = x.clone().requires_grad_()
    plain(other, groups, w, b).sum().backward()
    torch.testing.assert_close(leaf.grad, other.grad, rtol=1e-4, atol=1e-5)
    v = w.clone().requires_grad_()
    group_norm_silu(x, groups, v).sum().backward()
    assert v.grad is not None


@compiled
def test_one_side_of_the_modulation():
    x, groups, (w, b, scale, shift) = make((2, 32, 8, 8), 8, torch.float32, True)
    for kind in ({"scale": scale}, {"shift": shift}):
        torch.testing.assert_close(
            group_norm_silu(x, groups, w, b, **kind), plain(x, groups, w, b, **kind), rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("modulated", [False, True])
def test_fallback_gradients(modulated):
    x, groups, rest = make((2, 6, 3, 2), 3, torch.float64, modulated)
    leaves = [None if t is None else t.requires_grad_() for t in (x, *rest)]
    assert torch.autograd.gradcheck(
        lambda x, w, b, scale, shift: group_norm_silu(x, groups, w, b, scale=scale, shift=shift), leaves
    )


def test_what_does_not_fit_falls_back():
    rows = torch.randn(4, 12)
    assert torch.equal(group_norm_silu(rows, 3), plain(rows, 3))
    x = torch.randn(2, 12, 5, 5)
    assert not _fits(x, 3, None, None)
    assert torch.equal(group_norm_silu(x, 3), plain(x, 3))
    with pytest.raises(RuntimeError):
        group_norm_silu(x.contiguous(memory_format=torch.channels_last), 5)


def test_without_kernels():
    code = (
        "import torch; from sfumato.nn.kernels import build, norm_silu as k\n"
        "x = torch.randn(2, 32, 4, 4).contiguous(memory_format=torch.channels_last)\n"
        "assert build.load('norm_silu') is None\n"
        "assert torch.equal(k.group_norm_silu(x, 8), k.plain(x, 8))\n"
    )
    for change in ({"SFUMATO_KERNELS": "0"}, {"PATH": ""}):
        done = subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, **change}, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert not done.stdout


@compiled
def test_cache_is_private_and_reused(tmp_path, monkeypatch):
    monkeypatch.setenv("SFUMATO_CACHE", str(tmp_path))
    path = build._library("norm_silu")
    assert path.parent.stat().st_mode & 0o777 == 0o700
    made = path.stat().st_mtime_ns
    assert build._library("norm_silu").stat().st_mtime_ns == made
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    path.parent.chmod(0o777)
    with pytest.raises(PermissionError):
        build._library("norm_silu")
