"""The perceptual distance on a network with random weights: an axiom each."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sfumato.nn.efficientnet import EfficientNetLite0, efficientnet_lite0
from sfumato.train.perceptual import PerceptualDistance


@pytest.fixture(scope="module")
def network() -> EfficientNetLite0:
    torch.manual_seed(0)
    return efficientnet_lite0().eval().requires_grad_(False)


def picture(seed: int) -> Tensor:
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_it_is_zero_on_equal_pictures_and_above_zero_on_others(network: EfficientNetLite0) -> None:
    distance = PerceptualDistance(network, torch.float32)
    a, b = picture(0), picture(1)
    assert distance(a, a) == 0
    assert float(distance(a, b)) > 1e-4
    assert float(distance(a, b)) == pytest.approx(float(distance(b, a)), rel=1e-5)
    near = a + 0.05 * (b - a)
    assert float(distance(a, near)) < float(distance(a, b))
    assert float(distance(a, b)) <= 4  # of vectors of unit length, squared


def test_the_gradient_flows_into_the_first_alone_and_points_to_the_second(
    network: EfficientNetLite0,
) -> None:
    distance = PerceptualDistance(network, torch.float32)
    a, b = picture(0).requires_grad_(), picture(1).requires_grad_()
    value = distance(a, b)
    value.backward()
    assert b.grad is None
    assert a.grad is not None
    assert all(p.grad is None for p in network.parameters())
    step = 1e-3 * a.grad / a.grad.norm()
    fall = value.item() - distance((a - step).detach(), b).item()
    assert fall == pytest.approx(float((a.grad * step).sum()), rel=0.2)


class Multiples(nn.Module):
    """Feature maps that are the picture and its double."""

    def stages(self, x: Tensor) -> list[Tensor]:
        return [x, 2 * x, torch.full_like(x, torch.nan)]


def test_of_known_features_it_is_the_mean_of_squared_chords() -> None:
    """Unit vectors at an angle differ by (2 sin(angle / 2)) squared; length counts for nothing."""
    a = torch.tensor([3.0, 0.0, 0.0]).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    b = torch.tensor([0.0, 0.5, 0.0]).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    distance = PerceptualDistance(Multiples(), torch.float32, stages=2)
    assert float(distance(a, b)) == pytest.approx(2.0)
    assert float(distance(a, -a)) == pytest.approx(4.0)
    assert float(distance(a, 7 * a)) == pytest.approx(0.0, abs=1e-12)
