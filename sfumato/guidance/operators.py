"""What was observed of a picture, ``y = A(x0) + noise``: some operators A, and linear algebra without their matrix.

An operator is any function of torch from rows x0 (B, ...) to rows y (B, ...) that can be differentiated; nothing
here needs its matrix. Rows are observed, and solved for, each by itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from sfumato.errors import InvalidRequest

Operator = Callable[[Tensor], Tensor]

_LONG = 32768  # values from which torch adds up one row with several threads


@dataclass(frozen=True, eq=False)
class Observation:
    """``y = operator(x0) + noise_std n``, n standard normal: rows ``y`` (B, ...), or one row for all.

    Raises InvalidRequest for a ``y`` without a row axis or not of floats, and a ``noise_std`` below 0.
    """

    operator: Operator
    y: Tensor
    noise_std: float = 0.0

    def __post_init__(self) -> None:
        """Check the parts."""
        if self.y.ndim < 1 or not self.y.is_floating_point():
            raise InvalidRequest(
                f"y must be rows of floats, (B, ...); this is {tuple(self.y.shape)} of {self.y.dtype}"
            )
        if not 0 <= self.noise_std < math.inf:
            raise InvalidRequest(
                f"noise_std = {self.noise_std:g} is outside what is allowed: 0 and above, finite"
            )

    def linearised(self, x0: Tensor) -> Linear:
        """The operator near rows ``x0`` (B, ...); exact for a linear one.

        Raises InvalidRequest where the operator gives other shapes than y's, or nothing that can be
        differentiated.
        """
        with torch.enable_grad():
            free = x0.detach().requires_grad_()
            seen = self.operator(free)
            if seen.shape[1:] != self.y.shape[1:] or len(self.y) not in (1, len(seen)):
                raise InvalidRequest(
                    f"the operator makes {tuple(seen.shape)} of x0 {tuple(x0.shape)}, and y is {tuple(self.y.shape)}"
                )
            if not seen.requires_grad:
                raise InvalidRequest(
                    "the operator cannot be differentiated: it must be made of torch's functions"
                )
            weights = torch.zeros_like(seen, requires_grad=True)
            (back,) = torch.autograd.grad(seen, free, weights, create_graph=True)
        residual = self.y.to(seen.device, seen.dtype) - seen.detach()
        return Linear(residual, free, seen, weights, back)


@dataclass(frozen=True, eq=False)
class Linear:
    """An operator's derivative A at rows ``x0`` and the ``residual`` y - operator(x0), (B, ...)."""

    residual: Tensor
    x0: Tensor
    seen: Tensor
    weights: Tensor
    back: Tensor

    def adjoint(self, v: Tensor) -> Tensor:
        """``A^T v`` of rows like y, by a vector-Jacobian product."""
        return torch.autograd.grad(self.seen, self.x0, v, retain_graph=True)[0]

    def forward(self, u: Tensor) -> Tensor:
        """``A u`` of rows like x0: the derivative of ``A^T w`` by w, so reverse mode is enough."""
        return torch.autograd.grad(self.back, self.weights, u, retain_graph=True)[0]

    def nearest(self, variance: float, noise: float, iterations: int) -> Tensor:
        """``(variance A^T A + noise 1)^-1 A^T residual``, like x0, by conjugate gradients.

        It equals ``A^T (variance A A^T + noise 1)^-1 residual`` and is solved on this side because here the right
        side lies in the range of the matrix, whatever y holds: with ``noise`` 0 it is ``A^+ residual / variance``.
        """

        def apply(p: Tensor) -> tuple[Tensor, Tensor]:
            return variance * self.adjoint(self.forward(p)) + noise * p, p

        return solve(apply, self.adjoint(self.residual), iterations)


def inner(a: Tensor, b: Tensor) -> Tensor:
    """The inner product of every row of ``a`` with that of ``b``, shaped (B, 1, ...) to multiply rows."""
    products = (a * b).flatten(1)
    # One long row alone would be split among threads, and so be added in another order than in company.
    alone = products.shape[1] >= _LONG
    sums = torch.stack([row.sum() for row in products]) if alone else products.sum(1)
    return sums.view(-1, *[1] * (a.ndim - 1))


