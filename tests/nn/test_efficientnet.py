"""EfficientNet-Lite0 against the package its weights come from, and its own promises."""

import pytest
import torch
from torch import Tensor, nn

from sfumato.nn.efficientnet import convert_state_dict, efficientnet_lite0

reference = pytest.importorskip(
    "efficientnet_lite_pytorch", reason="the dev extra brings the reference network"
)


def redraw(model: nn.Module, seed: int) -> None:
    """Random weights and running statistics that keep activations inside and outside of ReLU6's bend."""
    draw = torch.Generator().manual_seed(seed)
    for name, value in model.state_dict().items():
        if not value.is_floating_point():
            continue
        noise = torch.randn(value.shape, generator=draw, dtype=value.dtype)
        if name.endswith("running_var"):
            value.copy_(0.2 + noise.abs())
        elif value.ndim >= 2:
            value.copy_(noise / value[0].numel() ** 0.5)
        elif name.endswith("weight"):
            value.copy_(1 + 0.3 * noise)
        else:
            value.copy_(0.3 * noise)


def pair(image_size: int | None) -> tuple[nn.Module, nn.Module]:
    theirs = reference.EfficientNet.from_name("efficientnet-lite0", image_size=image_size).double().eval()
    redraw(theirs, seed=3)
    ours = efficientnet_lite0().double().eval()
    ours.load_state_dict(convert_state_dict(theirs.state_dict()), strict=True)
    return ours, theirs


def levels(x: Tensor) -> Tensor:
    """[-1, 1] -> the convention of the package."""
    return ((x + 1) * 127.5 - 127) / 128


# Even sides pad (0, 1) and (1, 2); 75 x 97 gives odd sides on the way down, which pad otherwise.
@pytest.mark.parametrize(("height", "width"), [(160, 160), (64, 96), (75, 97), (33, 33)])
def test_equals_the_reference(height: int, width: int) -> None:
    ours, theirs = pair(image_size=None)
    x = (
        torch.rand(2, 3, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 2
        - 1
    )
    with torch.no_grad():
        expected = theirs.extract_features(levels(x)).mean((2, 3))
        assert expected.std() > 0.1
        torch.testing.assert_close(ours(x), expected, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(ours.logits(x), theirs(levels(x)), rtol=1e-9, atol=1e-9)


def test_default_padding_of_the_reference_is_the_same_at_multiples_of_32() -> None:
    ours, theirs = pair(image_size=224)
    x = torch.rand(1, 3, 160, 160, dtype=torch.float64, generator=torch.Generator().manual_seed(2)) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(ours.logits(x), theirs(levels(x)), rtol=1e-9, atol=1e-9)


def test_stages_are_the_references_last_map_of_each_resolution() -> None:
    ours, theirs = pair(image_size=None)
    x = torch.rand(1, 3, 70, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(4)) * 2 - 1
    with torch.no_grad():
        y = theirs._swish(theirs._bn0(theirs._conv_stem(levels(x))))
        expected = [y]
        for i, block in enumerate(theirs._blocks):
            y = block(y)
            if i in (2, 4, 10, 15):
                expected.append(y)
        maps = ours.stages(x)
    assert [tuple(m.shape[1:]) for m in maps] == [
        (32, 35, 32),
        (24, 18, 16),
        (40, 9, 8),
        (112, 5, 4),
        (320, 3, 2),
    ]
    for ours_map, their_map in zip(maps, expected, strict=True):
        torch.testing.assert_close(ours_map, their_map, rtol=1e-9, atol=1e-9)


def test_training_mode_changes_neither_result_nor_statistics() -> None:
    model = efficientnet_lite0().double()
    redraw(model, seed=5)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    x = torch.rand(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(model.train().logits(x), model.eval().logits(x), rtol=0, atol=0)
    for k, v in model.state_dict().items():
        assert torch.equal(v, before[k]), k


def test_each_picture_is_looked_at_by_itself() -> None:
    model = efficientnet_lite0().double().eval()
    redraw(model, seed=6)
    x = torch.rand(3, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        alone = torch.cat([model(x[i : i + 1]) for i in range(3)])
        torch.testing.assert_close(model(x), alone, rtol=1e-9, atol=1e-9)


def test_gradient_reaches_the_picture() -> None:
    model = efficientnet_lite0().double().eval().requires_grad_(False)
    redraw(model, seed=7)
    x = (torch.rand(1, 3, 32, 32, dtype=torch.float64) * 2 - 1).requires_grad_()
    direction = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(8))

    def loss(t: Tensor) -> Tensor:
        return torch.stack([m.square().mean() for m in model.stages(t)]).sum()

    loss(x).backward()
    step = 1e-6
    with torch.no_grad():
        slope = (loss(x + step * direction) - loss(x - step * direction)) / (2 * step)
    assert x.grad is not None
    torch.testing.assert_close((x.grad * direction).sum(), slope, rtol=1e-4, atol=1e-8)
