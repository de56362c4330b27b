"""Operators and the linear algebra that knows them as functions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sfumato.errors import InvalidRequest
from sfumato.guidance.operators import Observation, Operator, average, blur, grey, inner, mask, solve

CORNER = torch.zeros(6, 8, dtype=torch.bool)
CORNER[:2, 3:] = True
OPERATORS: dict[str, Operator] = {
    "mask": mask(CORNER),
    "average": average(2),
    "blur": blur(0.7),
    "grey": grey,
    "a mixture": lambda x0: x0.flatten(1)[:, ::5].cumsum(1),
}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", OPERATORS)
def test_forward_and_adjoint_are_those_of_the_operator(name: str) -> None:
    operator = OPERATORS[name]
    x0, u = normal(2, 3, 6, 8, seed=1), normal(2, 3, 6, 8, seed=2)
    y = normal(*operator(x0).shape, seed=3)
    linear = Observation(operator, y, 0.1).linearised(x0)
    torch.testing.assert_close(linear.residual, y - operator(x0))
    torch.testing.assert_close(linear.forward(u), operator(u), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(inner(linear.adjoint(y), u), inner(y, operator(u)).view(2, 1, 1, 1))


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_the_nearest_is_that_of_the_matrix(name: str, noise: float) -> None:
    operator = OPERATORS[name]
    x0 = normal(2, 3, 6, 8, seed=1)
    y = operator(normal(2, 3, 6, 8, seed=4))
    matrix = operator(torch.eye(144, dtype=torch.float64).view(144, 3, 6, 8)).flatten(1).T
    inverse = matrix.T @ torch.linalg.pinv(
        0.7 * matrix @ matrix.T + noise * torch.eye(len(matrix)), rtol=1e-10
    )
    expected = (y - operator(x0)).flatten(1) @ inverse.T
    found = Observation(operator, y).linearised(x0).nearest(0.7, noise, 400)
    torch.testing.assert_close(found.flatten(1), expected, rtol=1e-6, atol=1e-6)


def test_a_mask_keeps_what_is_true() -> None:
    x0 = normal(2, 3, 6, 8)
    seen = OPERATORS["mask"](x0)
    assert seen.shape == (2, 3, 10)
    assert torch.equal(seen.view(2, 3, 2, 5), x0[:, :, :2, 3:])


def test_an_average_is_of_squares() -> None:
    x0 = torch.arange(16.0).view(1, 1, 4, 4)
    assert average(2)(x0).flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    assert torch.equal(average(1)(x0), x0)


@given(st.floats(0.2, 2.5))
def test_a_blur_keeps_what_is_flat_and_has_its_deviation(std: float) -> None:
    assert blur(std)(torch.full((1, 2, 9, 7), 0.4, dtype=torch.float64)).sub(0.4).abs().max() < 1e-12
    spot = torch.zeros(1, 1, 31, 31, dtype=torch.float64)
    spot[0, 0, 15, 15] = 1
    spread = blur(std)(spot)[0, 0]
    side = torch.arange(31, dtype=torch.float64) - 15
    assert float(spread.sum()) == pytest.approx(1)
    assert torch.equal(spread, spread.T)
    if std > 0.8:  # below, pixels are too coarse to have the deviation of the bell
        assert float((spread.sum(0) * side.square()).sum()) == pytest.approx(std**2, rel=0.06)


def test_grey_is_luma() -> None:
    for channel, part in enumerate((0.299, 0.587, 0.114)):
        x0 = torch.zeros(1, 3, 2, 2, dtype=torch.float64)
        x0[:, channel] = 1
        assert grey(x0).flatten().tolist() == pytest.approx([part] * 4)


def test_conjugate_gradients_solve_rows_by_themselves() -> None:
    roots = normal(4, 6, 6, seed=5)
    matrices = roots @ roots.mT + 0.1 * torch.eye(6, dtype=torch.float64)
    matrices[1] = 3 * torch.eye(6)  # done after one iteration; rests while the others go on
    target = normal(4, 6, seed=6)
    target[2] = 0
    carry = normal(6, 2, seed=7)

    def apply(p: Tensor) -> tuple[Tensor, Tensor]:
        return (matrices @ p[..., None])[..., 0], p @ carry

    found = solve(apply, target, 30)
    torch.testing.assert_close(found, torch.linalg.solve(matrices, target) @ carry, rtol=1e-8, atol=1e-8)
    assert found[2].tolist() == [0, 0]


def test_conjugate_gradients_rest_where_the_matrix_is_not_positive() -> None:
    scales = torch.tensor([[2.0, 2.0], [-1.0, -1.0], [0.0, 0.0]])
    found = solve(lambda p: (scales * p, p), torch.tensor([[4.0, 6.0]] * 3), 5)
    assert found.tolist() == [[2, 3], [0, 0], [0, 0]]


@pytest.mark.parametrize("size", [300, 40_000])
def test_inner_products_are_the_same_bits_in_any_company(size: int) -> None:
    a, b = normal(5, size).float(), normal(5, size, seed=1).float()
    together = inner(a, b)
    assert all(torch.equal(inner(a[i : i + 1], b[i : i + 1])[0], together[i]) for i in range(5))
    torch.testing.assert_close(together[:, 0], (a.double() * b.double()).sum(1).float(), rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize(
    "build",
    [
        lambda: mask(torch.ones(3)),
        lambda: mask(torch.zeros(3, dtype=torch.bool)),
        lambda: average(0),
        lambda: average(4)(normal(1, 3, 6, 8)),
        lambda: blur(0.0),
        lambda: grey(normal(1, 1, 6, 8)),
        lambda: grey(normal(3, 6)),
    ],
)
def test_what_is_no_operator_is_refused(build) -> None:
    with pytest.raises(InvalidRequest):
        build()
