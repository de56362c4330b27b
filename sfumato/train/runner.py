"""Running a recipe: resume or begin, step, log, checkpoint, validate, draw sheets, export."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from sfumato.device import compute_dtype
from sfumato.errors import InvalidRequest
from sfumato.train.checkpoint import checkpoints, newest, save_checkpoint
from sfumato.train.loop import Hyper, Objective, Run, Step


class Ready(Protocol):
    """A recipe made ready on some data (see recipes.recipe.Prepared)."""

    @property
    def objective(self) -> Objective:
        """What the run minimises."""
        ...

    @property
    def facts(self) -> dict[str, object]:
        """What is known of the data, for checkpoints and weights."""
        ...

    def score(self) -> Tensor:
        """Losses on fixed triples with the weights now in the module."""
        ...

    def export(self, tensors: dict[str, Tensor], folder: Path, facts: dict[str, object]) -> list[Path]:
        """Write the weights as sfumato ships them."""
        ...


@dataclass(frozen=True, kw_only=True)
class Plan:
    """When a run saves, validates and stops, and in what it computes."""

    folder: Path
    hyper: Hyper
    dtype: torch.dtype = field(default_factory=compute_dtype)
    device: str = "cpu"
    minutes: float = math.inf
    save_seconds: float = 60.0
    score_steps: int = 500


@dataclass(frozen=True, kw_only=True)
class Report:
    """What the runner says after a step: the step, and the validation losses where they were computed."""

    step: Step
    score: Tensor | None
    remaining: float


def begin(ready: Ready, plan: Plan, *, resume: bool, recipe: str, say: Callable[[str], None] = print) -> Run:
    """A run at step 0, or with ``resume`` the newest checkpoint of the folder that is not damaged.

    ``say`` is told of damaged ones, which are set aside. InvalidRequest if the folder has a run already and
    ``resume`` is off, or the checkpoint is of another recipe or other data.
    """
    run = Run(ready.objective, plan.hyper, plan.dtype, {**ready.facts, "recipe": recipe}, plan.device)
    if not resume and (names := checkpoints(plan.folder)):
        raise InvalidRequest(
            f"{plan.folder} holds a run ({names[-1].name}); add --resume to go on, or choose another --out"
        )
    found = newest(plan.folder, say)
    if found is None:
        return run
    for key in ("recipe", "data"):
        if found.facts.get(key) != run.facts.get(key):
            raise InvalidRequest(
                f"{plan.folder} holds a run of other {key} ({found.facts.get(key)}, not {run.facts.get(key)}); "
                f"choose another --out"
            )
    try:
        run.restore(found)
    except KeyError as error:
        raise InvalidRequest(f"{plan.folder} holds a run of another network: {error.args[0]}") from error
    return run


def train(run: Run, ready: Ready, plan: Plan) -> Generator[Report, None, None]:
    """Make the steps that are left, yielding a report of each; checkpoints are written on the way and at the end.

    Every report is also a line of ``log.jsonl``. Closing the iterator (Ctrl-C) writes a last checkpoint.
    """
    plan.folder.mkdir(parents=True, exist_ok=True)
    began = saved = time.monotonic()
    pace = 0.0
    try:
        for step in run.steps(seconds=plan.minutes * 60):
            due = step.number % plan.score_steps == 0 or step.number == plan.hyper.steps
            score = evaluate(run, ready.score) if due else None
            pace = step.seconds if pace == 0 else 0.95 * pace + 0.05 * step.seconds
            log(plan.folder / "log.jsonl", step, score)
            left = min((plan.hyper.steps - step.number) * pace, began + plan.minutes * 60 - time.monotonic())
            yield Report(step=step, score=score, remaining=max(0.0, left))
            if time.monotonic() - saved > plan.save_seconds:
                save_checkpoint(plan.folder, run.checkpoint())
                saved = time.monotonic()
    finally:
        # Stopped inside a step, weights and number may not belong together; the last checkpoint then stands.
        if run.whole:
            save_checkpoint(plan.folder, run.checkpoint())


@contextmanager
def averaged_weights(run: Run) -> Iterator[None]:
    """The module computes with the moving average inside the ``with``."""
    module = run.objective.module
    was = module.training
    kept = [m.detach().clone() for m in run.flat.master]
    with torch.no_grad():
        for master, average in zip(run.flat.master, run.average, strict=True):
            master.copy_(average)
    run.flat.publish()
    module.eval()
    try:
        yield
    finally:
        with torch.no_grad():
            for master, value in zip(run.flat.master, kept, strict=True):
                master.copy_(value)
        run.flat.publish()
        module.train(was)


def evaluate(run: Run, score: Callable[[], Tensor]) -> Tensor:
    """``score()`` with the averaged weights in the module."""
    with averaged_weights(run):
        return score()


def log(path: Path, step: Step, score: Tensor | None) -> None:
    """Append one line of JSON about ``step``."""
    row: dict[str, object] = {
        "step": step.number,
        "loss": round(step.loss, 6),
        "norm": round(step.norm, 4),
        "rate": step.rate,
        "seconds": round(step.seconds, 4),
    }
    for name, value in step.figures.items():
        row[name] = numbers(value)
    if score is not None:
        row["score"] = numbers(score)
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(row) + os.linesep)


def numbers(value: Tensor) -> object:
    """A tensor as JSON: a number or a list, None where it is not a number."""
    rounded = [None if math.isnan(v) else round(v, 6) for v in value.flatten().tolist()]
    return rounded if value.ndim else rounded[0]


def export(run: Run, ready: Ready, folder: Path) -> list[Path]:
    """Write the averaged weights to ``folder`` with what is known of their training."""
    folder.mkdir(parents=True, exist_ok=True)
    before = run.facts.get("seen_before", 0)
    seen = (before if isinstance(before, int) else 0) + run.step * run.hyper.batch
    with averaged_weights(run):
        score = numbers(ready.score())
        facts = {**run.facts, "step": run.step, "seen": seen, "score": score}
        tensors = {name: tensor.clone() for name, tensor in run.averaged().items()}
        return ready.export(tensors, folder, facts)
