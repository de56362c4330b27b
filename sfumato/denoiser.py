"""The denoiser: a network with the process it was trained on. Rows in, estimates out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor, nn

from sfumato.condition import Cond
from sfumato.errors import InvalidRequest, UnknownName
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
    ``learned_range`` networks answer twice x's channels: the second half v, in [-1, 1], says what variance the next
    step has (Nichol & Dhariwal 2021, equation 15; ADM and DiT too), and becomes ``Estimate.learned`` = (v + 1) / 2.
    With ``clip`` x0 is limited to [-clip, clip] and eps makes up the difference, as DDPM's released code does on pixels
    (Ho et al. 2020).
    """

    def __init__(
        self,
        network: nn.Module,
        schedule: Schedule,
        prediction: Prediction,
        clock: str = "t",
        scale: Scale | None = None,
        learned_range: bool = False,
        clip: float = 0.0,
    ) -> None:
        """Put the parts together.

        UnknownName if ``clock`` is not one of CLOCKS; InvalidRequest for EDM's prediction on a schedule where alpha
        is not 1. (Whether a network that predicts eps is asked in pure noise, the grid decides: process.grid.)
        """
        super().__init__()
        if clock not in CLOCKS:
            raise UnknownName("clock", clock, CLOCKS)
        if prediction.kind == "edm" and schedule.level(schedule.t_max).alpha != 1:
            raise InvalidRequest(
                "a network that predicts edm is defined where alpha = 1: give it the schedule 'exploding'"
            )
        self.network, self.schedule, self.prediction = network, schedule, prediction
        self.clock, self.scale, self.learned_range, self.clip = CLOCKS[clock], scale, learned_range, clip

    def output(self, x: Tensor, at: Level, cond: Cond) -> Tensor:
        """The network's raw output for rows ``x`` (B, C, H, W) at levels (B,), in x's dtype."""
        weight = next(self.network.parameters(), x)
        inner = x if self.scale is None else x * column(self.scale(at), x)
        doors = cond.to(weight.dtype, weight.device).named()
        if "channels" in doors:
            inner = torch.cat((inner, doors.pop("channels").to(inner.dtype)), dim=1)
        inner = inner.to(weight.device, weight.dtype)
        clock, extra = self.clock(at).to(weight.device), {}
        if cond.manner is not None:
            if not self.attention_layers:
                raise InvalidRequest(
                    "this network has no attention layers, and so no other manner: leave it out"
                )
            extra["manner"] = cond.manner
        if "exemplar" in doors:
            inner, clock, doors = paired(inner, clock, doors, self.scale, at)
        if inner.ndim == 4:
            inner = inner.contiguous(memory_format=torch.channels_last)
        out: Tensor = self.network(inner, clock, **doors, **extra)[: len(x)]
        return out.to(x.device, x.dtype)

    @property
    def attention_layers(self) -> tuple[str, ...]:
        """The names of the network's attention layers in order (see sfumato.manner); none in closed form."""
        found: tuple[str, ...] = getattr(self.network, "attention_layers", ())
        return found

    def forward(self, x: Tensor, at: Level, cond: Cond) -> Estimate:
        """The estimate for rows ``x`` (B, ...) at ``at``, whose fields are (B,) tensors.

        InvalidRequest if the network does not answer x's channels, or twice as many with a learned range.
        """
        output, learned = self._halves(self.output(x, at, cond), x)
        level = columns(at, x)
        found = self.prediction.estimate(x, output, level)
        if self.clip:
            x0 = torch.clamp(torch.as_tensor(found.x0), -self.clip, self.clip)
            found = replace(found, x0=x0, eps=(x - level.alpha * x0) / level.sigma)
        return found if learned is None else replace(found, learned=learned)

    def loss(
        self,
        x0: Tensor,
        eps: Tensor,
        at: Level,
        cond: Cond,
        *,
        to: Level | None = None,
        share: float = 1.0,
    ) -> Tensor:
        """Mean squared error of each row's output to the prediction's target, (B,).

        With ``to``, the levels (B,) of the next step, a network with a learned range also learns its variances:
        ``share`` times the divergence of that step (``step_divergence``, mean over values) is added, whose gradient
        stops at x0. Nichol & Dhariwal 2021, section 3.1, has a share of 0.001 times the number of levels.
        """
        level = columns(at, x0)
        x = level.alpha * x0 + level.sigma * eps
        target = self.prediction.target(x0, eps, level)
        output, learned = self._halves(self.output(x, at, cond), x)
        simple: Tensor = (output - target).square().flatten(1).mean(1)
        if to is None:
            return simple
        if learned is None:
            raise InvalidRequest(
                "only a network with a learned range learns the variance of a step: leave 'to' out"
            )
        found = self.prediction.estimate(x, output.detach(), level)
        bound = step_divergence(x0 - found.x0, learned, level, columns(to, x0))
        return simple + share * bound.flatten(1).mean(1)

    def _halves(self, output: Tensor, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """The output proper, and where the variance lies in its range, in [0, 1]; None without a learned range."""
        channels = x.shape[1]
        wanted = 2 * channels if self.learned_range else channels
        if output.shape[1] != wanted:
            raise InvalidRequest(
                f"the network answers {output.shape[1]} channels for {channels} of x, and learned_range = "
                f"{self.learned_range} needs {wanted}"
            )
        if not self.learned_range:
            return output, None
        return output[:, :channels], (output[:, channels:] + 1) / 2


def paired(
    inner: Tensor, clock: Tensor, doors: dict[str, Tensor], scale: Scale | None, at: Level
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """x and, below it, its exemplars as rows of one call: inputs, clocks and conditions, an exemplar for each row.

    The exemplars' own conditions are those called ``exemplar_``; other doors are as x's. InvalidRequest where the
    two do not fit on one another.
    """
    own = {name.removeprefix("exemplar_"): doors[name] for name in doors if name.startswith("exemplar_")}
    other = doors["exemplar"]
    other = (other if scale is None else other * column(scale(at), other)).to(inner.device, inner.dtype)
    rows = {name: value for name, value in doors.items() if not name.startswith("exemplar")}
    if other.shape != inner.shape or any(
        value.shape != rows[name].shape if name in rows else True for name, value in own.items()
    ):
        raise InvalidRequest(
            "an exemplar must be of x's shape and have conditions of the shapes of x's; regions and channels beside x "
            "do not go with one: leave them out"
        )
    pairs = {name: torch.cat((value, own.get(name, value))) for name, value in rows.items()}
    return torch.cat((inner, other)), torch.cat((clock, clock)), pairs


def step_divergence(error: Tensor, learned: Tensor, at: Level, to: Level) -> Tensor:
    """The divergence, in nats a value, of a step's true Gaussian from the one that is sampled; of error's shape.

    That is KL(q(x_to | x_at, x0) || p(x_to | x_at)), one term of the variational bound (Ho et al. 2020, equation 5),
    where p has an x0 that is off by ``error`` and, in logarithms, the share ``learned`` of the way from the least
    variance to the largest (Nichol & Dhariwal 2021, equation 15). A step to sigma = 0 draws nothing and is 0.
    """
    alpha, sigma, alpha_to, last = (torch.as_tensor(part) for part in (*at[1:], *to[1:]))
    draws = last > 0
    sigma_to = torch.where(draws, last, sigma)
    kept = alpha * sigma_to / (alpha_to * sigma)
    spread = 2 * learned * torch.log(sigma / sigma_to)  # log of the variance over the least
    off = (alpha_to / sigma_to).square() * (1 - kept.square()) * error.square()
    divergence = 0.5 * (spread + (1 + off) * torch.exp(-spread) - 1)
    return torch.where(draws, divergence, torch.zeros_like(divergence))


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
