"""Grids that are spaced in time: each function gives the ``steps`` levels at which the network is asked.

T is the number of levels of a discrete schedule, n the number of steps, and i runs from 0 to n - 1.
"""

from __future__ import annotations

import bisect
from functools import lru_cache

from sfumato.errors import InvalidRequest, UnknownName
from sfumato.process.incomplete_beta import beta_cdf, beta_quantile
from sfumato.process.level import Level
from sfumato.process.schedule import Flow, Schedule, shift_for
from sfumato.process.spacing_flow import stretched
from sfumato.process.spacing_sigma import measured
from sfumato.process.table import Table


def linspace(schedule: Schedule, steps: int, *, drop: bool = False) -> list[Level]:
    """Times on a line down from t_max.

    Of a discrete schedule, whole indices from the last to 0, both included, rounded half to even (Lin et al.
    2024, table 2: "linspace"); a single step begins at the last. With ``drop`` these are n + 1, of which index 0 is
    left out (diffusers' DPM-Solver, DEIS and UniPC). Of a continuous schedule, even steps towards time 0, which is
    left to the final level; InvalidRequest for ``drop`` there.
    """
    if not isinstance(schedule, Table):
        if drop:
            raise InvalidRequest("drop = true is for schedules of whole indices: leave it out")
        return [schedule.level(schedule.t_max * (1 - i / steps)) for i in range(steps)]
    if drop:
        return linspace(schedule, steps + 1)[:-1]
    if steps == 1:
        return [schedule.level(schedule.t_max)]
    stride = schedule.t_max / (steps - 1)
    inner = [schedule.level(round(i * stride)) for i in range(steps - 2, -1, -1)]
    return [schedule.level(schedule.t_max), *inner]


def leading(schedule: Schedule, steps: int, *, offset: int = 1, drop: bool = False) -> list[Level]:
    """Indices ``i (T // n) + offset``, highest first.

    With ``drop`` these are n + 1, of which the lowest is left out (diffusers' DPM-Solver, DEIS and UniPC). (Lin et
    al. 2024, table 2: "leading".) ``offset`` 1 is Stable Diffusion's, and diffusers' ``steps_offset``; at n = T, where
    it would leave the table, it gives way. Discrete schedules only. InvalidRequest for any other offset that leaves
    the table.
    """
    table = _table(schedule, "leading")
    if drop:
        return leading(schedule, steps + 1, offset=offset)[:-1]
    total = len(table.signal)
    stride = total // steps
    room = total - 1 - (steps - 1) * stride
    if not 0 <= offset <= room and offset != 1:
        raise InvalidRequest(
            f"offset = {offset} leaves the schedule; with steps = {steps} it may be 0 to {room}"
        )
    shift = min(offset, room)
    return [table.level(i * stride + shift) for i in range(steps - 1, -1, -1)]


def trailing(schedule: Schedule, steps: int) -> list[Level]:
    """Indices ``round(T - i T / n) - 1``, so that the walk begins at the last.

    (Lin et al. 2024, table 2: "trailing".) Discrete schedules only.
    """
    table = _table(schedule, "trailing")
    total = len(table.signal)
    down = (total - total / steps) - total  # rounded as numpy's arange does, on which halves depend
    return [table.level(round(total + i * down) - 1) for i in range(steps)]


def normal(schedule: Schedule, steps: int) -> list[Level]:
    """Times on a line from t_max to t_min, both included, and not rounded.

    (ComfyUI: "normal".)
    """
    if steps == 1:
        return [schedule.level(schedule.t_max)]
    stride = (schedule.t_max - schedule.t_min) / (steps - 1)
    inner = [schedule.level(schedule.t_max - i * stride) for i in range(1, steps - 1)]
    return [schedule.level(schedule.t_max), *inner, schedule.level(schedule.t_min)]


