"""The updates that adapters write down: each a few small tensors, and the matrix or kernel that they stand for.

A formula answers ``delta(weight)``, in float32 and of the weight's shape: what is added to the weight at strength 1. A
kernel (O, I, h, w) is a matrix whose second index has several axes, and a convolution of kernel 1 is one with a matrix.
All take the weight, since DoRA and a replaced weight depend on it; the others read its shape alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

Shape = tuple[int, ...]


class Formula(Protocol):
    """An update of one weight."""

    @property
    def algorithm(self) -> str:
        """Its name: lora, locon, loha, lokr, dora, diff or set."""
        ...

    @property
    def rank(self) -> int | None:
        """The rank that its tensors have, None where that says nothing."""
        ...

    @property
    def zero(self) -> bool:
        """Whether the update is zero whatever the weight is."""
        ...

    def shape(self) -> Shape:
        """The shape of the weights that it fits. Raises ValueError if its tensors do not go with each other."""
        ...

    def delta(self, weight: Tensor) -> Tensor:
        """The update of ``weight`` at strength 1, float32, of its shape (which ``fits``)."""
        ...

    def take(self, rows: Tensor) -> Formula:
        """The update of the weight's ``rows`` alone. ValueError if that is no update of this kind."""
        ...


def bare(shape: Shape) -> Shape:
    """``shape`` without kernel axes of size 1: that of the matrix, where a convolution is one."""
    end = len(shape)
    while end > 2 and shape[end - 1] == 1:
        end -= 1
    return shape[:end]


def fits(formula: Formula, weight: Shape) -> bool:
    """Whether ``formula`` updates weights of shape ``weight``, up to kernel axes of size 1.

    A matrix (O, I h w) fits a kernel (O, I, h, w): factors of kernels are written so.
    """
    made, wanted = bare(formula.shape()), bare(weight)
    if len(made) == 2 < len(wanted):
        return made == (wanted[0], math.prod(wanted[1:]))
    return made == wanted


def product(left: Tensor, right: Tensor) -> Tensor:
    """``left right`` as matrices in float32: (O, R) and (R, I, ...) to (O, I, ...), trailing axes as right's."""
    out = left.float().flatten(1) @ right.float().flatten(1)
    return out.view(len(left), *right.shape[1:])


def joint(up: Tensor, down: Tensor, what: str) -> None:
    """Check that (O, R) times (R, ...) can be done; ValueError shows both shapes."""
    if up.ndim < 2 or down.ndim < 2 or math.prod(up.shape[1:]) != down.shape[0]:
        raise ValueError(f"{what} of shapes {tuple(up.shape)} and {tuple(down.shape)} do not multiply")


@dataclass(frozen=True, eq=False)
class Lora:
    """``alpha / R  up down`` with up (O, R) and down (R, I, ...) (Hu et al. 2021, section 4.1).

    With ``mid`` (R, R, h, w) down is (R, I): a kernel in Tucker's form, ``sum_mn up_om mid_mnhw down_ni`` (LoCon; Yeh
    et al. 2024, section 3). ``alpha`` None stands for R.
    """

    down: Tensor
    up: Tensor
    mid: Tensor | None = None
    alpha: float | None = None

    @property
    def algorithm(self) -> str:
        """ "locon" for kernels wider than 1, else "lora"."""
        return "locon" if self.mid is not None or len(bare(tuple(self.down.shape))) > 2 else "lora"

    @property
    def rank(self) -> int:
        """R."""
        return self.down.shape[0]

    @property
    def scale(self) -> float:
        """``alpha / R``."""
        return 1.0 if self.alpha is None else self.alpha / max(1, self.rank)

    @cached_property
    def zero(self) -> bool:
        """Whether a factor, or alpha, is zero."""
        factors = (self.down, self.up) if self.mid is None else (self.down, self.up, self.mid)
        return self.alpha == 0 or not all(bool(factor.any()) for factor in factors)

    def shape(self) -> Shape:
        """(O, I, ...)."""
        if self.mid is None:
            joint(self.up, self.down, "up and down")
            return (self.up.shape[0], *self.down.shape[1:])
        joint(self.up, self.mid, "up and mid")
        if self.mid.ndim != 4 or self.mid.shape[1] != self.rank or len(bare(tuple(self.down.shape))) > 2:
            raise ValueError(
                f"mid and down of shapes {tuple(self.mid.shape)} and {tuple(self.down.shape)} do not multiply"
            )
        return (self.up.shape[0], self.down.shape[1], *self.mid.shape[2:])

    def delta(self, weight: Tensor) -> Tensor:
        """``alpha / R  up down``."""
        if self.mid is None:
            return (product(self.up, self.down) * self.scale).reshape(weight.shape)
        up, down = self.up.float().flatten(1), self.down.float().flatten(1)
        return (torch.einsum("om,mnhw,ni->oihw", up, self.mid.float(), down) * self.scale).reshape(
            weight.shape
        )

    def take(self, rows: Tensor) -> Lora:
        """These rows of up."""
        return Lora(self.down, self.up[rows], self.mid, self.alpha)


