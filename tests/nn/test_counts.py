"""Tokens that count more or less than once in FLUX.1's attention: twice is as if they were there twice."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from sfumato.manner import Manner
from sfumato.nn.flux import Flux, FluxConfig
from tests.peers.tiny import redraw

F64 = torch.float64
CONFIG = FluxConfig(double=2, single=2, width=64, heads=2, tokens=24, vector=16, axes=(4, 14, 14))
LEFT = torch.zeros(2, 2, 8, 8)
LEFT[:, 0, :, :4], LEFT[:, 1, :, 4:] = 1, 1
ALL = frozenset(range(4))


@pytest.fixture(scope="module")
def net() -> Flux:
    """A small FLUX.1, redrawn."""
    made = Flux(CONFIG).double().eval()
    redraw(made, seed=4)
    return made


def answer(net: Flux, tokens: Tensor, owner: Tensor | None = None, **more: Any) -> Tensor:
    """The output for two rows."""
    draws = torch.Generator().manual_seed(9)
    x = torch.randn(2, 16, 8, 8, generator=draws, dtype=F64)
    vector, clock = torch.randn(2, 16, generator=draws, dtype=F64), torch.tensor([300.0, 800.0])
    if owner is not None:
        more |= {"regions": LEFT, "owner": owner}
    with torch.no_grad():
        found: Tensor = net(x, clock, tokens=tokens, vector=vector, guidance=torch.tensor([3.5, 2.0]), **more)
    return found


@pytest.mark.parametrize(
    ("manner", "regions"),
    [
        (None, False),
        (None, True),
        (Manner(identity=ALL), False),
        (Manner(identity=ALL), True),
        # pictures that share attention have no regions
        (Manner(share=ALL, align=False), False),
        (Manner(share=ALL, align=False, weight=0.5), False),
        (Manner(share=ALL, align=False, own=False), False),
    ],
)
def test_a_token_that_counts_twice_is_there_twice_and_one_that_counts_never_is_not(
    net: Flux, manner: Manner | None, regions: bool
) -> None:
    tokens = torch.randn(2, 5, 24, generator=torch.Generator().manual_seed(2), dtype=F64)
    owner = torch.tensor([[0, 0, 1, 1, 1]] * 2) if regions else None

    def said(rows: list[int], counts: list[float] | None = None) -> Tensor:
        told = {} if counts is None else {"counts": torch.tensor([counts] * 2, dtype=F64)}
        return answer(net, tokens[:, rows], None if owner is None else owner[:, rows], manner=manner, **told)

    every, size = [0, 1, 2, 3, 4], said([0, 1, 2, 3, 4]).norm()
    for counts, rows in (
        ([1.0, 1, 1, 1, 1], every),
        ([1.0, 1, 1, 2, 2], [0, 1, 2, 3, 4, 3, 4]),
        ([1.0, 3, 1, 1, 1], [0, 1, 1, 1, 2, 3, 4]),
        ([1.0, 1, 1, 0, 0], [0, 1, 2]),
    ):
        assert (said(every, counts) - said(rows)).norm() / size < 1e-12, counts
    assert (said(every, [1.0, 1, 1, 0.5, 0.5]) - said(every)).norm() / size > 1e-4
