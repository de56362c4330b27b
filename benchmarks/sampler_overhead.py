"""What a sampler's step costs around a network that costs nothing: sfumato beside diffusers' schedulers.

``python -m benchmarks.sampler_overhead``. One row of 4 x 64 x 64 float32, 50 steps, one thread. The network returns
a tensor it has; fresh noise is one too, on both sides, since drawing it costs both the same. Theirs:
``scale_model_input`` and ``step``. Ours: the coroutine, its driver, solving for x0 and eps, the rule and the move.
Both are set up outside the clock. Every round times each once; the figures are medians over rounds, the ratio is
taken inside rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import diffusers
import torch
from torch import Tensor

from benchmarks.timing import machine
from sfumato.engine.run import run
from sfumato.process.estimate import Estimate
from sfumato.process.grid import make_grid
from sfumato.process.level import Level
from sfumato.process.prediction import prediction
from sfumato.process.schedule import Flow, scaled_linear
from sfumato.samplers import SAMPLERS

SHAPE = (1, 4, 64, 64)
SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
MULTISTEP = {"use_lu_lambdas": False, "final_sigmas_type": "zero"}
PEERS: dict[str, Callable[[], Any]] = {
    "ddim": lambda: diffusers.DDIMScheduler(**SD, clip_sample=False),
    "ddpm": lambda: diffusers.DDPMScheduler(**SD, clip_sample=False),
    "deis": lambda: diffusers.DEISMultistepScheduler(**SD),
    "dpm2": lambda: diffusers.KDPM2DiscreteScheduler(**SD),
    "dpm2_ancestral": lambda: diffusers.KDPM2AncestralDiscreteScheduler(**SD),
    "dpmpp_2m": lambda: diffusers.DPMSolverMultistepScheduler(**SD, **MULTISTEP),
    "dpmpp_2m_sde": lambda: diffusers.DPMSolverMultistepScheduler(**SD, algorithm_type="sde-dpmsolver++"),
    "dpmpp_2m_sde_heun": lambda: diffusers.DPMSolverMultistepScheduler(
        **SD, algorithm_type="sde-dpmsolver++", solver_type="heun"
    ),
    "dpmpp_3m": lambda: diffusers.DPMSolverMultistepScheduler(**SD, **MULTISTEP, solver_order=3),
    "euler": lambda: diffusers.EulerDiscreteScheduler(**SD),
    "euler_ancestral": lambda: diffusers.EulerAncestralDiscreteScheduler(**SD),
    "heun": lambda: diffusers.HeunDiscreteScheduler(**SD),
    "ipndm": lambda: diffusers.IPNDMScheduler(),
    "lcm": lambda: diffusers.LCMScheduler(original_inference_steps=50),
    "lms": lambda: diffusers.LMSDiscreteScheduler(**SD),
    "pndm": lambda: diffusers.PNDMScheduler(**SD, skip_prk_steps=True),
    "sa_solver": lambda: diffusers.SASolverScheduler(**SD),
    "tcd": lambda: diffusers.TCDScheduler(original_inference_steps=50),
    "unipc": lambda: diffusers.UniPCMultistepScheduler(**SD, solver_order=SAMPLER_ORDER["unipc"]),
    "unipc_bh1": lambda: diffusers.UniPCMultistepScheduler(
        **SD, solver_order=SAMPLER_ORDER["unipc"], solver_type="bh1"
    ),
    "flow euler": lambda: diffusers.FlowMatchEulerDiscreteScheduler(),
}
SAMPLER_ORDER = {"unipc": SAMPLERS["unipc"].order if "unipc" in SAMPLERS else 2}


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Microseconds a step, of ours and of theirs (None without a peer), and theirs over ours with its spread."""

    name: str
    ours: float
    theirs: float | None
    ratio: float | None
    least: float | None
    most: float | None


