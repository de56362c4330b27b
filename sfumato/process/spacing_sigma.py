"""Grids that are spaced in noise: each function gives the ``steps`` levels at which the network is asked.

The measure of noise is sigma / alpha, the field's "sigma"; on a rectified flow it may be the flow's own sigma, ``over``
"sigma", which is what diffusers' and ComfyUI's flow models use. n is the number of steps, i runs from 0 to n - 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sfumato.errors import InvalidRequest, UnknownName
from sfumato.process.level import CLEAN, Level
from sfumato.process.schedule import Flow, Schedule

ALIGNED: dict[str, tuple[float, ...]] = {
    "sd1": (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029),
    "sdxl": (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029),
    "svd": (700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002),
}
"""The levels of 10 steps for Stable Diffusion 1.5, SDXL and Stable Video Diffusion (Sabour et al. 2024, table 3)."""


@dataclass(frozen=True)
class Measure:
    """A measure of noise on a schedule: its greatest and least value, and the level that has a value between."""

    high: float
    low: float
    level: Callable[[float], Level]


def measured(schedule: Schedule, name: str, over: str = "ratio") -> Measure:
    """The measure ``over`` of ``schedule`` for the grid ``name``.

    Raises UnknownName for another measure, and InvalidRequest for the ratio from pure noise, where it is infinite,
    and for "sigma" of anything but a rectified flow.
    """
    top, low = schedule.level(schedule.t_max), schedule.level(schedule.t_min)
    if over == "ratio":
        if top.alpha == 0:
            instead = f"'{name}(over=sigma)' or 'linspace'" if isinstance(schedule, Flow) else "'linspace'"
            raise InvalidRequest(
                f"the grid {name!r} needs a finite greatest sigma / alpha, and this schedule begins at pure noise "
                f"(alpha = 0): use {instead}"
            )
        return Measure(top.ratio, low.ratio, lambda v: low if v <= low.ratio else schedule.at(-math.log(v)))
    if over != "sigma":
        raise UnknownName("kind of 'over'", over, ("ratio", "sigma"))
    if not isinstance(schedule, Flow):
        raise InvalidRequest(f"'{name}(over=sigma)' is for rectified-flow models; leave 'over' out")
    return Measure(top.sigma, low.sigma, lambda v: Level(v, 1 - v, v))


def karras(schedule: Schedule, steps: int, *, rho: float = 7.0, over: str = "ratio") -> list[Level]:
    """``(a + i / (n - 1) (b - a))^rho`` in sigma / alpha, a = max^(1/rho), b = min^(1/rho).

    (Karras et al. 2022, equation 5.) A schedule that begins at alpha = 0 has no greatest ratio and is refused.
    """
    _positive("rho", rho, 7)
    scale = measured(schedule, "karras", over)
    span = math.log(scale.low / scale.high)
    # Divided by the greatest, so that no power overflows.
    return _between(
        schedule,
        steps,
        lambda u: scale.level(scale.high * math.exp(rho * math.log1p(u * math.expm1(span / rho)))),
    )


def exponential(schedule: Schedule, steps: int, *, over: str = "ratio") -> list[Level]:
    """Even steps in log(sigma / alpha), from the greatest to the least.

    (k-diffusion's get_sigmas_exponential; Lu et al. 2022a, section 3.4, "uniform logSNR".)
    """
    return _powers(schedule, steps, "exponential", 1.0, over)


def polyexponential(schedule: Schedule, steps: int, *, rho: float = 1.0, over: str = "ratio") -> list[Level]:
    """Steps in log(sigma / alpha) that go as ``(1 - i / (n - 1))^rho``.

    (k-diffusion's get_sigmas_polyexponential.)
    """
    _positive("rho", rho, 1)
    return _powers(schedule, steps, "polyexponential", rho, over)


def kl_optimal(schedule: Schedule, steps: int, *, data_std: float = 1.0) -> list[Level]:
    """Even steps in arctan(sigma / (c alpha)), c = ``data_std``: the best grid for Gaussian data of that deviation.

    (Sabour et al. 2024, theorem 3.1.) It needs no finite greatest ratio. ComfyUI's "kl_optimal" has c = 1, and on
    flow models takes the flow's sigma for the ratio.
    """
    _positive("data_std", data_std, 1)
    top, low = schedule.level(schedule.t_max), schedule.level(schedule.t_min)
    a, b = math.atan(top.ratio / data_std), math.atan(low.ratio / data_std)
    return _between(schedule, steps, lambda u: schedule.at(-math.log(data_std * math.tan(a + u * (b - a)))))


def align_your_steps(schedule: Schedule, steps: int, *, model: str = "sd1") -> list[Level]:
    """The optimised levels for ``model`` "sd1", "sdxl" or "svd", log-linear between them for n other than 10.

    (Sabour et al. 2024, table 3 and appendix A.) The published lists end at the model's least level, which is left
    to the final level here, as diffusers and ComfyUI do. InvalidRequest for a schedule whose ends are not the
    list's, to a hundredth; the first level is then the schedule's own.
    """
    if model not in ALIGNED:
        raise UnknownName("model of 'align_your_steps'", model, ALIGNED)
    published = ALIGNED[model]
    top, low = schedule.level(schedule.t_max), schedule.level(schedule.t_min)
    if not (
        math.isclose(top.ratio, published[0], rel_tol=0.01)
        and math.isclose(low.ratio, published[-1], rel_tol=0.01)
    ):
        raise InvalidRequest(
            f"the grid 'align_your_steps(model={model})' is for a schedule from sigma / alpha = {published[0]:g} to "
            f"{published[-1]:g}, and this one runs from {top.ratio:g} to {low.ratio:g}: use 'karras' or 'linspace'"
        )
    levels = [top]
    for i in range(1, steps):
        place = i / steps * (len(published) - 1)
        k = int(place)
        here, there = math.log(published[k]), math.log(published[k + 1])
        levels.append(schedule.at((k - place) * (there - here) - here))
    return levels


def custom(
    schedule: Schedule, steps: int, *, sigmas: Sequence[float] = (), times: Sequence[float] = ()
) -> list[Level]:
    """The levels that are listed, as ``sigmas`` or as ``times``, noise falling; a last 0 is the final level.

    ``sigmas`` are sigma / alpha, but sigma itself on a rectified flow, as in diffusers and ComfyUI; one that misses
    an end of the schedule by its rounding, a thousandth, counts as that end. ``times`` are what the network is told:
    indices of a table, sigma on a rectified flow. InvalidRequest for a level outside the schedule, for two that do
    not fall, and where ``steps`` is not their number.
    """
    levels = listed(schedule, sigmas=sigmas, times=times)
    levels = levels[:-1] if levels[-1].sigma == 0 else levels
    if len(levels) != steps:
        raise InvalidRequest(f"steps = {steps}, and the list has levels for {len(levels)}: leave steps out")
    return levels


def listed(schedule: Schedule, *, sigmas: Sequence[float] = (), times: Sequence[float] = ()) -> list[Level]:
    """The levels of a list as ``custom`` reads it, with the level without noise where the list ends in 0."""
    if bool(sigmas) == bool(times):
        raise InvalidRequest("a grid of one's own needs a list of sigmas or a list of times, and one of them")
    if times:
        return [_of_time(schedule, t) for t in times]
    return [_of_sigma(schedule, sigma) for sigma in sigmas]


def _of_time(schedule: Schedule, t: float) -> Level:
    flow = isinstance(schedule, Flow)
    low, high = (
        (schedule.level(schedule.t_min).t, schedule.level(schedule.t_max).t)
        if flow
        else (
            schedule.t_min,
            schedule.t_max,
        )
    )
    if t == 0 < low:
        return CLEAN
    if not low <= t <= high:
        raise InvalidRequest(
            f"time = {t:g} is outside the schedule; allowed: {high:g} to {low:g}, and 0 at the end"
        )
    return Level(t, 1 - t, t) if flow else schedule.level(t)


def _of_sigma(schedule: Schedule, sigma: float) -> Level:
    if sigma == 0:
        return CLEAN
    top, low = schedule.level(schedule.t_max), schedule.level(schedule.t_min)
    flow = isinstance(schedule, Flow)
    high, least = (top.sigma, low.sigma) if flow else (top.ratio, low.ratio)
    if not least * 0.999 <= sigma <= high * 1.001:
        raise InvalidRequest(
            f"sigma = {sigma:g} is outside the schedule; allowed: {high:g} to {least:g}, and 0 at the end"
        )
    if sigma >= high or sigma <= least:
        return top if sigma >= high else low
    return Level(sigma, 1 - sigma, sigma) if flow else schedule.at(-math.log(sigma))


def _between(schedule: Schedule, steps: int, level: Callable[[float], Level]) -> list[Level]:
    """The schedule's ends exactly, and between them ``level(i / (n - 1))``; a single step is at the top."""
    top, low = schedule.level(schedule.t_max), schedule.level(schedule.t_min)
    inner = [level(i / (steps - 1)) for i in range(1, steps - 1)]
    return [top, *inner, low] if steps > 1 else [top]


def _powers(schedule: Schedule, steps: int, name: str, rho: float, over: str) -> list[Level]:
    scale = measured(schedule, name, over)
    span = math.log(scale.high / scale.low)
    return _between(schedule, steps, lambda u: scale.level(scale.low * math.exp((1 - u) ** rho * span)))


def _positive(name: str, value: float, usual: float) -> None:
    if not 0 < value < math.inf:
        raise InvalidRequest(f"{name} = {value:g} is outside what is allowed: above 0 ({usual:g} is usual)")
