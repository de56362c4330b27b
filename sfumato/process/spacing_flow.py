"""The grid of rectified flows whose released code bends the even times of their own schedule."""

from __future__ import annotations

import math

from sfumato.errors import InvalidRequest
from sfumato.process.level import Level
from sfumato.process.schedule import Flow, Schedule

FEW, MANY = (8.73809524e-05, 1.89833333), (0.00016927, 0.45666666)
"""FLUX.2's log shift at 10 and at 200 steps, each a line (slope, value at 0) over the number of tokens."""
FULL = 4300
"""From so many tokens on FLUX.2's shift does not depend on the steps."""


def stretched(levels: list[Level], flow: Flow, terminal: float) -> list[Level]:
    """``levels`` of a rectified flow with 1 - s multiplied so that the last s is ``terminal``; as they are for 0.

    (LTX-Video, released code; diffusers' ``shift_terminal``.) InvalidRequest for a last level that cannot be.
    """
    if not terminal:
        return levels
    if not flow.level(flow.t_min).sigma <= terminal < 1:
        raise InvalidRequest(
            f"terminal = {terminal:g} is outside what is allowed: "
            f"{flow.level(flow.t_min).sigma:g} and above, below 1"
        )
    if len(levels) == 1 or flow.t_max < 1:
        raise InvalidRequest("a terminal time needs two steps or more, and a schedule that begins at time 1")
    factor = (1 - terminal) / levels[-1].alpha
    return [Level(1 - factor * at.alpha, factor * at.alpha, 1 - factor * at.alpha) for at in levels]


def tokens_shift(tokens: int) -> float:
    """FLUX.2's shift for ``tokens`` places and 200 steps; ``even(scarce=true)`` finds that of other steps from it."""
    if tokens < 1:
        raise InvalidRequest(f"tokens = {tokens} is outside what is allowed: 1 and above")
    return math.exp(MANY[0] * tokens + MANY[1])


def _scarce(flow: Flow, steps: int) -> Flow:
    """``flow``, shifted for 200 steps, as FLUX.2 shifts it for ``steps``: its log is a line over them."""
    tokens = (math.log(flow.shift) - MANY[1]) / MANY[0]
    if tokens > FULL + 0.5:
        return flow
    few = FEW[0] * tokens + FEW[1]
    mu = few + (math.log(flow.shift) - few) * (steps - 10) / 190
    return Flow(math.exp(mu), flow.t_min, flow.t_max)


def trig(schedule: Schedule, steps: int, *, middle: float = 0.0) -> list[Level]:
    """Angles atan(sigma / alpha) on a line from pi / 2 towards 0, which is left to the final level.

    (Lu & Song 2024, section 3.1: TrigFlow's time.) ``middle``, where not 0, is the second angle of a walk of two
    steps (SANA-Sprint, released code: 1.3). Rectified flow only.
    """
    if not isinstance(schedule, Flow):
        raise InvalidRequest("the grid 'trig' is for rectified-flow models; use 'kl_optimal' or 'karras'")
    if not 0 <= middle < math.pi / 2:
        raise InvalidRequest(f"middle = {middle:g} is outside what is allowed: 0 to pi / 2")
    top = schedule.level(schedule.t_max)
    first = math.atan2(top.sigma, top.alpha)
    angles = [first * (1 - i / steps) for i in range(1, steps)]
    if middle and steps == 2:
        angles = [min(middle, first)]
    parts = [math.sin(angle) / (math.sin(angle) + math.cos(angle)) for angle in angles]
    return [top, *(Level(s, 1 - s, s) for s in parts)]


def even(
    schedule: Schedule, steps: int, *, terminal: float = 0.0, whole: int = 0, scarce: bool = False
) -> list[Level]:
    """Times 1 - i / n of a rectified flow under its own shift, bent as released code bends them.

    ``terminal``, where not 0, stretches them until the last is so (Qwen-Image: 0.02; see ``shifted``). ``whole``, where
    not 0, makes them a line from 1 to 1 / whole, cut to whole parts of that size (CogView4: 1000). ``scarce`` shifts
    more the fewer steps there are (FLUX.2, whose schedule has the shift of 200 steps). Rectified flow only.
    """
    if not isinstance(schedule, Flow):
        raise InvalidRequest("the grid 'even' is for rectified-flow models; use 'linspace' or 'karras'")
    if whole < 0 or (whole and steps > whole):
        raise InvalidRequest(
            f"whole = {whole} is outside what is allowed: 0, or {steps} (the steps) and above"
        )
    flow = _scarce(schedule, steps) if scarce else schedule
    times = [flow.t_max * (1 - i / steps) for i in range(steps)]
    if whole and steps > 1:
        stride = (1 - whole) / (steps - 1)
        parts = [*(int(i * stride + whole) for i in range(steps - 1)), 1]  # the last exactly, as numpy has it
        times = [part / whole * flow.t_max for part in parts]
    return stretched([flow.level(t) for t in times], flow, terminal)