def our_walk(name: str, steps: int) -> Callable[[], object]:
    """A walk of ``steps`` with a free network."""
    flow = name in ("flow euler", "euler_ancestral_rf")
    entry = SAMPLERS["euler" if name == "flow euler" else name]
    schedule = Flow() if flow else scaled_linear()
    grid = make_grid("linspace", steps=steps, schedule=schedule)
    kind = prediction("flow" if flow else "eps")
    x, output, draw = (torch.randn(SHAPE) for _ in range(3))

    async def denoise(x: Tensor, at: Level) -> Estimate:
        return kind.estimate(x, output, at)

    def fresh(at: Level, to: Level, visit: int = 0) -> Tensor:
        return draw

    def walk() -> object:
        return run(entry.walk(x * grid[0].sigma, grid, denoise, fresh))

    walk()
    return walk


def their_walk(name: str, steps: int) -> tuple[Callable[[], float], int]:
    """The seconds of the same with diffusers' scheduler, made ready outside the clock."""
    scheduler = PEERS[name]()
    x, output, draw = (torch.randn(SHAPE) for _ in range(3))
    scheduler.set_timesteps(steps)
    times = list(scheduler.timesteps)
    scale = getattr(scheduler, "scale_model_input", None)
    home = sys.modules[type(scheduler).__module__]
    quiet = (
        mock.patch.object(home, "randn_tensor", return_value=draw) if hasattr(home, "randn_tensor") else None
    )

    def walk() -> object:
        now = x
        for t in times:
            if scale is not None:
                scale(now, t)
            now = scheduler.step(output, t, now, return_dict=False)[0]
        return now

    def timed() -> float:
        scheduler.set_timesteps(steps)
        with quiet if quiet is not None else contextlib.nullcontext():
            return clock(walk)

    timed()
    return timed, len(times)


def measure(name: str, steps: int, rounds: int) -> Cost:
    """Alternate both walks and compare."""
    ours = our_walk(name, steps)
    theirs, their_calls = their_walk(name, steps) if name in PEERS else (None, 0)
    mine: list[float] = []
    other: list[float] = []
    for _ in range(rounds):
        mine.append(clock(ours) / steps * 1e6)
        if theirs is not None:
            # A scheduler of second order has two entries of its list a step.
            per = their_calls / steps if their_calls > 1.5 * steps else 1.0
            other.append(theirs() / (their_calls / per) * 1e6)
    if not other:
        return Cost(name=name, ours=statistics.median(mine), theirs=None, ratio=None, least=None, most=None)
    ratios = [b / a for a, b in zip(mine, other, strict=True)]
    return Cost(
        name=name,
        ours=statistics.median(mine),
        theirs=statistics.median(other),
        ratio=statistics.median(ratios),
        least=min(ratios),
        most=max(ratios),
    )


def clock(walk: Callable[[], object]) -> float:
    """CPU seconds of this thread for one walk: other work on the machine does not count."""
    began = time.thread_time()
    walk()
    return time.thread_time() - began


def main() -> None:
    """Measure all samplers and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", nargs="*", default=None)
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args()
    torch.set_num_threads(1)
    names = options.only or [*SAMPLERS, "flow euler"]
    facts = {
        **machine(),
        "diffusers": diffusers.__version__,
        "steps": options.steps,
        "rounds": options.rounds,
    }
    print(", ".join(f"{key} {value}" for key, value in facts.items()))
    print("\n| sampler | evaluations a step | sfumato, µs a step | diffusers, µs a step | ratio |")
    print("|---|---|---|---|---|")
    costs = []
    with torch.no_grad():
        for name in names:
            cost = measure(name, options.steps, options.rounds)
            costs.append(cost)
            entry = SAMPLERS.get(name, SAMPLERS["euler"])
            beside = (
                f"{cost.theirs:.0f} | {cost.ratio:.1f}x [{cost.least:.1f}..{cost.most:.1f}]"
                if cost.theirs is not None
                else "none | "
            )
            print(f"| `{name}` | {entry.evaluations or 'its own'} | {cost.ours:.0f} | {beside} |", flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps({"facts": facts, "costs": [asdict(c) for c in costs]}, indent=1))


if __name__ == "__main__":
    main()
