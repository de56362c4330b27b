"""How wrapped networks of rectified flows are asked: their schedule by size, and the time that they are told."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from sfumato.families.told import ScheduleOf, number
from sfumato.process.schedule import Flow, Schedule, shift_for
from sfumato.process.spacing_flow import tokens_shift

Told = Mapping[str, Any]


def line(told: Told, path: str) -> Callable[[int], float]:
    """The log of FLUX.1's shift by the number of tokens: a line through two points of the scheduler's settings."""
    low, high = (
        int(number(told, f"{name}_image_seq_len", usual, path, least=1, whole=True))
        for name, usual in (("base", 256), ("max", 4096))
    )
    base, most = (
        number(told, f"{name}_shift", usual, path, least=-100, most=100)
        for name, usual in (("base", 0.5), ("max", 1.15))
    )
    return lambda tokens: math.log(shift_for(tokens, low, base, high, most))


def root(told: Told, path: str) -> Callable[[int], float]:
    """CogView4's: a line over the root of the number of tokens."""
    low = int(number(told, "base_image_seq_len", 256, path, least=1, whole=True))
    base, most = (
        number(told, f"{name}_shift", usual, path, least=-100, most=100)
        for name, usual in (("base", 0.5), ("max", 1.15))
    )
    return lambda tokens: math.sqrt(tokens / low) * most + base


def scarce(told: Told, path: str) -> Callable[[int], float]:
    """FLUX.2's of 200 steps, which its grid makes that of fewer."""
    return lambda tokens: math.log(tokens_shift(tokens))


def distilled(told: Told, path: str) -> Callable[[int], float]:
    """That of a model of few steps, whatever the size (Krea 2)."""
    return lambda tokens: 1.15


SHIFTS = {"line": line, "root": root, "scarce": scarce, "distilled": distilled}
"""How a number of tokens makes mu, by name: from a scheduler's settings and where they stand."""


def by_tokens(mu: Callable[[int], float], patch: int, linear: bool) -> ScheduleOf:
    """The schedule by the shape of a latent, whose tokens are patches of ``patch`` places a side.

    The shift is e^mu, or with ``linear`` mu itself (diffusers' ``time_shift_type``).
    """

    def of(shape: tuple[int, ...]) -> Schedule:
        found = mu(max(1, shape[-2] * shape[-1] // patch**2))
        return Flow(found if linear else math.exp(found))

    return of


def unshifted(
    schedule: Schedule, schedule_of: ScheduleOf | None
) -> Callable[[Tensor, tuple[int, ...]], Tensor]:
    """From 1000 s to 1000 t, the time that the schedule's shift makes s of, which may depend on the shape of x."""

    def before(clock: Tensor, shape: tuple[int, ...]) -> Tensor:
        flow = schedule if schedule_of is None else schedule_of(shape)
        shift = flow.shift if isinstance(flow, Flow) else 1.0
        s = clock / 1000
        return 1000 * s / (shift - (shift - 1) * s)

    return before
