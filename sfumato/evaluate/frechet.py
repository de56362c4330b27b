"""The Frechet distance between two sets of features, each seen as a Gaussian.

Heusel et al., "GANs Trained by a Two Time-Scale Update Rule ..." (FID), NeurIPS 2017, arXiv 1706.08500; the
closed form is of Dowson and Landau, "The Frechet distance between multivariate normal distributions", 1982.
The number is called FD-EffNetLite0 here: FID is the same formula on Inception-v3 features, and the two do not
compare. It is biased upward, the more so the smaller n (by some 60 between two real sets of 1,000): never
compare it across n, and quote it beside its value between two real sets of the same n.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.errors import InvalidRequest
from sfumato.evaluate.moments import Moments


@dataclass(frozen=True)
class Frechet:
    """A Frechet distance ``value`` (squared, in units of features squared) and the ``n`` of both sides."""

    value: float
    n: tuple[int, int]

    def __str__(self) -> str:
        """``FD-EffNetLite0 60.81 (n = 1000, 1000)``."""
        return f"FD-EffNetLite0 {self.value:.2f} (n = {self.n[0]}, {self.n[1]})"


def frechet(a: Moments, b: Moments) -> Frechet:
    """|mₐ - m_b|² + tr Cₐ + tr C_b - 2 tr (Cₐ C_b)^½ of the means m and the unbiased covariances C.

    The last trace is the sum of the singular values of Cₐ^½ C_b^½ (they are the roots of the eigenvalues
    of Cₐ C_b), which takes no root of a product's rounding errors: rank-deficient covariances, that is n
    below d, do no harm. All in float64. Raises InvalidRequest if either n is below 2 or the widths differ.
    """
    if a.total.shape != b.total.shape:
        raise InvalidRequest(f"features of {len(a.total)} and {len(b.total)} numbers do not compare")
    roots = torch.linalg.svdvals(_root(a.covariance) @ _root(b.covariance)).sum()
    spread = a.covariance.trace() + b.covariance.trace() - 2 * roots
    distance = (a.mean - b.mean).square().sum() + spread
    return Frechet(max(0.0, distance.item()), (a.n, b.n))


def _root(covariance: Tensor) -> Tensor:
    """Symmetric root (d, d) of a positive semidefinite (d, d); eigenvalues of rounding's size count as 0."""
    values, vectors = torch.linalg.eigh(covariance)
    floor = len(values) * torch.finfo(values.dtype).eps * values[-1]
    kept = torch.where(values > floor, values, 0.0)
    root: Tensor = (vectors * kept.sqrt()) @ vectors.T
    return root
