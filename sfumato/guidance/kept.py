"""Guidance that keeps, in each patch, the length that the network's output has for what is wanted."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from sfumato.errors import InvalidRequest
from sfumato.guidance.classifier_free import Combine
from sfumato.guidance.rows import ratio
from sfumato.process.estimate import Estimate
from sfumato.process.prediction import Prediction


def kept(combine: Combine, side: int, grow: bool, prediction: Prediction) -> Combine:
    """``g |p| / |g|`` in each patch of ``side`` x ``side`` places, all channels together; ``side`` 0 is off.

    g is the guided output of the network and p that for what is wanted. Without ``grow`` what is shorter than p stays
    as it is. (Qwen-Image, released code, which has rows of 2 x 2 places; LongCat-Image's does not grow.)
    InvalidRequest for a picture that such patches do not cover.
    """
    if side == 0:
        return combine

    def held(x: Tensor, wanted: Estimate, avoided: Estimate) -> Estimate:
        found, at = combine(x, wanted, avoided), wanted.at
        guided = prediction.target(found.x0, found.eps, at)
        if guided.shape[-2] % side or guided.shape[-1] % side:
            raise InvalidRequest(
                f"keep = {side} does not suit a latent of {guided.shape[-2]} x {guided.shape[-1]} places: both must be "
                "whole multiples of it"
            )
        told = prediction.target(wanted.x0, wanted.eps, at)
        factor = ratio(_length(told, side), _length(guided, side), empty=1.0)
        factor = factor if grow else factor.clamp(max=1.0)
        spread = factor.repeat_interleave(side, -2).repeat_interleave(side, -1)
        return prediction.estimate(x, spread * guided, at)

    return held


def _length(output: Tensor, side: int) -> Tensor:
    """The norm of each patch, (B, 1, H / side, W / side)."""
    found: Tensor = F.pixel_unshuffle(output, side).square().sum(1, keepdim=True).sqrt()
    return found
