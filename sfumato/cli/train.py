"""``sfumato train``: train a model by a recipe."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import click

from sfumato.errors import InvalidRequest, UnknownName

LIMITS = {
    "rate": (0, 10),
    "warmup": (0, 10**9),
    "cooldown": (0, 1),
    "weight_decay": (0, 10),
    "clip": (1e-9, 1e9),
    "average": (0, 1),
    "seed": (0, 2**32 - 1),
}
"""Which numbers of a recipe are allowed."""


@click.command()
@click.argument("recipe", metavar="RECIPE")
@click.option("--data", type=click.Path(path_type=Path), required=True, help="pictures: tar, folder or IDX")
@click.option(
    "--out", type=click.Path(path_type=Path), default=None, help="run folder (default: runs/RECIPE)"
)
@click.option("--resume", is_flag=True, help="go on from the newest checkpoint of the run folder")
@click.option("--fresh", is_flag=True, help="begin from random weights, not from those in the package")
@click.option("--minutes", type=float, default=math.inf, help="stop after so long; --resume goes on")
@click.option("--set", "changes", multiple=True, metavar="NAME=VALUE", help="change a number of the recipe")
@click.option("--dtype", default=None, help="float32 or bfloat16 (default: the faster one here)")
@click.option("--device", default=None, help="cpu or cuda (default: cuda where there is one)")
@click.option("--seed", type=int, default=0, help="seed of everything random")
@click.option(
    "--export", "export_to", type=click.Path(path_type=Path), help="write the weights here at the end"
)
@click.option(
    "--save-seconds", type=float, default=60.0, help="seconds between checkpoints", show_default=True
)
@click.option(
    "--json", "as_json", is_flag=True, help="print one JSON object a validation, and one at the end"
)
def command(
    recipe: str,
    data: Path,
    out: Path | None,
    resume: bool,
    fresh: bool,
    minutes: float,
    changes: tuple[str, ...],
    dtype: str | None,
    device: str | None,
    seed: int,
    export_to: Path | None,
    save_seconds: float,
    as_json: bool,
) -> None:
    """Train a model by RECIPE: emoji, emoji-codec or digits.

    The run folder gets checkpoints (whole or absent, so a kill at any moment is safe), log.jsonl with the
    loss by bins of the noise level, and sheets of samples.
    """
    from sfumato.recipes.recipe import recipe as find

    chosen = find(recipe)
    hyper = changed(chosen.hyper, changes, seed)
    if not minutes > 0:
        raise InvalidRequest(f"--minutes = {minutes} is not allowed: give a number above 0")

    from rich.console import Console

    from sfumato.data.pictures import open_pictures
    from sfumato.device import dtype_named
    from sfumato.nn.kernels.memory import keep_memory
    from sfumato.train import runner

    place = chosen_device(device)
    keep_memory()
    console = Console(stderr=True, quiet=as_json)
    folder = out or Path("runs") / recipe
    plan = runner.Plan(
        folder=folder,
        hyper=hyper,
        dtype=dtype_named(dtype, place),
        device=place,
        minutes=minutes,
        save_seconds=save_seconds,
    )
    pictures = open_pictures(data)
    ready = chosen.prepare(pictures, folder, hyper.seed, fresh, lambda text: console.print(text))
    run = runner.begin(ready, plan, resume=resume, recipe=recipe, say=console.print)
    if run.step:
        console.print(f"going on from step {run.step}")
    with contextlib.closing(runner.train(run, ready, plan)) as reports:  # closing it writes a checkpoint
        last = follow(reports, run, ready, plan, console, as_json)
    paths = runner.export(run, ready, export_to) if export_to else []
    summary = {"step": run.step, "of": hyper.steps, "run": str(folder), "files": [str(p) for p in paths]}
    click.echo(json.dumps({**summary, "score": last}) if as_json else f"step {run.step}: {folder}")


def follow(reports: Any, run: Any, ready: Any, plan: Any, console: Any, as_json: bool) -> Any:
    """Show progress with time left; validate and draw sheets as the reports come; the last validation."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from sfumato.train import runner

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[left]}"),
    )
    last = None
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("training", total=plan.hyper.steps, completed=run.step, left="")
        loss = math.nan
        for report in reports:
            step = report.step
            loss = step.loss if math.isnan(loss) else 0.98 * loss + 0.02 * step.loss
            text = f"loss {loss:.4f}  {plan.hyper.batch / step.seconds:.0f}/s  {clock(report.remaining)} left"
            bar.update(task, completed=step.number, left=text)
            if report.score is None:
                continue
            last = runner.numbers(report.score)
            if as_json:
                click.echo(json.dumps({"step": step.number, "loss": loss, "score": last}))
            else:
                mean = float(report.score.mean())
                console.print(f"step {step.number}: loss {loss:.4f}, held-out {mean:.5f}, {text}")
            draw_sheet(run, ready, plan.folder / f"sheet-{step.number:07d}.png")
    return last


def draw_sheet(run: Any, ready: Any, path: Path) -> None:
    """Write a contact sheet made with the averaged weights."""
    from sfumato.picture.png import save_png
    from sfumato.picture.sheet import contact_sheet
    from sfumato.train import runner

    with runner.averaged_weights(run):
        pictures, captions = ready.sheet()
    save_png(path, contact_sheet(pictures, captions))


def chosen_device(wanted: str | None) -> str:
    """The device to train on: ``wanted``, or the GPU if there is one; a GPU that is not there is refused."""
    import torch

    there = torch.cuda.is_available()
    if wanted is None:
        return "cuda" if there else "cpu"
    if wanted not in ("cpu", "cuda"):
        raise UnknownName("device", wanted, ("cpu", "cuda"))
    if wanted == "cuda" and not there:
        raise InvalidRequest(
            "--device cuda is not allowed: this machine, or this build of PyTorch, has no GPU"
        )
    return wanted


def changed(hyper: Any, changes: tuple[str, ...], seed: int) -> Any:
    """``hyper`` with NAME=VALUE changes; names and values that do not fit are refused."""
    values: dict[str, Any] = {"seed": seed}
    types = {f.name: type(getattr(hyper, f.name)) for f in dataclasses.fields(hyper)}
    for change in changes:
        name, _, text = change.partition("=")
        if name not in types or types[name] is tuple:
            raise UnknownName("number of the recipe", name, [n for n, t in types.items() if t is not tuple])
        try:
            values[name] = types[name](text)
        except ValueError as error:
            raise InvalidRequest(f"--set {change}: {name} must be of type {types[name].__name__}") from error
    made = dataclasses.replace(hyper, **values)
    for name in ("steps", "batch"):
        if getattr(made, name) < 1:
            raise InvalidRequest(f"--set {name}={getattr(made, name)} is not allowed: 1 and above")
    for name, (least, most) in LIMITS.items():
        if not least <= getattr(made, name) <= most:
            raise InvalidRequest(f"{name} = {getattr(made, name)} is not allowed: {least:g} to {most:g}")
    return made


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    whole = int(seconds)
    return f"{whole // 3600}:{whole % 3600 // 60:02d}:{whole % 60:02d}"
