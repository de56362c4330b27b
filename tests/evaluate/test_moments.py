"""Moments against their definition, and the law of merging."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sfumato.errors import InvalidRequest
from sfumato.evaluate.moments import Moments


def rows(n: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) + 3


def test_mean_and_covariance_are_torchs() -> None:
    x = rows(40)
    m = Moments.of(x)
    assert m.n == 40
    torch.testing.assert_close(m.mean, x.mean(0), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(m.covariance, torch.cov(x.T), rtol=1e-11, atol=1e-12)


@given(st.lists(st.integers(0, 30), min_size=1, max_size=4), st.permutations(range(4)))
def test_pieces_in_any_order_merge_to_the_whole(cuts: list[int], order: list[int]) -> None:
    x = rows(30)
    pieces = list(x.tensor_split(sorted(cuts)))
    pieces = [pieces[i] for i in order if i < len(pieces)] + pieces[4:]
    merged = Moments.of(x[:0])
    for piece in pieces:
        merged = merged + Moments.of(piece)
    whole = Moments.of(x)
    assert merged.n == whole.n == 30
    torch.testing.assert_close(merged.total, whole.total, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(merged.outer, whole.outer, rtol=1e-12, atol=1e-12)


def test_float32_features_are_summed_in_float64() -> None:
    x = torch.full((1001, 1), 1e8, dtype=torch.float32)
    x[0] = 1.0
    assert Moments.of(x).total.item() == 1e11 + 1


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="do not merge"):
        Moments.of(rows(3)) + Moments.of(rows(3)[:, :2])
    with pytest.raises(InvalidRequest, match="2 pictures or more; there are 1"):
        _ = Moments.of(rows(1)).covariance
    with pytest.raises(InvalidRequest, match="1 pictures or more; there are 0"):
        _ = Moments.of(rows(0)).mean
    with pytest.raises(InvalidRequest, match=r"\(n, d\)"):
        Moments.of(rows(3)[0])