def sgm_uniform(schedule: Schedule, steps: int, *, start: float = 0.0) -> list[Level]:
    """Times ``t_max - i (t_max - t_min) / n``, not rounded: n even steps to t_min, which is left out.

    (ComfyUI: "sgm_uniform", after Stability's generative-models.) On a rectified flow this is also diffusers'
    ``use_flow_sigmas``, whose UniPC clamps the first of times from 1 alone: ``start``, where not 0, is where the line
    begins in place of t_max, at which the first level stays. InvalidRequest unless that is from t_max to 1, of a
    rectified flow.
    """
    if start and not (isinstance(schedule, Flow) and schedule.t_max <= start <= 1):
        raise InvalidRequest(
            f"start = {start:g} is outside what is allowed: 0, or t_max to 1 of a rectified flow (t_max is "
            f"{schedule.t_max:.9g} here)"
        )
    high = start or schedule.t_max
    stride = (high - schedule.t_min) / steps
    return [schedule.level(min(schedule.t_max, high - i * stride)) for i in range(steps)]


def simple(schedule: Schedule, steps: int) -> list[Level]:
    """Indices ``T - 1 - floor(i T / n)``.

    (ComfyUI: "simple".) Of a continuous schedule, what that tends to with many levels: times ``t_max (1 - i / n)``.
    """
    if not isinstance(schedule, Table):
        return linspace(schedule, steps)
    total = len(schedule.signal)
    return [schedule.level(total - 1 - int(i * (total / steps))) for i in range(steps)]


