"""A perceptual distance on the feature maps of a frozen network (Zhang et al. 2018, equation 1, unweighted)."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class Stages(Protocol):
    """A frozen network that returns its feature maps, from fine to coarse."""

    def stages(self, x: Tensor) -> list[Tensor]:
        """Feature maps of ``x`` (B, 3, H, W) in [-1, 1]."""
        ...

    def to(self, device: torch.device) -> object:
        """Move the network to ``device``."""
        ...


class PerceptualDistance:
    """Mean over stages of the squared distance between feature vectors scaled to unit length."""

    def __init__(self, network: Stages, dtype: torch.dtype, stages: int = 4) -> None:
        """Compare the first ``stages`` maps of ``network``, which computes in ``dtype``."""
        self.network, self.dtype, self.count = network, dtype, stages

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """The distance of ``a`` to ``b``, both (B, 3, H, W) in [-1, 1]; gradients flow into ``a`` only."""
        with torch.no_grad():
            wanted = self._unit(b)
        found = self._unit(a)
        parts = [(x - y).square().sum(1).mean() for x, y in zip(found, wanted, strict=True)]
        return torch.stack(parts).mean()

    def _unit(self, x: Tensor) -> list[Tensor]:
        self.network.to(x.device)
        x = x.to(self.dtype).contiguous(memory_format=torch.channels_last)
        return [F.normalize(m.to(torch.float32), dim=1) for m in self.network.stages(x)[: self.count]]
