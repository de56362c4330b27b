"""First and second moments of features, gathered piece by piece and merged in any order."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.errors import InvalidRequest


@dataclass(frozen=True)
class Moments:
    """Count n, sum of x (d,) and sum of x xᵀ (d, d), both float64; ``+`` merges those of two sets."""

    n: int
    total: Tensor
    outer: Tensor

    @classmethod
    def of(cls, features: Tensor) -> Moments:
        """The moments of ``features`` (n, d), in float64 whatever their dtype; n may be 0.

        Raises InvalidRequest if ``features`` is not a matrix.
        """
        if features.ndim != 2:
            raise InvalidRequest(f"features must be (n, d); these are {tuple(features.shape)}")
        x = features.double()
        return cls(len(x), x.sum(0), x.T @ x)

    def __add__(self, other: Moments) -> Moments:
        """The moments of both sets together; associative and commutative to rounding."""
        if self.total.shape != other.total.shape:
            raise InvalidRequest(f"features of {len(self.total)} and {len(other.total)} numbers do not merge")
        return Moments(self.n + other.n, self.total + other.total, self.outer + other.outer)

    @property
    def mean(self) -> Tensor:
        """Mean (d,). Raises InvalidRequest if n is 0."""
        self._need(1)
        return self.total / self.n

    @property
    def covariance(self) -> Tensor:
        """Unbiased covariance (d, d), (sum x xᵀ - n m mᵀ) / (n - 1). Raises InvalidRequest if n < 2."""
        self._need(2)
        return (self.outer - torch.outer(self.total, self.total) / self.n) / (self.n - 1)

    def _need(self, n: int) -> None:
        if self.n < n:
            raise InvalidRequest(f"this needs the features of {n} pictures or more; there are {self.n}")
