"""Classifier guidance (Dhariwal & Nichol 2021): along the gradient of log p(y | x)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sfumato.process.estimate import Denoise, Estimate
from sfumato.process.level import Level

LogProb = Callable[[Tensor, Level], Tensor]
"""log p(y | x) of noisy rows x (B, ...) at a level, (B,), differentiable in x."""


def classifier(denoise: Denoise, log_prob: LogProb, scale: float) -> Denoise:
    """``eps - sigma w grad log p(y | x)``, x0 to match (Dhariwal & Nichol 2021, algorithm 2).

    ``denoise`` is the model without a condition. By Bayes' rule w = 1 with the true ``log_prob`` is the conditional
    model, and any w is classifier-free guidance from the unconditional model at that w; w = 0 is off. At alpha = 0 x
    says nothing of y, the gradient is 0, and what y says of x0 cannot be had from it: the estimate is left as it is.
    """
    if scale == 0:
        return denoise

    async def guided(x: Tensor, at: Level) -> Estimate:
        found = await denoise(x, at)
        if at.alpha == 0:
            return found
        with torch.enable_grad():
            free = x.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(log_prob(free, at).sum(), free)
        push = at.sigma * scale * gradient
        return Estimate(at, found.x0 + at.sigma / at.alpha * push, found.eps - push, found.learned)

    return guided
