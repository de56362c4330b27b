"""A training run on disk: one safetensors file a checkpoint, whole or absent, and enough to go on exactly."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor

from sfumato.errors import WeightsError
from sfumato.files import write_bytes
from sfumato.weights.packed import read_metadata

KEEP = 2


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The state of a run after ``step`` steps: named tensors, and facts as JSON."""

    step: int
    tensors: dict[str, Tensor]
    facts: dict[str, object]


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write ``step-N.safetensors`` in ``folder`` atomically, then drop all but the newest two."""
    folder.mkdir(parents=True, exist_ok=True)
    metadata = {"sfumato": json.dumps({"step": checkpoint.step, "facts": checkpoint.facts}, sort_keys=True)}
    tensors = {name: tensor.detach().contiguous() for name, tensor in checkpoint.tensors.items()}
    path = write_bytes(
        folder / f"step-{checkpoint.step:09d}.safetensors", save_safetensors(tensors, metadata)
    )
    for old in checkpoints(folder)[:-KEEP]:
        old.unlink(missing_ok=True)
    for part in folder.glob(".step-*.part"):
        part.unlink(missing_ok=True)
    return path


def checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    return sorted(folder.glob("step-*.safetensors"))


def load_checkpoint(path: Path) -> Checkpoint:
    """Read one checkpoint; WeightsError if it is damaged or cannot be read."""
    try:
        data = path.read_bytes()
        tensors = load_safetensors(data)
        metadata = read_metadata(data)
        step, facts = metadata["step"], metadata["facts"]
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise WeightsError(f"the checkpoint {path} is damaged: {error}") from error
    if not isinstance(step, int) or not isinstance(facts, dict):
        raise WeightsError(f"the checkpoint {path} is damaged: its header lacks the step or the facts")
    return Checkpoint(step=step, tensors=tensors, facts=facts)


def newest(folder: Path, say: Callable[[str], None]) -> Checkpoint | None:
    """The newest checkpoint of the run in ``folder`` that can be read, or None if the run has none.

    A damaged one is renamed to end in ``.damaged``, ``say`` is told, and the one before is taken; WeightsError
    if the last is damaged too.
    """
    found = checkpoints(folder)
    for path in reversed(found):
        try:
            return load_checkpoint(path)
        except WeightsError as error:
            if path == found[0]:
                raise
            aside = path.with_suffix(".damaged")
            path.rename(aside)
            say(f"{error}; it is now {aside.name}, going on from the one before")
    return None
