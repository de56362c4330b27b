"""Group norm, an optional scale and shift, and SiLU: fused on the CPU for channels-last pictures."""

from __future__ import annotations

import ctypes
import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from sfumato.nn.kernels import build


def group_norm_silu(
    x: Tensor,
    groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *,
    silu: bool = True,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
) -> Tensor:
    """``silu(group_norm(x) * (1 + scale) + shift)`` of ``x`` (B, C, ...); :func:`plain` defines it.

    ``weight`` and ``bias`` are (C,), ``scale`` and ``shift`` (B, C), each optional. Channels-last bf16 and
    float32 pictures on the CPU go through a compiled kernel that computes in float32; it can be
    differentiated once. All else, and a machine without a compiler, goes through :func:`plain`.
    """
    library = _library() if _fits(x, groups, weight, bias, scale, shift) else None
    if library is None:
        return plain(x, groups, weight, bias, eps, silu=silu, scale=scale, shift=shift)
    out: Tensor = _Fused.apply(  # type: ignore[no-untyped-call]
        x, groups, weight, bias, eps, silu, scale, shift
    )
    return out


def plain(
    x: Tensor,
    groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *,
    silu: bool = True,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
) -> Tensor:
    """What :func:`group_norm_silu` means, in plain torch."""
    y = F.group_norm(x, groups, weight, bias, eps)
    rows = (*x.shape[:2], *(1,) * (x.ndim - 2))
    if scale is not None and shift is not None:
        y = torch.addcmul(shift.view(rows), y, scale.view(rows) + 1)
    elif scale is not None:
        y = y * (scale.view(rows) + 1)
    elif shift is not None:
        y = y + shift.view(rows)
    return F.silu(y) if silu else y


@functools.cache
def _library() -> ctypes.CDLL | None:
    """The compiled kernel with its signatures, or None."""
    library = build.load("norm_silu")
    if library is not None:
        pointer, size, number, flag = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float, ctypes.c_int
        library.norm_silu_forward.argtypes = [pointer] * 8 + [size] * 4 + [number] + [flag] * 3
        library.norm_silu_backward.argtypes = [pointer] * 13 + [size] * 4 + [flag] * 3
    return library


def _fits(x: Tensor, groups: int, weight: Tensor | None, bias: Tensor | None, *rows: Tensor | None) -> bool:
    """Whether the kernel can do it; what is malformed is left for torch to complain about."""
    if (
        x.device.type != "cpu"
        or x.dtype not in (torch.bfloat16, torch.float32)
        or x.ndim != 4
        or not x.numel()
        or x.shape[1] % groups
        or x.numel() == x.shape[1] == groups  # one value per group: torch refuses it
        or not x.is_contiguous(memory_format=torch.channels_last)
        or torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
    ):
        return False
    # A subclass (a fake tensor, say) may have no memory to point to.
    if type(x) not in (Tensor, torch.nn.Parameter):
        return False
    B, C = x.shape[:2]
    return all(t is None or (t.shape == (C,) and t.device == x.device) for t in (weight, bias)) and all(
        t is None or (t.shape == (B, C) and t.device == x.device) for t in rows
    )


def _float(t: Tensor | None) -> Tensor | None:
    return None if t is None else t.detach().to(torch.float32).contiguous()


def _at(t: Tensor | None) -> int | None:
    return None if t is None else t.data_ptr()


class _Fused(torch.autograd.Function):
    """The kernel; only what it cannot cheaply recompute is saved: the input and each group's two numbers."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        groups: int,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        silu: bool,
        scale: Tensor | None,
        shift: Tensor | None,
    ) -> Tensor:
        library = _library()
        assert library is not None
        B, C, H, W = x.shape
        y = torch.empty_like(x, memory_format=torch.channels_last)
        stats = torch.empty(2, B, groups, dtype=torch.float32)
        # Held by name until the call is over: the kernel sees addresses only.
        held = [_float(t) for t in (weight, bias, scale, shift)]
        failed = library.norm_silu_forward(
            x.data_ptr(),
            y.data_ptr(),
            *map(_at, held),
            stats[0].data_ptr(),
            stats[1].data_ptr(),
            B,
            C,
            H * W,
            groups,
            eps,
            x.dtype == torch.bfloat16,
            silu,
            torch.get_num_threads(),
        )
        if failed:
            raise MemoryError("no memory for group_norm_silu")
        ctx.save_for_backward(x, weight, bias, scale, shift, stats)
        ctx.silu = silu
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        library = _library()
        assert library is not None
        x, weight, bias, scale, shift, stats = ctx.saved_tensors
        B, C, H, W = x.shape
        need = ctx.needs_input_grad
        dy = dy.to(x.dtype).contiguous(memory_format=torch.channels_last)
        dx = torch.empty_like(x, memory_format=torch.channels_last) if need[0] else None
        dw, db = torch.empty(2, C, dtype=torch.float32)
        dscale = torch.empty(B, C, dtype=torch.float32) if need[6] else None
        dshift = torch.empty(B, C, dtype=torch.float32) if need[7] else None
        held = [_float(t) for t in (weight, bias, scale, shift)]
        failed = library.norm_silu_backward(
            x.data_ptr(),
            dy.data_ptr(),
            _at(dx),
            *map(_at, held),
            stats[0].data_ptr(),
            stats[1].data_ptr(),
            dw.data_ptr(),
            db.data_ptr(),
            _at(dscale),
            _at(dshift),
            B,
            C,
            H * W,
            stats.shape[2],
            x.dtype == torch.bfloat16,
            ctx.silu,
            torch.get_num_threads(),
        )
        if failed:
            raise MemoryError("no memory for group_norm_silu")
        return (
            dx,
            None,
            dw.to(weight.dtype) if need[2] else None,
            db.to(bias.dtype) if need[3] else None,
            None,
            None,
            None if dscale is None else dscale.to(scale.dtype),
            None if dshift is None else dshift.to(shift.dtype),
        )
