"""Guidance that keeps the length of each patch of the output."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some
from torch import Tensor

from sfumato.errors import InvalidRequest
from sfumato.guidance.classifier_free import extrapolated
from sfumato.guidance.kept import kept
from sfumato.nn.flux import folded
from sfumato.process.estimate import Estimate
from sfumato.process.level import Level
from sfumato.process.prediction import prediction

FLOW = prediction("flow")
AT: Any = Level(0.7, 0.3, 0.7)


def estimates(side: int, channels: int, seed: int) -> tuple[Tensor, list[Tensor], list[Estimate]]:
    """x, the outputs for what is wanted and what is avoided, and their estimates."""
    draws = torch.Generator().manual_seed(seed)
    x, *outputs = torch.randn(3, 2, channels, 3 * side, 2 * side, generator=draws, dtype=torch.float64)
    return x, outputs, [FLOW.estimate(x, output, AT) for output in outputs]


@given(
    side=some.sampled_from([1, 2, 4]),
    channels=some.integers(1, 5),
    scale=some.floats(0, 20),
    seed=some.integers(0, 99),
    grow=some.booleans(),
)
def test_patches_keep_their_length_and_their_direction(
    side: int, channels: int, scale: float, seed: int, grow: bool
) -> None:
    """As Qwen-Image's pipeline has it, over rows of patches; without growing none is longer than it was."""
    x, (told, avoided), (wanted, other) = estimates(side, channels, seed)
    found = kept(extrapolated(scale), side, grow, FLOW)(x, wanted, other)
    output = folded(torch.as_tensor(FLOW.target(found.x0, found.eps, AT)), side)
    rows, plain = folded(told, side), folded(avoided + scale * (told - avoided), side)
    length, before = rows.norm(dim=-1), plain.norm(dim=-1)
    assert torch.allclose(output.norm(dim=-1), length if grow else torch.minimum(length, before))
    assert torch.allclose((output * plain).sum(-1), output.norm(dim=-1) * before)
    assert torch.allclose(torch.as_tensor(AT.alpha * found.x0 + AT.sigma * found.eps), x)


def test_nothing_to_scale_stays_nothing() -> None:
    x, _, (wanted, _) = estimates(2, 3, 0)
    nothing = FLOW.estimate(x, torch.zeros_like(x), AT)
    found = kept(lambda x, p, n: n, 2, True, FLOW)(x, wanted, nothing)
    assert torch.as_tensor(FLOW.target(found.x0, found.eps, AT)).abs().max() < 1e-12


def test_off_is_off_and_patches_must_cover() -> None:
    combine = extrapolated(3.0)
    assert kept(combine, 0, True, FLOW) is combine
    x, _, (wanted, other) = estimates(1, 3, 0)
    with pytest.raises(InvalidRequest, match="keep = 2 does not suit a latent of 3 x 2 places"):
        kept(combine, 2, True, FLOW)(x, wanted, other)
