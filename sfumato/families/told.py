"""What is told beside the weights of how a network was trained: a scheduler's settings, or markers in a single file.

A diffusers folder has ``scheduler/scheduler_config.json``; it overrules a family's values. Single files of Stable
Diffusion XL may have tensors that only mark: ``v_pred``, ``ztsnr`` (Lin et al. 2024), ``edm_vpred.sigma_max`` and
``edm_vpred.sigma_min`` (CosXL: v-prediction of EDM's process, Karras et al. 2022).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sfumato.errors import WeightsError
from sfumato.families.checkpoint import Checkpoint
from sfumato.families.family import Family
from sfumato.families.flows import shifted_twice
from sfumato.families.marks import (
    BY_SETTINGS,
    EDM_DATA,
    EDM_RANGE,
    NORMAL_MARKS,
    PREDICTIONS,
    levels_of,
    prediction_of,
)
from sfumato.model import Defaults
from sfumato.process.level import Level
from sfumato.process.schedule import Exploding, Flow, Schedule, shift_for
from sfumato.process.table import Table, linear, scaled_linear, squared_cosine, zero_snr

Told = Mapping[str, Any]
ScheduleOf = Callable[[tuple[int, ...]], Schedule]
Normal = tuple[Tensor, Tensor, float]

SAMPLERS = {
    "PNDMScheduler": "pndm",
    "DDIMScheduler": "ddim",
    "DDPMScheduler": "ddpm",
    "EulerDiscreteScheduler": "euler",
    "EulerAncestralDiscreteScheduler": "euler_ancestral",
    "HeunDiscreteScheduler": "heun",
    "LMSDiscreteScheduler": "lms",
    "DPMSolverMultistepScheduler": "dpmpp_2m",
    "UniPCMultistepScheduler": "unipc",
    "DEISMultistepScheduler": "deis",
    "LCMScheduler": "lcm",
    "TCDScheduler": "tcd",
    "EDMEulerScheduler": "euler",
    "EDMDPMSolverMultistepScheduler": "dpmpp_2m",
    "FlowMatchEulerDiscreteScheduler": "euler",
    "SCMScheduler": "lcm",
}
"""diffusers' schedulers, and the samplers here that make their steps."""

VARIANCES = {
    "fixed_small": "ddpm",
    "fixed_small_log": "ddpm",
    "fixed_large": "ddpm(variance=large)",
    "learned_range": "ddpm(variance=learned)",
}
"""The variances of DDPMScheduler's steps."""

LEADING = {"PNDMScheduler", "DDIMScheduler", "DDPMScheduler", "LCMScheduler", "TCDScheduler"}
"""Those whose steps are spaced "leading" where their settings do not say; the others' are "linspace"."""

DROPPING = {"DPMSolverMultistepScheduler", "DEISMultistepScheduler", "UniPCMultistepScheduler"}
"""Those that space one step more than they make, and leave out the lowest."""

SOLVER = {
    "solver_order": 2,
    "solver_type": "midpoint",
    "algorithm_type": "dpmsolver++",
    "thresholding": False,
}
"""The settings of DPM-Solver that are ``dpmpp_2m``, which are also its defaults."""

BETAS = {"linear": linear, "scaled_linear": scaled_linear}


@dataclass(frozen=True, kw_only=True)
class Process:
    """How a checkpoint's network is asked: what it predicts and how that is known, its schedule and its defaults.

    ``clock``, ``scale`` and ``clip`` are Denoiser's; ``schedule_of`` is Model's.
    """

    predicts: str
    why: str
    schedule: Schedule
    clock: str
    defaults: Defaults
    scale: Callable[[Level], Tensor] | None = None
    clip: float = 0.0
    schedule_of: ScheduleOf | None = None


def predicted(family: Family, checkpoint: Checkpoint) -> tuple[str, str]:
    """What the network predicts, and how that is known.

    A diffusers folder says it in its scheduler's settings; a single file may have a marker; Stable Diffusion 2 is
    told by the spread of one bias, which is larger in models that predict v (as ComfyUI found). WeightsError for
    settings that are not known.
    """
    net, settings = checkpoint.parts["denoiser"], checkpoint.configs.get("scheduler", {})
    names = checkpoint.source.entries
    found, why = prediction_of(family.name, family.predicts, settings, names, net.source, net.layout)
    if why == BY_SETTINGS and found not in (*PREDICTIONS.values(), "edm"):
        raise WeightsError(
            f"the scheduler of {checkpoint.source.path} says prediction_type = {found!r}, which is not known; "
            f"known: {', '.join(PREDICTIONS)}"
        )
    return found, why