@dataclass(frozen=True, eq=False)
class Loha:
    """``alpha / R  (a1 b1) * (a2 b2)``, the product by entries (Hyeon-Woo et al. 2022, equation 3; LyCORIS' LoHa).

    a (O, R), b (R, I h w). With kernels ``t1, t2`` (R, R, h, w), a is (R, O), b is (R, I), and each factor is
    ``sum_ij t_ijhw a_io b_jr`` over its own ranks.
    """

    a1: Tensor
    b1: Tensor
    a2: Tensor
    b2: Tensor
    t1: Tensor | None = None
    t2: Tensor | None = None
    alpha: float | None = None

    algorithm = "loha"

    @property
    def rank(self) -> int:
        """R."""
        return self.b1.shape[0]

    @property
    def scale(self) -> float:
        """``alpha / R``."""
        return 1.0 if self.alpha is None else self.alpha / max(1, self.rank)

    @cached_property
    def zero(self) -> bool:
        """Whether a factor, or alpha, is zero."""
        factors = [t for t in (self.a1, self.b1, self.a2, self.b2, self.t1, self.t2) if t is not None]
        return self.alpha == 0 or not all(bool(factor.any()) for factor in factors)

    def shape(self) -> Shape:
        """(O, I h w), or (O, I, h, w) in Tucker's form."""
        made = {half_shape(*half) for half in self._halves()}
        if len(made) != 1:
            raise ValueError(f"the two factors have different shapes: {sorted(made)}")
        return made.pop()

    def delta(self, weight: Tensor) -> Tensor:
        """``alpha / R  (a1 b1) * (a2 b2)``."""
        first, second = (rebuilt(*half) for half in self._halves())
        return (first * second * self.scale).reshape(weight.shape)

    def take(self, rows: Tensor) -> Loha:
        """These rows of both a."""
        first, second = (a[rows] if t is None else a[:, rows] for a, _, t in self._halves())
        return Loha(first, self.b1, second, self.b2, self.t1, self.t2, self.alpha)

    def _halves(self) -> tuple[tuple[Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor, Tensor | None]]:
        return (self.a1, self.b1, self.t1), (self.a2, self.b2, self.t2)


def half_shape(a: Tensor, b: Tensor, t: Tensor | None) -> Shape:
    """The shape of ``rebuilt``; ValueError if the factors do not go with each other."""
    if t is None:
        joint(a, b, "factors")
        return (a.shape[0], *b.shape[1:])
    if a.ndim != 2 or b.ndim != 2 or t.ndim != 4 or t.shape[:2] != (a.shape[0], b.shape[0]):
        raise ValueError(
            f"factors of shapes {tuple(t.shape)}, {tuple(a.shape)} and {tuple(b.shape)} do not multiply"
        )
    return (a.shape[1], b.shape[1], *t.shape[2:])


def rebuilt(a: Tensor, b: Tensor, t: Tensor | None) -> Tensor:
    """``a b``, or ``sum_ij t_ijhw a_io b_jr`` with a kernel ``t``, float32."""
    if t is None:
        return product(a, b)
    return torch.einsum("ijhw,io,jr->orhw", t.float(), a.float(), b.float())


@dataclass(frozen=True, eq=False)
class Lokr:
    """``alpha / R  w1 (x) w2``, Kronecker's product (LyCORIS' LoKr, Yeh et al. 2024, section 3).

    ``first`` and ``second`` are each a whole factor ``(w,)`` or two that multiply, ``(a, b)``; the second may also be
    in Tucker's form ``(a, b, t)`` as in Loha. R is the rank of a factor in two parts, and without one the scale is 1,
    whatever alpha is. A first factor (o, i) and a second (p, r, h, w) make a weight (o p, i r, h, w).
    """

    first: tuple[Tensor, ...]
    second: tuple[Tensor, ...]
    alpha: float | None = None

    algorithm = "lokr"

    @property
    def rank(self) -> int | None:
        """R, None if both factors are whole."""
        for factor in (self.second, self.first):
            if len(factor) > 1:
                return factor[1].shape[0]
        return None

    @property
    def scale(self) -> float:
        """``alpha / R``, or 1."""
        return 1.0 if self.alpha is None or self.rank is None else self.alpha / max(1, self.rank)

    @cached_property
    def zero(self) -> bool:
        """Whether a factor is zero, or alpha where it counts."""
        return self.scale == 0 or not all(bool(t.any()) for t in (*self.first, *self.second))

    def shape(self) -> Shape:
        """(o p, i r, h, w)."""
        first, second = (_factor_shape(factor) for factor in (self.first, self.second))
        if len(bare(first)) != 2 or len(second) < 2:
            raise ValueError(f"factors of shapes {first} and {second} have no Kronecker product")
        return (first[0] * second[0], first[1] * second[1], *second[2:])

    def delta(self, weight: Tensor) -> Tensor:
        """``alpha / R  w1 (x) w2``."""
        first, second = (_factor(factor) for factor in (self.first, self.second))
        first = first.flatten(1).view(*first.shape[:2], *[1] * (second.ndim - 2))
        return (torch.kron(first, second.contiguous()) * self.scale).reshape(weight.shape)

    def take(self, rows: Tensor) -> Lokr:
        """All rows in their order: others are no Kronecker product."""
        if torch.equal(rows, torch.arange(self.shape()[0])):
            return self
        raise ValueError("a part of a Kronecker product is none")


