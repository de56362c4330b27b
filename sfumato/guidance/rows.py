"""Reductions of one row at a time, so that no row's value depends on its company, to the last bit."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def each_row(function: Callable[..., Tensor], *rows: Tensor) -> Tensor:
    """``function`` of the flat values of each row of ``rows`` (B, ...), shaped to multiply rows: (B, 1, ...).

    A row is reduced by itself: one reduction of a whole batch may add in another order for another batch.
    """
    found = torch.stack([function(*(r[i].reshape(-1) for r in rows)) for i in range(len(rows[0]))])
    return found.view(-1, *[1] * (rows[0].ndim - 1))


def ratio(over: Tensor, under: Tensor, empty: float) -> Tensor:
    """``over / under``, and ``empty`` where ``under`` is 0."""
    return torch.where(under > 0, over / torch.where(under > 0, under, 1.0), empty)


def dot(a: Tensor, b: Tensor) -> Tensor:
    """The inner product of the values of two rows."""
    return (a * b).sum()