def process_of(family: Family, checkpoint: Checkpoint, predicts: str | None = None) -> Process:
    """How the network of ``checkpoint`` is asked; ``predicts`` overrules what is told.

    WeightsError for settings or markers that cannot be followed.
    """
    found, why = predicted(family, checkpoint) if predicts is None else (predicts, "as asked")
    plain = Process(
        predicts=found,
        why=why,
        schedule=family.schedule,
        clock=family.clock,
        defaults=family.defaults,
        clip=family.clip,
        schedule_of=by_size() if family.by_size else None,
    )
    if told := checkpoint.configs.get("scheduler", {}):
        return followed(plain, told, str(checkpoint.source.path), flow=family.predicts == "flow")
    return _marked(plain, checkpoint)


def followed(plain: Process, told: Told, path: str, *, flow: bool) -> Process:
    """``plain`` as the settings ``told`` of a scheduler change it, which ``path`` holds; WeightsError if they cannot.

    ``flow`` is whether it is a rectified flow; one whose schedule has a shift already is shifted twice.
    """
    named = str(told.get("_class_name", ""))
    if flow:
        return _told_flow(plain, told, named, path)
    if named.startswith("EDM"):
        return _told_edm(plain, told, named, path)
    return _told_table(plain, told, named, path)


def normal_of(checkpoint: Checkpoint) -> Normal | None:
    """Mean and deviation of each channel of the latent, and its scale, as a single file's marks say; None without."""
    source = checkpoint.source
    if source.parts or any(name not in source.entries for name in NORMAL_MARKS):
        return None
    mean, std = (source.read(name, torch.float64).flatten() for name in NORMAL_MARKS)
    return mean, std, EDM_DATA["edm"]


def _marked(plain: Process, checkpoint: Checkpoint) -> Process:
    """``plain`` as the markers of a single file change it."""
    entries, path = checkpoint.source.entries, checkpoint.source.path
    found = [name for name in NORMAL_MARKS if name in entries]
    if len(found) == 1:
        raise WeightsError(f"{path} is marked {found[0]} alone; {' and '.join(NORMAL_MARKS)} belong together")
    if levels := levels_of(checkpoint.source):
        walk = ("karras", "dpmpp_2m") if NORMAL_MARKS[0] in entries else ("exponential", "euler")
        return _edm(plain, *levels, *walk)
    if plain.predicts == "edm":  # EDM's own networks, whose defaults are told already
        made = _edm(plain, *EDM_RANGE, plain.defaults.grid, plain.defaults.sampler)
        return replace(made, defaults=plain.defaults)
    if "ztsnr" in entries and plain.predicts == "v" and isinstance(plain.schedule, Table):
        defaults = replace(plain.defaults, grid="trailing", final="zero")
        return replace(plain, schedule=zero_snr(plain.schedule), defaults=defaults)
    return plain


def _edm(plain: Process, low: float, high: float, grid: str, sampler: str) -> Process:
    """EDM's process: x = x0 + sigma eps; the network sees x / hypot(sigma, d) and log(sigma) / 4 (Karras et al. 2022).

    Networks that predict v are those of data of deviation d = 1 (CosXL); preconditioned ones have d = 0.5
    (Playground 2.5, whose authors guide it by 3).
    """
    if plain.predicts not in EDM_DATA:
        raise WeightsError(
            f"networks of EDM's process are followed here where they predict {' or '.join(EDM_DATA)}, not "
            f"{plain.predicts}: this one would be sampled wrongly"
        )
    data = EDM_DATA[plain.predicts]

    def scale(at: Level) -> Tensor:
        sigma = torch.as_tensor(at.sigma)
        return 1 / torch.hypot(sigma, torch.full_like(sigma, data))

    guidance = 3.0 if plain.predicts == "edm" else plain.defaults.guidance
    defaults = replace(
        plain.defaults, grid=grid, sampler=sampler, final="zero", unit_start=True, guidance=guidance
    )
    return replace(plain, schedule=Exploding(low, high), clock="log_sigma", scale=scale, defaults=defaults)


