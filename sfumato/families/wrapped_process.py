"""How wrapped networks are asked: process, grid and defaults, by the scheduler's settings and the pipeline's call."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sfumato.errors import WeightsError
from sfumato.families.flows import shifted_twice
from sfumato.families.told import SAMPLERS, Process, ScheduleOf, followed, number
from sfumato.families.ways import WAYS, Way
from sfumato.model import Defaults
from sfumato.process.schedule import Flow, Schedule, shift_for
from sfumato.process.spacing_flow import tokens_shift
from sfumato.process.table import Table, linear, zero_snr

Told = Mapping[str, Any]

EULER, LCM, SOLVER = "FlowMatchEulerDiscreteScheduler", "FlowMatchLCMScheduler", "UniPCMultistepScheduler"
"""Schedulers of rectified flows; the last is one where it says so."""
SHIFTED_DDIM = "CogVideoXDDIMScheduler"
"""DDIM on a table whose signal-to-noise ratio is divided by ``snr_shift_scale``."""
PREDICTED_BY_TABLES = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}
SOLVES: dict[str, Any] = {
    "solver_order": 2,
    "solver_type": "bh2",
    "predict_x0": True,
    "prediction_type": "flow_prediction",
    "thresholding": False,
    "lower_order_final": True,
    "disable_corrector": [],
    "final_sigmas_type": "zero",
    "use_dynamic_shifting": False,
    "shift_terminal": None,
}
"""The settings of UniPC on a rectified flow that are ``unipc`` here."""
NEAR = 1 - 1e-6
"""The first sigma that diffusers' UniPC asks at, in place of 1; the others stay where they were."""


def process_of(pipe: Any, path: Path, way: Way | None) -> Process:
    """How the network of ``pipe``, which lies in ``path``, is asked; ``way`` is its row, if it has one.

    WeightsError for a scheduler that is not followed, and for a rectified flow of a class without a row.
    """
    named, told = type(pipe.scheduler).__name__, dict(pipe.scheduler.config)
    flow = named in (EULER, LCM) or (named == SOLVER and bool(told.get("use_flow_sigmas")))
    if way is not None and way.flow != flow:
        wanted = "a rectified flow" if way.flow else "a discrete schedule"
        raise WeightsError(
            f"the scheduler of {path} is {named}; {way.title} is followed on {wanted} alone, as it was published"
        )
    if flow:
        return _flow(pipe, named, told, path, way)
    shift, zero = 1.0, False
    if named == SHIFTED_DDIM:
        shift, zero = (
            number(told, "snr_shift_scale", 3.0, str(path)),
            bool(told.get("rescale_betas_zero_snr")),
        )
        named, told = "DDIMScheduler", {**told, "clip_sample": False, "rescale_betas_zero_snr": False}
    predicted = told.get("prediction_type")
    if named not in SAMPLERS or predicted not in PREDICTED_BY_TABLES:
        raise WeightsError(
            f"the scheduler of {path} is {named} with prediction_type = {predicted!r}, whose process is not followed "
            f"here; followed are {', '.join(sorted(SAMPLERS))} over epsilon, v_prediction or sample"
        )
    defaults = replace(_defaults(pipe, way or Way(title="")), unit_start=True)
    plain = _plain(PREDICTED_BY_TABLES[str(predicted)], linear(), "t", defaults)
    found = followed(plain, {**told, "_class_name": named}, str(path), flow=False)
    if shift == 1 or not isinstance(found.schedule, Table):
        return found
    table = Table(tuple(a / (shift + (1 - shift) * a) for a in found.schedule.signal))
    return replace(found, schedule=zero_snr(table) if zero else table)


