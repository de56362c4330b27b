"""The Frechet distance against closed forms."""

import math

import pytest
import torch
from torch import Tensor

from sfumato.errors import InvalidRequest
from sfumato.evaluate.frechet import frechet
from sfumato.evaluate.moments import Moments


def with_moments(mean: Tensor, covariance: Tensor, n: int = 100) -> Moments:
    """Moments whose mean and unbiased covariance are exactly these."""
    return Moments(n, n * mean, (n - 1) * covariance + n * torch.outer(mean, mean))


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def rotation(angle: float) -> Tensor:
    c, s = math.cos(angle), math.sin(angle)
    return torch.tensor([[c, -s], [s, c]], dtype=torch.float64)


def rows(n: int, d: int, seed: int) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    mix = torch.randn(d, d, generator=draw, dtype=torch.float64)
    return torch.randn(n, d, generator=draw, dtype=torch.float64) @ mix + torch.randn(d, generator=draw)


def test_commuting_covariances() -> None:
    """In one eigenbasis the distance is |mean difference|² + sum of (sigma - sigma')²."""
    turn = rotation(0.7)
    a = with_moments(vector(1, 2), turn @ torch.diag(vector(4, 9)) @ turn.T)
    b = with_moments(vector(0, 4), turn @ torch.diag(vector(1, 25)) @ turn.T, n=300)
    got = frechet(a, b)
    assert got.value == pytest.approx(1 + 4 + (2 - 1) ** 2 + (3 - 5) ** 2, rel=1e-12)
    assert got.n == (100, 300)
    assert str(got) == "FD-EffNetLite0 10.00 (n = 100, 300)"


@pytest.mark.parametrize("angle", [0.3, math.pi / 4, 1.2])
def test_covariances_that_do_not_commute(angle: float) -> None:
    """For 2x2, tr (AB)^½ = sqrt(tr AB + 2 sqrt(det A det B)), by Cayley and Hamilton."""
    A = torch.diag(vector(4, 0.25))
    B = rotation(angle) @ torch.diag(vector(9, 1)) @ rotation(angle).T
    assert not torch.allclose(A @ B, B @ A)
    root = math.sqrt((A @ B).trace() + 2 * math.sqrt(torch.det(A) * torch.det(B)))
    got = frechet(with_moments(vector(0, 0), A), with_moments(vector(0, 0), B)).value
    assert got == pytest.approx(4.25 + 10 - 2 * root, rel=1e-12)


@pytest.mark.parametrize("angle", [0.0, 0.5, math.pi / 2])
def test_singular_covariances(angle: float) -> None:
    """Two segments at an angle: A = s² uuᵀ, B = t² vvᵀ, tr (AB)^½ = s t |u·v|."""
    u, v = vector(1, 0), vector(math.cos(angle), math.sin(angle))
    a = with_moments(vector(5, 5), 4 * torch.outer(u, u))
    b = with_moments(vector(5, 5), 9 * torch.outer(v, v))
    assert frechet(a, b).value == pytest.approx(4 + 9 - 2 * 2 * 3 * abs(math.cos(angle)), abs=1e-12)


def test_fewer_pictures_than_numbers_in_a_feature() -> None:
    """With n < d: tr (AB)^½ is the sum of the singular values of X Yᵀ over the root of (m - 1)(n - 1)."""
    x, y = rows(12, 40, 1), rows(9, 40, 2)
    xc, yc = x - x.mean(0), y - y.mean(0)
    root = torch.linalg.svdvals(xc @ yc.T).sum() / math.sqrt(11 * 8)
    want = (x.mean(0) - y.mean(0)).square().sum() + xc.square().sum() / 11 + yc.square().sum() / 8 - 2 * root
    assert frechet(Moments.of(x), Moments.of(y)).value == pytest.approx(want.item(), rel=1e-9)


@pytest.mark.parametrize("n", [8, 200])
def test_symmetric_and_zero_on_itself(n: int) -> None:
    a, b = Moments.of(rows(n, 20, 3)), Moments.of(rows(n, 20, 4))
    assert frechet(a, b).value == pytest.approx(frechet(b, a).value, rel=1e-10)
    assert 0 <= frechet(a, a).value < 1e-10 * a.covariance.trace().item()


def test_turning_and_shifting_both_changes_nothing() -> None:
    x, y = rows(50, 6, 5), rows(60, 6, 6)
    turn = torch.linalg.qr(rows(6, 6, 7)).Q
    moved = frechet(Moments.of(x @ turn + 2), Moments.of(y @ turn + 2)).value
    assert moved == pytest.approx(frechet(Moments.of(x), Moments.of(y)).value, rel=1e-10)


def test_what_does_not_compare_is_refused() -> None:
    a = Moments.of(rows(5, 3, 0))
    with pytest.raises(InvalidRequest, match="3 and 4"):
        frechet(a, Moments.of(rows(5, 4, 0)))
    with pytest.raises(InvalidRequest, match="there are 1"):
        frechet(a, Moments.of(rows(1, 3, 0)))