def _told_edm(plain: Process, told: Told, named: str, path: str) -> Process:
    data, wanted = told.get("sigma_data", 0.5), EDM_DATA.get(plain.predicts, 0.5)
    if named not in SAMPLERS or data != wanted or told.get("final_sigmas_type", "zero") != "zero":
        raise WeightsError(
            f"the scheduler of {path} is {named} with sigma_data = {data} for a network that predicts "
            f"{plain.predicts}: of EDM's process v with 1 (CosXL) and edm with 0.5 (Playground 2.5) are followed here, "
            "down to zero"
        )
    for name, usual in SOLVER.items():
        if told.get(name, usual) != usual:
            raise WeightsError(
                f"the scheduler of {path} says {name} = {told[name]!r}, which is not followed; {usual!r} is"
            )
    if told.get("rho", 7.0) != 7:
        raise WeightsError(f"the scheduler of {path} says rho = {told['rho']}, which is not followed; 7 is")
    low, high = number(told, "sigma_min", 0.002, path), number(told, "sigma_max", 80.0, path)
    return _edm(plain, low, high, str(told.get("sigma_schedule", "karras")), SAMPLERS[named])


def _told_table(plain: Process, told: Told, named: str, path: str) -> Process:
    """The process of a discrete scheduler's settings."""
    defaults = plain.defaults
    offset = int(number(told, "steps_offset", 0, path, least=0, whole=True))
    spacing = told.get("timestep_spacing") or ("leading" if named in LEADING else "linspace")
    if spacing not in ("leading", "trailing", "linspace"):
        raise WeightsError(f"the scheduler of {path} says timestep_spacing = {spacing!r}, which is not known")
    options = ["drop=true"] if named in DROPPING and spacing != "trailing" else []
    options += [f"offset={offset}"] if spacing == "leading" and offset != 1 else []
    grid = f"{spacing}({', '.join(options)})" if options else spacing
    for flag, name in (("karras", "karras"), ("exponential", "exponential"), ("beta", "beta(over=ratio)")):
        grid = name if told.get(f"use_{flag}_sigmas") else grid
    last = told.get("set_alpha_to_one") is False or told.get("final_sigmas_type") == "sigma_min"
    # Of the samplers that k-diffusion has, those of diffusers begin at the first level's sigma unless spaced so.
    ratio = named.endswith("DiscreteScheduler")
    walker = SAMPLERS.get(named, defaults.sampler)
    if named == "DDPMScheduler":
        variance = str(told.get("variance_type", "fixed_small"))
        if variance not in VARIANCES:
            raise WeightsError(
                f"the scheduler of {path} says variance_type = {variance!r}, which is not known; known: "
                f"{', '.join(VARIANCES)}"
            )
        walker = VARIANCES[variance]
    if told.get("thresholding"):
        raise WeightsError(f"the scheduler of {path} says thresholding, which is not followed here")
    clips = named in ("DDPMScheduler", "DDIMScheduler") and told.get("clip_sample", True)
    defaults = replace(
        defaults,
        sampler=walker,
        grid=grid,
        final="first" if last else "zero",
        unit_start=not ratio or spacing == "leading",
    )
    clip = number(told, "clip_sample_range", 1.0, path) if clips else 0.0
    return replace(plain, schedule=_betas(plain.schedule, told, path), defaults=defaults, clip=clip)


def _betas(usual: Schedule, told: Told, path: str) -> Schedule:
    """The table of a scheduler's settings; the family's where they say nothing."""
    if told.get("trained_betas") is not None:
        raise WeightsError(f"the scheduler of {path} lists trained_betas, which are not followed here")
    name = told.get("beta_schedule")
    steps = int(number(told, "num_train_timesteps", 1000, path, least=2, most=100_000, whole=True))
    if name in BETAS:
        first, last = (
            number(told, key, usual, path, most=1 - 1e-9)
            for key, usual in (("beta_start", 0.0001), ("beta_end", 0.02))
        )
        usual = BETAS[name](steps, first, last)
    elif name == "squaredcos_cap_v2":
        usual = squared_cosine(steps)
    elif name is not None:
        raise WeightsError(
            f"the scheduler of {path} says beta_schedule = {name!r}, which is not known; known: "
            f"{', '.join(BETAS)}, squaredcos_cap_v2"
        )
    flat = told.get("rescale_betas_zero_snr") and isinstance(usual, Table)
    return zero_snr(usual) if flat and isinstance(usual, Table) else usual