def ddim_uniform(schedule: Schedule, steps: int) -> list[Level]:
    """Indices 1, 1 + r, 1 + 2 r ... below T, r = T // n, highest first.

    (ComfyUI: "ddim_uniform".) Where these are not n levels, ComfyUI walks another number of steps than was
    asked for; such numbers are refused here. Discrete schedules only.
    """
    table = _table(schedule, "ddim_uniform")
    total = len(table.signal)
    indices = range(1, total, max(1, total // steps))
    if len(indices) != steps:
        fits = [n for n in range(1, total) if len(range(1, total, total // n)) == n]
        near = sorted(fits, key=lambda n: abs(n - steps))[:2]
        raise InvalidRequest(
            f"steps = {steps} does not suit the grid 'ddim_uniform': strides of {total // steps} in {total} levels "
            f"make {len(indices)} steps; the nearest that fit are {' and '.join(map(str, sorted(near)))}, "
            f"or use 'leading'"
        )
    return [table.level(index) for index in reversed(indices)]


def beta(
    schedule: Schedule, steps: int, *, alpha: float = 0.6, beta: float = 0.6, over: str = "time"
) -> list[Level]:
    """Quantiles ``1 - i / n`` of the Beta(alpha, beta) distribution over the times from t_min to t_max.

    (Lee et al. 2024, section 4; ComfyUI: "beta".) Indices of a discrete schedule are rounded. With ``over`` "ratio"
    or, on a rectified flow, "sigma", it is what diffusers' ``use_beta_sigmas`` does: quantiles
    ``1 - i / (n - 1)`` over sigma / alpha, or over sigma, between the ends. InvalidRequest for an alpha or beta
    outside (0, 100].
    """
    for name, value in (("alpha", alpha), ("beta", beta)):
        if not 0.01 <= value <= 100:
            raise InvalidRequest(f"{name} = {value:g} is outside what is allowed: 0.01 to 100 (0.6 is usual)")
    if over not in ("time", "ratio", "sigma"):
        raise UnknownName("kind of 'over'", over, ("time", "ratio", "sigma"))
    top = schedule.level(schedule.t_max)
    if over != "time":
        scale = measured(schedule, "beta", "ratio" if over == "ratio" else "sigma")
        parts = [beta_quantile(1 - i / (steps - 1), alpha, beta) for i in range(1, steps)]
        return [top, *(scale.level(scale.low + part * (scale.high - scale.low)) for part in parts)]
    if isinstance(schedule, Table):
        cuts = _cuts(len(schedule.signal), float(alpha), float(beta))
        return [
            top,
            *(schedule.level(bisect.bisect_left(cuts, 1 - i / steps)) for i in range(1, steps)),
        ]
    span = schedule.t_max - schedule.t_min
    parts = [beta_quantile(1 - i / steps, alpha, beta) for i in range(1, steps)]
    return [top, *(schedule.level(schedule.t_min + part * span) for part in parts)]


def shifted(
    schedule: Schedule, steps: int, *, shift: float = 3.0, tokens: int = 0, terminal: float = 0.0
) -> list[Level]:
    """Rectified flow's times on a line, then shifted towards noise: s = shift t / (1 + (shift - 1) t).

    (Esser et al. 2024, equation 23; 3 is what Stable Diffusion 3 uses.) It stands in for the schedule's own
    shift and does not multiply it. ``tokens``, where not 0, chooses the shift as Flux does (``shift_for``).
    ``terminal``, where not 0, then stretches the times so that the last is ``terminal``: 1 - s is multiplied by
    (1 - terminal) / (1 - s_last) (LTX-Video, released code; diffusers' ``shift_terminal``). Rectified flow only.
    """
    flow = _flow(schedule, "shifted")
    if tokens and shift != 3:
        raise InvalidRequest(
            f"shift = {shift:g} and tokens = {tokens} both choose the shift: give one of them"
        )
    wanted, top = Flow(shift_for(tokens) if tokens else shift), flow.level(flow.t_max)
    begin = top.sigma / (top.sigma + wanted.shift * top.alpha)  # the time that this shift takes to the top
    levels = [top, *(wanted.level(begin * (1 - i / steps)) for i in range(1, steps))]
    return stretched(levels, flow, terminal)


def linear_quadratic(
    schedule: Schedule, steps: int, *, threshold: float = 0.025, linear_steps: int = 0
) -> list[Level]:
    """Rectified flow's times 1 - x: x rises to ``threshold`` evenly, then as a parabola of the same slope to 1.

    (Polyak et al. 2024, Movie Gen, section 3.4; Mochi, released code.) ``linear_steps`` of the n are even; 0 for
    half of them. The times are what the network is told, in place of the schedule's own shift. Rectified flow only.
    """
    flow = _flow(schedule, "linear_quadratic")
    top = flow.level(flow.t_max)
    if steps == 1:
        return [top]
    even = linear_steps or steps // 2
    if not 1 <= even < steps:
        raise InvalidRequest(
            f"linear_steps = {even} does not suit {steps} steps: it may be 1 to {steps - 1}, or 0 for half"
        )
    slope, bent = threshold / even, steps - even
    curve = (1 - threshold - slope * bent) / bent**2
    if not (0 < threshold < 1 and slope + 2 * curve * bent > 0):
        raise InvalidRequest(
            f"threshold = {threshold:g} does not suit {even} even steps of {steps}: it must be above 0 and so small "
            f"that the parabola still rises at its end (0.025 is usual)"
        )
    past = [max(0, i - even) for i in range(steps)]
    times = [top.sigma * (1 - (slope * i + curve * j * j)) for i, j in enumerate(past)]
    return [top, *(Level(s, 1 - s, s) for s in times[1:])]


@lru_cache(maxsize=8)
def _cuts(total: int, alpha: float, beta: float) -> list[float]:
    """The chance of being rounded to an index of at most k, for k = 0 .. total - 2."""
    return [beta_cdf((k + 0.5) / (total - 1), alpha, beta) for k in range(total - 1)]


def _table(schedule: Schedule, name: str) -> Table:
    if not isinstance(schedule, Table):
        raise InvalidRequest(
            f"the grid {name!r} counts the indices of a discrete schedule, and this model's schedule is "
            f"continuous: use 'linspace'"
        )
    return schedule


def _flow(schedule: Schedule, name: str) -> Flow:
    if not isinstance(schedule, Flow):
        raise InvalidRequest(f"the grid {name!r} is for rectified-flow models; use 'linspace' or 'karras'")
    return schedule


__all__ = [
    "beta",
    "ddim_uniform",
    "leading",
    "linear_quadratic",
    "linspace",
    "normal",
    "sgm_uniform",
    "shifted",
    "simple",
    "trailing",
]