def solve(apply: Callable[[Tensor], tuple[Tensor, Tensor]], target: Tensor, iterations: int) -> Tensor:
    """``B v`` for the v with ``M v = target``, where ``apply(p)`` is ``(M p, B p)``; M symmetric, positive.

    Conjugate gradients (Hestenes & Stiefel 1952) from v = 0, with coefficients of each row's own. A row rests when
    its residual is at the rounding of its dtype, or when M is found not to be positive along its direction.
    """
    if iterations < 1:
        raise InvalidRequest(f"iterations = {iterations} is outside what is allowed: 1 and above")
    rest, direction, square = target, target, inner(target, target)
    enough = square * (4 * torch.finfo(target.dtype).eps) ** 2
    live = torch.ones_like(square, dtype=torch.bool)
    found: Tensor | None = None
    for _ in range(iterations):
        image, carried = apply(direction)
        curvature = inner(direction, image)
        live = live & (square > enough) & (curvature > 0)
        # Rows that rest divide by 1: nothing of them moves, and nothing of them becomes nan.
        step = torch.where(live, square, 0) / torch.where(live, curvature, 1)
        added = step.view(-1, *[1] * (carried.ndim - 1)) * carried
        found = added if found is None else found + added
        rest = rest - step * image
        before, square = square, torch.where(live, inner(rest, rest), square)
        direction = rest + square / torch.where(live, before, 1) * direction
        if not bool(live.any()):
            break
    assert found is not None
    return found


def mask(keep: Tensor) -> Operator:
    """The values where the boolean ``keep`` is true, for inpainting: y (B, ..., values kept).

    ``keep`` covers the last axes of a row: (H, W) keeps the same places of every channel. Raises InvalidRequest
    if it is not boolean, or keeps nothing.
    """
    if keep.dtype != torch.bool or not bool(keep.any()):
        raise InvalidRequest("a mask must be boolean and true somewhere: true is what is seen")
    return lambda x0: x0[..., keep]


def average(factor: int) -> Operator:
    """The mean of every square of ``factor`` by ``factor`` pixels, for super-resolution: y (B, C, H / f, W / f)."""
    if factor < 1:
        raise InvalidRequest(f"factor = {factor} is outside what is allowed: 1 and above")

    def operator(x0: Tensor) -> Tensor:
        if x0.shape[-1] % factor or x0.shape[-2] % factor:
            raise InvalidRequest(f"pictures of {tuple(x0.shape[-2:])} pixels do not divide by {factor}")
        return functional.avg_pool2d(x0, factor)

    return operator


def blur(std: float) -> Operator:
    """A Gaussian blur of ``std`` pixels, cut at 3 of them, with the edge's pixels repeated outside: y like x0."""
    if not 0 < std < math.inf:
        raise InvalidRequest(f"std = {std:g} is outside what is allowed: above 0, finite")
    reach = math.ceil(3 * std)
    side = torch.arange(-reach, reach + 1, dtype=torch.float64)
    kernel = (-0.5 * (side / std).square()).exp()
    kernel = kernel / kernel.sum()

    def operator(x0: Tensor) -> Tensor:
        channels = x0.shape[1]
        row = kernel.to(x0.device, x0.dtype).expand(channels, 1, 1, -1)
        wide = functional.pad(x0, (reach,) * 4, mode="replicate")
        return functional.conv2d(functional.conv2d(wide, row, groups=channels), row.mT, groups=channels)

    return operator


def grey(x0: Tensor) -> Tensor:
    """The luma of colours (ITU-R BT.601: 0.299 red, 0.587 green, 0.114 blue): (B, 3, H, W) to (B, 1, H, W)."""
    if x0.ndim != 4 or x0.shape[1] != 3:
        raise InvalidRequest(f"grey needs pictures (B, 3, H, W), not {tuple(x0.shape)}")
    return (x0 * x0.new_tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)