def _told_flow(plain: Process, told: Told, named: str, path: str) -> Process:
    """The process of a rectified flow's settings: its shift, or how it depends on the number of patches."""
    defaults = replace(plain.defaults, sampler=SAMPLERS.get(named, plain.defaults.sampler))
    odd = [
        k for k in ("shift_terminal", "invert_sigmas", "stochastic_sampling", "thresholding") if told.get(k)
    ]
    odd += [k for k in ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas") if told.get(k)]
    if told.get("time_shift_type", "exponential") != "exponential":
        odd.append("time_shift_type")
    dynamic = bool(told.get("use_dynamic_shifting"))
    fixed = isinstance(plain.schedule, Flow) and plain.schedule.shift != 1
    twice = isinstance(plain.schedule, Flow) and plain.schedule.t_min != Flow.t_min
    if dynamic and fixed:
        odd.append("use_dynamic_shifting")
    if odd:
        raise WeightsError(
            f"the scheduler of {path} says {odd[0]} = {told[odd[0]]!r}, which is not followed here: the pictures would "
            "not be the model's"
        )
    if dynamic:
        line = (
            int(number(told, "base_image_seq_len", 256, path, least=1, whole=True)),
            number(told, "base_shift", 0.5, path, least=-100, most=100),
            int(number(told, "max_image_seq_len", 4096, path, least=1, whole=True)),
            number(told, "max_shift", 1.15, path, least=-100, most=100),
        )
        return replace(plain, schedule_of=by_size(*line), defaults=defaults)
    shift = told.get("shift", told.get("flow_shift"))
    if isinstance(plain.schedule, Flow) and plain.schedule.t_max < 1:
        shift = number({"shift": shift}, "shift", plain.schedule.shift, path)
        return _told_sana(replace(plain, defaults=defaults), told, named, path, shift)
    if shift is None:
        return replace(plain, defaults=defaults)
    shift = number({"shift": shift}, "shift", 1.0, path)
    schedule = shifted_twice(shift) if twice else Flow(shift)
    return replace(plain, schedule=schedule, schedule_of=None, defaults=defaults)


def _told_sana(plain: Process, told: Told, named: str, path: str, shift: float) -> Process:
    """SANA's process by its solver's settings, or by those of Euler's steps, whose least time is shifted twice."""
    assert isinstance(plain.schedule, Flow)
    if named == "FlowMatchEulerDiscreteScheduler":
        return replace(plain, schedule=shifted_twice(shift), defaults=replace(plain.defaults, grid="normal"))
    wanted = {**SOLVER, "use_flow_sigmas": True}
    odd = [name for name, usual in wanted.items() if told.get(name, SOLVER.get(name)) != usual]
    if named != "DPMSolverMultistepScheduler" or odd:
        what = f"{odd[0]} = {told.get(odd[0])!r} ({wanted[odd[0]]!r} is)" if odd else named
        raise WeightsError(
            f"the scheduler of {path} says {what}, which is not followed for this family; known are "
            "DPMSolverMultistepScheduler with use_flow_sigmas and FlowMatchEulerDiscreteScheduler"
        )
    return replace(plain, schedule=replace(plain.schedule, shift=shift))


def number(
    told: Told,
    name: str,
    usual: float,
    path: str,
    *,
    least: float = 1e-9,
    most: float = 1e9,
    whole: bool = False,
    owner: str = "scheduler",
) -> float:
    """The setting ``name`` of ``owner``, ``usual`` where it is not told or null.

    WeightsError unless it is from ``least`` to ``most``.
    """
    value = usual if told.get(name) is None else told[name]
    right = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
    if not right or not least <= value <= most:
        kind = "a whole number" if whole else "a number"
        raise WeightsError(
            f"the {owner} of {path} says {name} = {value!r}, which must be {kind} from {least:g} to {most:g}"
        )
    return float(value)


def channels(told: Told, name: str, count: int, path: str, *, least: float = -1e9) -> Tensor:
    """An autoencoder's setting ``name``: ``count`` numbers from ``least`` on, one a channel, or WeightsError."""
    values = told.get(name)
    if not isinstance(values, list | tuple) or len(values) != count or None in values:
        raise WeightsError(
            f"the autoencoder of {path} says {name} = {values!r}, which must be {count} numbers, one for each channel"
        )
    found = [number({name: one}, name, 0.0, path, least=least, owner="autoencoder") for one in values]
    return torch.tensor(found, dtype=torch.float64)


def by_size(low: int = 256, low_mu: float = 0.5, high: int = 4096, high_mu: float = 1.15) -> ScheduleOf:
    """FLUX.1 dev's schedule by the shape of a latent: shifted by how many patches it has; see ``shift_for``."""

    def of(shape: tuple[int, ...]) -> Schedule:
        return Flow(shift_for(max(1, shape[-2] * shape[-1] // 4), low, low_mu, high, high_mu))

    return of
