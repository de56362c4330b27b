"""Requests that have nothing in common but the model: the engine beside one after another.

``python -m benchmarks.mixed_load``: first what a row costs by the size of a call. Then 32 pictures of the built-in
model with different samplers, steps (4 to 30), guidance (1 to 7) and seeds: every round makes all of them with each
driver in turn. Rows are those that the requests need; what a bucket adds is not counted. CPU seconds are the
process's, all threads. Differences are those of the finished pictures, of 255, from those of ``run``.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

import sfumato
from benchmarks.timing import machine
from sfumato.condition import join
from sfumato.denoiser import row_levels
from sfumato.engine.engine import Engine
from sfumato.engine.run import run
from sfumato.model import Model
from sfumato.process.level import Level
from sfumato.tasks.text2image import Text2Image

SAMPLERS = ("ddim", "ddpm", "dpmpp_2m", "heun", "euler_ancestral", "unipc", "deis", "lms")
PROMPTS = ("a rocket, 3d style", "a cat with a bow", "red heart on a yellow background", "slice of cake")
Pictures = list[np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Line:
    """One driver: median seconds for all requests, speed over the base within rounds, distance to its pictures."""

    name: str
    seconds: float
    cpu: float
    cpu_speed: float
    rows_a_second: float
    speed: float
    least: float
    most: float
    calls: int
    mean_difference: float
    greatest_difference: int


def load(count: int, seed: int = 0) -> list[Text2Image]:
    """``count`` requests in which every sampler comes up equally often."""
    dice = random.Random(seed)
    return [
        Text2Image(
            prompt=dice.choice(PROMPTS),
            sampler=SAMPLERS[i % len(SAMPLERS)],
            steps=dice.randint(4, 30),
            guidance=dice.choice((1.0, 2.0, 4.0, 5.5, 7.0)),
            seed=i,
        )
        for i in range(count)
    ]


def one_after_another(model: Model, tasks: list[Text2Image]) -> Pictures:
    return [run(task(model)).pixels[0] for task in tasks]


def together(model: Model, tasks: list[Text2Image], **options: int) -> Pictures:
    engine = Engine(model, **options)
    requests = [engine.submit(task) for task in tasks]
    engine.run_until_idle()
    return [request.result().pixels[0] for request in requests]


def measure(
    model: Model, tasks: list[Text2Image], drivers: dict[str, dict[str, int]], rounds: int
) -> list[Line]:
    """Every driver once to warm up, then ``rounds`` rounds in turn; the first line is ``run``, the base."""
    contenders: dict[str, Callable[[], Pictures]] = {
        "`run`, one after another": lambda: one_after_another(model, tasks)
    }
    for name, options in drivers.items():
        contenders[name] = lambda options=options: together(model, tasks, **options)
    sizes: list[int] = []
    hook = model.denoiser.register_forward_hook(lambda module, given, found: sizes.append(len(given[0])))
    made, calls, rows = {}, {}, 0
    for name, make in contenders.items():
        sizes.clear()
        made[name] = make()
        calls[name] = len(sizes)
        rows = rows or sum(sizes)
    hook.remove()
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    cpu: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, make in contenders.items():
            began, spent = time.perf_counter(), time.process_time()
            make()
            seconds[name].append(time.perf_counter() - began)
            cpu[name].append(time.process_time() - spent)
    base, *_ = contenders
    lines = []
    for name in contenders:
        speeds = [b / s for b, s in zip(seconds[base], seconds[name], strict=True)]
        apart = [abs(a.astype(int) - b.astype(int)) for a, b in zip(made[name], made[base], strict=True)]
        median = statistics.median(seconds[name])
        lines.append(
            Line(
                name=name,
                seconds=median,
                cpu=statistics.median(cpu[name]),
                cpu_speed=statistics.median(b / s for b, s in zip(cpu[base], cpu[name], strict=True)),
                rows_a_second=rows / median,
                speed=statistics.median(speeds),
                least=min(speeds),
                most=max(speeds),
                calls=calls[name],
                mean_difference=float(np.mean([a.mean() for a in apart])),
                greatest_difference=max(int(a.max()) for a in apart),
            )
        )
    return lines


def sweep(model: Model, sizes: Sequence[int] = (1, 2, 4, 8, 16, 32), rounds: int = 9) -> str:
    """Milliseconds a row (wall, median) of denoising and decoding by rows a call, as a Markdown table."""
    cond = model.conditioner(PROMPTS)
    shape = model.codec.shape(model.defaults.height, model.defaults.width)
    generator = torch.Generator().manual_seed(0)
    calls: dict[tuple[str, int], Callable[[], object]] = {}
    for n in sizes:
        x = torch.randn(n, *shape, generator=generator)
        conds = join([cond.row(i % len(PROMPTS)) for i in range(n)])
        at = row_levels([Level(0.5, 0.5, 0.5)] * n)
        calls["denoise", n] = lambda x=x, at=at, conds=conds: model.denoiser(x, at, conds)
        calls["decode", n] = lambda x=x: model.codec.decode(x)
    took: dict[tuple[str, int], list[float]] = {key: [] for key in calls}
    with torch.no_grad():
        for make in calls.values():
            make()
        for _ in range(rounds):
            for (verb, n), make in calls.items():
                began = time.perf_counter()
                make()
                took[verb, n].append((time.perf_counter() - began) / n)
    out = [f"| rows a call | {' | '.join(map(str, sizes))} |", "|---" * (len(sizes) + 1) + "|"]
    for verb in ("denoise", "decode"):
        out.append(
            f"| {verb} | {' | '.join(f'{statistics.median(took[verb, n]) * 1e3:.1f} ms' for n in sizes)} |"
        )
    return "\n".join(out)


def table(lines: list[Line]) -> str:
    """The lines as a Markdown table."""
    out = [
        "| | seconds | rows a second | speed | CPU seconds, speed | calls | difference: mean, greatest |",
        "|---|---|---|---|---|---|---|",
    ]
    for line in lines:
        out.append(
            f"| {line.name} | {line.seconds:.2f} | {line.rows_a_second:.0f} "
            f"| {line.speed:.2f}x [{line.least:.2f}..{line.most:.2f}] | {line.cpu:.1f}, {line.cpu_speed:.2f}x "
            f"| {line.calls} | {line.mean_difference:.2f}, {line.greatest_difference} |"
        )
    return "\n".join(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, nargs="+", default=[16], help="max_rows to measure")
    parser.add_argument("--bucket", type=int, nargs="*", default=[8])
    parser.add_argument("--dtype", choices=("bfloat16", "float32"))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    loaded = sfumato.load("emoji", dtype=options.dtype)
    drivers = {f"engine, max_rows={n}": {"max_rows": n} for n in options.rows}
    drivers |= {f"engine, bucket={n}": {"bucket": n} for n in options.bucket}
    print(sweep(loaded.model) + "\n", flush=True)
    lines = measure(loaded.model, load(options.requests), drivers, options.rounds)
    facts = {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        **machine(),
        **vars(options),
        "dtype": str(loaded.dtype),
    }
    print("\n".join(f"{name}: {value}" for name, value in facts.items()))
    print(table(lines))
    if options.json is not None:
        told = {"facts": {k: str(v) for k, v in facts.items()}, "lines": [asdict(line) for line in lines]}
        options.json.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
