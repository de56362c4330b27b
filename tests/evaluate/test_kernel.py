"""KID against its definition, a known expectation, and unbiasedness."""

import pytest
import torch
from torch import Tensor

import sfumato.evaluate.kernel as kernel
from sfumato.errors import InvalidRequest
from sfumato.evaluate.kernel import kid


def rows(n: int, d: int, seed: int, shift: float = 0.0) -> Tensor:
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) + shift


def by_definition(x: Tensor, y: Tensor) -> float:
    def k(u: Tensor, v: Tensor) -> float:
        return (float(u @ v) / len(u) + 1) ** 3

    m, n = len(x), len(y)
    within = [
        sum(k(r[i], r[j]) for i in range(len(r)) for j in range(len(r)) if i != j) / (len(r) * (len(r) - 1))
        for r in (x, y)
    ]
    return sum(within) - 2 * sum(k(u, v) for u in x for v in y) / (m * n)


def test_equals_the_double_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = rows(13, 7, 1), rows(9, 7, 2, shift=0.5)
    want = by_definition(x, y)
    assert kid(x, y).value == pytest.approx(want, rel=1e-12)
    monkeypatch.setattr(kernel, "_ROWS", 4)  # several pieces, the last one smaller
    assert kid(x, y).value == pytest.approx(want, rel=1e-12)
    assert kid(x, y).n == (13, 9)


def test_error_is_that_of_the_mean_of_disjoint_subsets() -> None:
    """With 4 rows on one side there are 2 subsets: the error is half the difference of their estimates."""
    x, y = rows(4, 3, 3), rows(4, 3, 4)
    draw = torch.Generator().manual_seed(11)
    parts = [[r[i] for i in torch.randperm(4, generator=draw).chunk(2)] for r in (x, y)]
    one, two = (by_definition(a, b) for a, b in zip(*parts, strict=True))
    assert kid(x, y, seed=11).error == pytest.approx(abs(one - two) / 2, rel=1e-12)


def test_expectation_is_the_distance_of_the_moments() -> None:
    """In one dimension (xy + 1)³ expands, and MMD² = 3 (Δ E x)² + 3 (Δ E x²)² + (Δ E x³)².

    N(0, 1) has moments 0, 1, 0 and N(1, 1) has 1, 2, 4: 3 + 3 + 16 = 22. The error kid states is that of the
    spread seen.
    """
    runs = [kid(rows(400, 1, 2 * i), rows(400, 1, 2 * i + 1, shift=1)) for i in range(200)]
    values = torch.tensor([r.value for r in runs], dtype=torch.float64)
    spread = values.std()
    assert abs(values.mean() - 22) < 4 * spread / len(values) ** 0.5
    stated = torch.tensor([r.error for r in runs]).square().mean().sqrt()
    assert 0.8 < stated / spread < 1.25


def test_unbiased_on_equal_distributions_even_at_small_n() -> None:
    runs = [kid(rows(6, 8, 2 * i), rows(5, 8, 2 * i + 1)) for i in range(1000)]
    values = torch.tensor([r.value for r in runs], dtype=torch.float64)
    error = values.std() / len(values) ** 0.5
    assert abs(values.mean()) < 3 * error
    assert (values < 0).any()
    # The biased estimate, with the diagonal, would lie well outside: this test can tell them apart.
    diagonal = (2**3 - 1) * (1 / 6 + 1 / 5)
    assert diagonal > 20 * error


def test_symmetric_and_indifferent_to_order() -> None:
    x, y = rows(20, 4, 5), rows(20, 4, 6, shift=1)
    assert kid(x, y).value == pytest.approx(kid(y, x).value, rel=1e-12)
    assert kid(x.flip(0), y).value == pytest.approx(kid(x, y).value, rel=1e-12)
    assert str(kid(x, y)).startswith(f"KID {kid(x, y).value:.4f} ± ")


@pytest.mark.parametrize(
    ("x", "y", "subsets"),
    [
        (rows(4, 3, 0), rows(4, 2, 0), 10),
        (rows(3, 3, 0), rows(9, 3, 0), 10),
        (rows(9, 3, 0), rows(9, 3, 0), 1),
    ],
)
def test_what_does_not_compare_is_refused(x: Tensor, y: Tensor, subsets: int) -> None:
    with pytest.raises(InvalidRequest):
        kid(x, y, subsets=subsets)
