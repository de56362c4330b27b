"""Observations of decoded pixels, where the decoder can be differentiated once but not twice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.guidance.operators import Linear, Observation, inner

STEP = 0.02
"""How far the decoder is asked to the side, in units of a latent of unit variance."""


@dataclass(frozen=True, eq=False)
class Decoded(Observation):
    """An Observation whose operator contains a decoder: ``A u`` by central differences, ``A^T v`` by autograd.

    Fused kernels have no second derivatives, by which Linear would find ``A u``.
    """

    def linearised(self, x0: Tensor) -> Linear:
        """The operator near rows ``x0`` (B, ...), to second order in STEP."""
        here = Observation.linearised(self, x0)
        return Differences(here.residual, here.x0, here.seen, here.weights, here.back, operator=self.operator)


@dataclass(frozen=True, eq=False)
class Differences(Linear):
    """An operator's derivative at rows ``x0``, its forward product by differences of ``operator``."""

    operator: Callable[[Tensor], Tensor]

    def forward(self, u: Tensor) -> Tensor:
        """``A u`` of rows like x0: ``(A(x0 + h u) - A(x0 - h u)) / 2 h`` with h u of root mean square STEP."""
        size = (inner(u, u) / u[0].numel()).sqrt().view(-1, *[1] * (u.ndim - 1))
        h = STEP / torch.where(size > 0, size, 1)
        with torch.no_grad():
            x0 = self.x0.detach()
            there, back = self.operator(x0 + h * u), self.operator(x0 - h * u)
        return (there - back) / (2 * h).view(-1, *[1] * (there.ndim - 1))