def _flow(pipe: Any, named: str, told: dict[str, Any], path: Path, way: Way | None) -> Process:
    """That of a rectified flow."""
    if way is None:
        denoiser = type(getattr(pipe, "transformer", None) or pipe.unet).__name__
        raise WeightsError(
            f"{denoiser} of {path} is a rectified flow, and what it is told of time is not known here (networks "
            f"differ); known: {', '.join(WAYS)}"
        )
    defaults = _defaults(pipe, way)
    if named == SOLVER:
        if way.grid != "normal":
            raise WeightsError(
                f"the scheduler of {path} is {named}, which {way.title} is not followed with: use {EULER}"
            )
        return _solved(told, path, defaults)
    dynamic, terminal = bool(told.pop("use_dynamic_shifting", False)), told.pop("shift_terminal", None)
    direct = told.pop("time_shift_type", "exponential") == "linear"
    odd = [name for name in ("scale_factors",) if named == LCM and told.get(name)]
    odd += ["shift_terminal"] if terminal and way.grid not in ("linspace", "even") else []
    # Pipelines of the scheduler's own grid give it no size, or one that is not the picture's.
    odd += ["use_dynamic_shifting"] if dynamic and way.grid == "normal" else []
    if odd:
        raise WeightsError(f"the scheduler of {path} says {odd[0]}, which is not followed here")
    if way.by_size and not dynamic:
        raise WeightsError(
            f"the scheduler of {path} does not say use_dynamic_shifting, without which the pipeline of {way.title} "
            "spaces its steps in a way that is not followed here"
        )
    if way.mu == "scarce" and not dynamic:
        defaults = replace(defaults, grid="linspace")
    if terminal:
        end = number({"shift_terminal": terminal}, "shift_terminal", 0.0, str(path), most=1 - 1e-9)
        defaults = replace(defaults, grid=f"even(terminal={end})")
    twice = way.grid == "normal" and not dynamic
    plain = _plain("flow", shifted_twice(3.0) if twice else Flow(), "thousand", defaults)
    found = followed(plain, {**told, "_class_name": EULER}, str(path), flow=True)
    if named == LCM:
        found = replace(found, defaults=replace(found.defaults, sampler="lcm"))
    if not dynamic:
        return found
    few = _distilled(pipe) and way.mu == "line"
    mu = SHIFTS["distilled" if few else way.mu](told, str(path))
    return replace(found, schedule=Flow(), schedule_of=by_tokens(mu, way.patch, direct))


def _solved(told: Told, path: Path, defaults: Defaults) -> Process:
    """UniPC on even times from 1 to 1/1000, of which the last is left out; the network is told whole thousandths."""
    odd = [name for name, usual in SOLVES.items() if told.get(name, usual) != usual]
    odd += [name for name in ("karras", "exponential", "beta") if told.get(f"use_{name}_sigmas")]
    if odd:
        raise WeightsError(
            f"the scheduler of {path} is {SOLVER} with {odd[0]} = {told.get(odd[0], True)!r}, which is not followed on "
            "a rectified flow"
        )
    shift = number(told, "flow_shift", 1.0, str(path))
    most = NEAR / (NEAR + shift * (1 - NEAR))
    defaults = replace(defaults, sampler="unipc", grid="sgm_uniform(start=1)", unit_start=True)
    return _plain("flow", Flow(shift, t_max=most), "thousand", defaults)


def _plain(predicts: str, schedule: Schedule, clock: str, defaults: Defaults) -> Process:
    return Process(
        predicts=predicts, why="the scheduler's settings", schedule=schedule, clock=clock, defaults=defaults
    )


def _distilled(pipe: Any) -> bool:
    return bool(dict(pipe.config).get("is_distilled"))


def _defaults(pipe: Any, way: Way) -> Defaults:
    """Those of the pipeline's call; sizes are found later."""
    call = inspect.signature(type(pipe).__call__).parameters

    def default(name: str, usual: float) -> float:
        given = call[name].default if name in call else None
        return usual if given in (None, inspect.Parameter.empty) else float(given)

    guided = 1.0 if _distilled(pipe) else max(1.0, default(way.guidance, 1.0) + way.added)
    return Defaults(
        steps=int(default("num_inference_steps", 50)),
        sampler="euler",
        grid=way.grid,
        guidance=guided,
        width=0,
        height=0,
        guide=way.guide,
    )


def whole(clock: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Whole thousandths below the clock, as diffusers' solvers keep their times; 999 for pure noise.

    Of a clock that means a whole number it depends on the last bit, which in float64 is theirs (tested).
    """
    return torch.floor(clock.clamp(max=999))


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
