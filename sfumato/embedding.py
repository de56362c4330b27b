"""Prompts that a loaded model embeds into a file, to be used where its text encoders are not."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sfumato.adapted import Adapters, Exactly
from sfumato.condition import Prompt
from sfumato.errors import InvalidRequest
from sfumato.model import Model
from sfumato.tasks.embedded import prompt_of, prompts_of
from sfumato.tasks.task import make
from sfumato.tasks.text2image import Text2Image
from sfumato.text.embedded import ASKED, Made, write_embedded
from sfumato.weights.header import short

MOST_STEPS = 1000
"""The longest walk, as in tasks."""


@dataclass(frozen=True)
class Written:
    """The file that was written, and what should be told."""

    path: Path
    notes: tuple[str, ...]


def embed(
    model: Model,
    adapters: Adapters,
    path: str | os.PathLike[str],
    requests: Sequence[Mapping[str, Any]],
    *,
    steps: int | None = None,
    dtype: str = "",
) -> Written:
    """Write to ``path`` what the text encoders of ``model`` make of the prompts of ``requests``.

    Each is fields of a task: ``prompt``, ``negative``, ``dialect``, ``clip_skip``, ``prompt_2`` and so on; the negative
    prompt that is left out is embedded always. ``steps`` (the model's default) is the length of the walk that prompts
    are scheduled over. Adapters and learned words act as in a request, in all of them the same. All is held in memory
    until it is written: 4 MB a prompt for T5-XXL in bfloat16. InvalidRequest, before anything is embedded, for a model
    that reads no texts and for requests in which not the same acts.
    """
    if model.texts is None:
        raise InvalidRequest(
            f"the model {model.name!r} has no text encoders of ours whose work could be kept"
        )
    if not requests:
        raise InvalidRequest("there is no prompt to embed")
    if steps is not None and not 1 <= steps <= MOST_STEPS:
        raise InvalidRequest(f"steps = {steps} is outside what is allowed: 1 to {MOST_STEPS}")
    prompts: dict[str, Prompt] = {}
    tasks: list[Any] = []
    asked: list[dict[str, Any]] = []
    notes: list[str] = []
    for told in requests:
        fields = {name: value for name, value in told.items() if value is not None}
        task = make(Text2Image, **fields)
        tasks.append(task)
        asked.append({name: value for name in ASKED if (value := fields.get(name)) not in (None, "plain", 0)})
        avoided = [None, task.negative] if task.negative is not None else [None]
        for name, text in [("prompt", task.prompt), *(("negative", text) for text in avoided)]:
            for prompt in prompts_of(task, text, name, steps or model.defaults.steps):
                prompts.setdefault(prompt.wording, prompt)
    exactly = _acting(adapters, tasks)
    rows = []
    with adapters.during(tasks[0], exactly) as acting, torch.no_grad():
        notes += acting.notes
        for task in tasks:
            notes += model.notes(prompt_of(task, task.prompt, "prompt"))
        for wording, prompt in prompts.items():
            cond = model.texts.encode([prompt])
            rows.append(Made(wording=wording, negative=prompt.negative, doors=cond.named()))
    done = write_embedded(
        path,
        rows,
        family=model.texts.families[0],
        reads=model.texts.reads,
        encoders=model.texts.encoders(),
        asked=asked,
        more={"model": model.name, "dtype": dtype, **acting.facts},
    )
    return Written(done, tuple(dict.fromkeys(notes)))


def _acting(adapters: Adapters, tasks: Sequence[Any]) -> Exactly:
    """What acts in all of ``tasks``: a file's prompts are known by their texts, not by what acted on the encoders."""
    first, *others = [adapters.asked(task) for task in tasks]
    for task, other in zip(tasks[1:], others, strict=True):
        if other != first:
            raise InvalidRequest(
                f"not the same adapters and learned words act in {short(tasks[0].prompt)} ({_names(first)}) and "
                f"{short(task.prompt)} ({_names(other)}): write a file for each"
            )
    return first


def _names(exactly: Exactly) -> str:
    """What acts, in words."""
    uses = [f"{one.name} at {one.strength.value:g}" for one in exactly.uses]
    return ", ".join([*uses, *(path.stem for path in exactly.words)]) or "none"
