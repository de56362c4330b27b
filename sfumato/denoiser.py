"""The denoiser: a network with the process it was trained on. Rows in, estimates out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn

from sfumato.condition import Cond
from sfumato.errors import UnknownName
from sfumato.process.estimate import Estimate
from sfumato.process.level import Level
from sfumato.process.prediction import Prediction
from sfumato.process.schedule import Schedule

Scale = Callable[[Level], Tensor]

CLOCKS: dict[str, Scale] = {
    "t": lambda at: at.t,  # type: ignore[dict-item,return-value]
    "thousand": lambda at: 1000 * at.t,  # type: ignore[dict-item,return-value]
    "log_sigma": lambda at: at.sigma.log() / 4,  # type: ignore[attr-defined]
    "level": lambda at: torch.stack((at.alpha, at.sigma), dim=-1),  # type: ignore[arg-type]
}
"""What a network is told of the level: its time, 1000 times that (flow), EDM's log(sigma) / 4, or both ends."""


class Network(Protocol):
    """A network of sfumato.nn: x, clock and conditions in, one output of x's shape."""

    def __call__(
        self,
        x: Tensor,
        clock: Tensor,
        *,
        tokens: Tensor | None = None,
        mask: Tensor | None = None,
        vector: Tensor | None = None,
        label: Tensor | None = None,
    ) -> Tensor:
        """The output (B, C, H, W) for ``x`` (B, C', H, W) at ``clock`` (B,)."""
        ...


class Denoiser(nn.Module):
    """A network, its schedule, what it predicts, its clock and its input's scale: values, no subclass.

    ``scale(level)`` multiplies x before the network (EDM's c_in, Karras et al. 2022, table 1); None for 1.
    """

    def __init__(
        self,
        network: nn.Module,
        schedule: Schedule,
        prediction: Prediction,
        clock: str = "t",
        scale: Scale | None = None,
    ) -> None:
        """Put the parts together; UnknownName if ``clock`` is not one of CLOCKS."""
        super().__init__()
        if clock not in CLOCKS:
            raise UnknownName("clock", clock, CLOCKS)
        self.network, self.schedule, self.prediction = network, schedule, prediction
        self.clock, self.scale = CLOCKS[clock], scale

    def output(self, x: Tensor, at: Level, cond: Cond) -> Tensor:
        """The network's raw output for rows ``x`` (B, C, H, W) at levels (B,), in x's dtype."""
        weight = next(self.network.parameters(), x)
        inner = x if self.scale is None else x * column(self.scale(at), x)
        doors = cond.to(weight.dtype, weight.device).named()
        if "channels" in doors:
            inner = torch.cat((inner, doors.pop("channels").to(inner.dtype)), dim=1)
        inner = inner.to(weight.device, weight.dtype)
        if inner.ndim == 4:
            inner = inner.contiguous(memory_format=torch.channels_last)
        out: Tensor = self.network(inner, self.clock(at).to(weight.device), **doors)
        return out.to(x.device, x.dtype)

    def forward(self, x: Tensor, at: Level, cond: Cond) -> Estimate:
        """The estimate for rows ``x`` (B, ...) at ``at``, whose fields are (B,) tensors."""
        return self.prediction.estimate(x, self.output(x, at, cond), columns(at, x))

    def loss(self, x0: Tensor, eps: Tensor, at: Level, cond: Cond) -> Tensor:
        """Mean squared error of each row's output to the prediction's target, (B,)."""
        level = columns(at, x0)
        x = level.alpha * x0 + level.sigma * eps
        target = self.prediction.target(x0, eps, level)
        error: Tensor = self.output(x, at, cond) - target
        return error.square().flatten(1).mean(1)


def column(values: Tensor, x: Tensor) -> Tensor:
    """``values`` (B,) shaped to multiply rows of ``x`` (B, ...), in x's dtype."""
    return values.to(x.device, x.dtype).view(-1, *[1] * (x.ndim - 1))


def columns(at: Level, x: Tensor) -> Level:
    """A Level of vectors shaped to multiply rows of ``x``."""
    return Level(*(column(torch.as_tensor(value), x) for value in at))  # type: ignore[arg-type]


def row_levels(levels: list[Level]) -> Level:
    """One Level of float64 vectors from a list, one a row."""
    parts = zip(*levels, strict=True)
    return Level(*(torch.tensor(p, dtype=torch.float64) for p in parts))  # type: ignore[arg-type]