def _factor_shape(factor: tuple[Tensor, ...]) -> Shape:
    """The shape of a factor of a Kronecker product."""
    if len(factor) == 1:
        return tuple(factor[0].shape)
    return half_shape(factor[0], factor[1], factor[2] if len(factor) > 2 else None)


def _factor(factor: tuple[Tensor, ...]) -> Tensor:
    """A factor of a Kronecker product, float32."""
    if len(factor) == 1:
        return factor[0].float()
    return rebuilt(factor[0], factor[1], factor[2] if len(factor) > 2 else None)


@dataclass(frozen=True, eq=False)
class Dora:
    """``m V / |V| - W`` with ``V = W + inner`` (Liu et al. 2024, arXiv:2402.09353, equation 5).

    ``magnitude`` m has one value for each output (``axis`` 0: norms of the weight's rows, as PEFT has it) or for each
    input (1: of its columns; LyCORIS' older files).
    """

    inner: Formula
    magnitude: Tensor
    axis: int = 0

    algorithm = "dora"
    zero = False

    @property
    def rank(self) -> int | None:
        """The inner update's."""
        return self.inner.rank

    def shape(self) -> Shape:
        """The inner update's."""
        made = self.inner.shape()
        if len(made) < 2 or self.magnitude.numel() != made[self.axis]:
            raise ValueError(f"{self.magnitude.numel()} magnitudes do not go with a weight of shape {made}")
        return made

    def delta(self, weight: Tensor) -> Tensor:
        """``m V / |V| - W``."""
        base = weight.float()
        moved = base + self.inner.delta(weight)
        axes = [axis for axis in range(moved.ndim) if axis != self.axis]
        length = torch.linalg.vector_norm(moved, dim=axes, keepdim=True)
        length = length.clamp_min(torch.finfo(torch.float32).tiny)
        scaled: Tensor = moved * (self.magnitude.float().reshape(length.shape) / length)
        return scaled - base

    def take(self, rows: Tensor) -> Dora:
        """These rows, each with its magnitude; norms of columns need all rows."""
        if self.axis == 0:
            return Dora(self.inner.take(rows), self.magnitude.flatten()[rows], 0)
        if sorted(rows.tolist()) == list(range(self.shape()[0])):
            return Dora(self.inner.take(rows), self.magnitude, 1)
        raise ValueError("the norms of a weight's columns need all of its rows")


@dataclass(frozen=True, eq=False)
class Difference:
    """What is added, written out: ``value`` (LyCORIS' and ComfyUI's ``diff``, ``diff_b``, ``w_norm``, ``b_norm``)."""

    value: Tensor

    algorithm = "diff"
    rank = None

    @cached_property
    def zero(self) -> bool:
        """Whether nothing is added."""
        return not bool(self.value.any())

    def shape(self) -> Shape:
        """The value's."""
        return tuple(self.value.shape)

    def delta(self, weight: Tensor) -> Tensor:
        """The value."""
        return self.value.float().reshape(weight.shape)

    def take(self, rows: Tensor) -> Difference:
        """These rows."""
        return Difference(self.value[rows])


@dataclass(frozen=True, eq=False)
class Replacement:
    """``value - W``: the weight becomes ``value`` at strength 1 (ComfyUI's ``set_weight``, BFL's norms)."""

    value: Tensor

    algorithm = "set"
    rank = None
    zero = False

    def shape(self) -> Shape:
        """The value's."""
        return tuple(self.value.shape)

    def delta(self, weight: Tensor) -> Tensor:
        """``value - W``."""
        return self.value.float().reshape(weight.shape) - weight.float()

    def take(self, rows: Tensor) -> Replacement:
        """These rows."""
        return Replacement(self.value[rows])
