"""Adapters beside the weights: a hook on a layer adds what its updates make of the layer's input.

A low-rank update costs two thin products and the memory of its factors. Other formulas are written out once, when they
are attached, in the weight's dtype, and cost one more product of the layer's size.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.adapters.formula import Formula, Lora
from sfumato.adapters.names import Network, Spot, gather, scatter
from sfumato.errors import InvalidRequest
from sfumato.process.level import Level

Handle = torch.utils.hooks.RemovableHandle
Branch = Callable[[Tensor], list[tuple[int, Tensor]]]
"""From a layer's input to what is added to its output: from which channel on, and the values."""


@dataclass(frozen=True, eq=False)
class Share:
    """One formula on a spot with its factor, acting where lo <= share of the level <= hi."""

    formula: Formula
    spot: Spot
    factor: float
    lo: float
    hi: float


class Gate:
    """Tells the hooks at which level each row of the running call is; each thread has its own call."""

    def __init__(self) -> None:
        """No call runs."""
        self._now = threading.local()

    def watch(self, denoiser: nn.Module) -> list[Handle]:
        """Listen to the calls of ``denoiser``, whose second argument is the level of each row."""
        return [
            denoiser.register_forward_pre_hook(self._enter),
            denoiser.register_forward_hook(self._leave, always_call=True),
        ]

    def rows(self, lo: float, hi: float) -> Tensor | bool:
        """Which rows are between ``lo`` and ``hi``: all (True), none (False), or a bool for each, (B,)."""
        shares: Tensor | None = getattr(self._now, "shares", None)
        if shares is None:
            raise InvalidRequest(
                "an adapter acts between two levels, and this network was called without its denoiser"
            )
        inside = (shares >= lo) & (shares <= hi)
        if bool(inside.all()):
            return True
        return inside if bool(inside.any()) else False

    def _enter(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        level: Level = args[1]
        alpha, sigma = (torch.as_tensor(value, dtype=torch.float64) for value in (level.alpha, level.sigma))
        self._now.shares = (sigma / torch.hypot(alpha, sigma)).reshape(-1)

    def _leave(self, module: nn.Module, args: tuple[Any, ...], output: object) -> None:
        self._now.shares = None


def is_plain(module: nn.Module) -> bool:
    """Whether ``module`` is a linear map or a convolution to whose output an update can be added."""
    if isinstance(module, nn.Conv2d):
        return module.groups == 1 and module.padding_mode == "zeros" and not isinstance(module.padding, str)
    return isinstance(module, nn.Linear)


def attach(network: Network, owner: str, kind: str, shares: Sequence[Share], gate: Gate) -> Handle:
    """Add the updates ``shares`` of the ``kind`` ("weight", "bias") of our layer ``owner`` to its output."""
    layer = network.layers[owner]
    name = f"{owner}.{kind}"
    assert isinstance(layer, nn.Linear | nn.Conv2d)
    spans: dict[tuple[float, float], list[Branch]] = {}
    dense: dict[tuple[float, float], list[Share]] = {}
    for share in shares:
        thin = isinstance(share.formula, Lora) and not share.spot.transposed and kind == "weight"
        span = share.lo, share.hi
        if thin:
            spans.setdefault(span, []).append(_thin(layer, share, name))
        else:
            dense.setdefault(span, []).append(share)
    parameter, channel = network.parameter(name), 1 if isinstance(layer, nn.Conv2d) else -1
    for span, found in dense.items():
        total = torch.zeros_like(parameter, dtype=torch.float32, requires_grad=False)
        for share in found:
            values = share.formula.delta(gather(share.spot, network))
            scatter(share.spot, values, name, total, share.factor)
        spans.setdefault(span, []).append(_dense(layer, total.to(parameter.dtype), kind))

    def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        for (lo, hi), branches in spans.items():
            rows: Tensor | bool = True if (lo, hi) == (0.0, 1.0) else gate.rows(lo, hi)
            if rows is not False:
                for branch in branches:
                    output = _added(output, branch(args[0]), rows, channel)
        return output

    return layer.register_forward_hook(hook)


def _added(output: Tensor, parts: list[tuple[int, Tensor]], rows: Tensor | bool, channel: int) -> Tensor:
    """``output`` and the ``parts``, from their channels on, in those ``rows``."""
    for begin, part in parts:
        if isinstance(rows, Tensor):
            part = part * rows.to(part.device, part.dtype).view(-1, *[1] * (part.ndim - 1))
        if part.shape[channel] == output.shape[channel]:
            output = output + part
        else:  # the layer's output is new, nobody else has it
            output.narrow(channel, begin, part.shape[channel]).add_(part)
    return output


def _thin(layer: nn.Linear | nn.Conv2d, share: Share, name: str) -> Branch:
    """A low-rank update by its factors."""
    lora = share.formula
    assert isinstance(lora, Lora)
    weight = layer.weight
    factor = lora.scale * share.factor
    up = (lora.up.float().flatten(1) * factor).to(weight.device, weight.dtype)
    down = lora.down.to(weight.device, weight.dtype)
    pieces = [
        (run.row, up[run.first : run.first + run.count].contiguous())
        for run in share.spot.runs
        if run.name == name
    ]
    if isinstance(layer, nn.Linear):
        flat = down.flatten(1).contiguous()

        def linear(x: Tensor) -> list[tuple[int, Tensor]]:
            inner = F.linear(x, flat)
            return [(row, F.linear(inner, part)) for row, part in pieces]

        return linear

    how = (layer.stride, layer.padding, layer.dilation)
    _, inner, *kernel = weight.shape
    if lora.mid is None:
        first, mid = down.reshape(-1, inner, *kernel), None
    else:
        first = down.reshape(-1, inner, 1, 1)
        mid = lora.mid.to(weight.device, weight.dtype)

    def conv(x: Tensor) -> list[tuple[int, Tensor]]:
        if mid is None:
            h = F.conv2d(x, first, None, *how)  # type: ignore[arg-type]
        else:
            h = F.conv2d(F.conv2d(x, first), mid, None, *how)  # type: ignore[arg-type]
        return [(row, F.conv2d(h, part[:, :, None, None])) for row, part in pieces]

    return conv


def _dense(layer: nn.Linear | nn.Conv2d, delta: Tensor, kind: str) -> Branch:
    """An update that is written out."""
    if kind == "bias":

        def shift(x: Tensor) -> list[tuple[int, Tensor]]:
            if isinstance(layer, nn.Conv2d):
                return [(0, delta.view(1, -1, 1, 1).expand(len(x), -1, 1, 1))]
            return [(0, delta.expand(*x.shape[:-1], -1))]

        return shift

    def whole(x: Tensor) -> list[tuple[int, Tensor]]:
        if isinstance(layer, nn.Linear):
            return [(0, F.linear(x, delta))]
        return [(0, F.conv2d(x, delta, None, layer.stride, layer.padding, layer.dilation))]

    return whole
