"""Prompts that a loaded model embeds into a file, to be used where its text encoders are not."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sfumato.adapted import Adapters
from sfumato.errors import InvalidRequest
from sfumato.model import Model
from sfumato.tasks.embedded import prompt_of, prompts_of
from sfumato.tasks.task import make
from sfumato.tasks.text2image import Text2Image
from sfumato.text.embedded import ASKED, Made, write_embedded


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
    are scheduled over. Adapters and learned words act as in a request. All is held in memory until it is written: 4 MB
    a prompt for T5-XXL in bfloat16. InvalidRequest for a model that reads no texts.
    """
    if model.texts is None:
        raise InvalidRequest(
            f"the model {model.name!r} has no text encoders of ours whose work could be kept"
        )
    if not requests:
        raise InvalidRequest("there is no prompt to embed")
    rows, asked, notes = [], [], []
    facts: dict[str, Any] = {}
    for told in requests:
        fields = {name: value for name, value in told.items() if value is not None}
        task: Any = make(Text2Image, **fields)
        asked.append({name: value for name in ASKED if (value := fields.get(name)) not in (None, "plain", 0)})
        with adapters.during(task) as acting, torch.no_grad():
            facts |= acting.facts
            notes += [*acting.notes, *model.notes(prompt_of(task, task.prompt, "prompt"))]
            avoided = [None, task.negative] if task.negative is not None else [None]
            for name, text in [("prompt", task.prompt), *(("negative", text) for text in avoided)]:
                for prompt in prompts_of(task, text, name, steps or model.defaults.steps):
                    cond = model.texts.encode([prompt])
                    rows.append(Made(wording=prompt.wording, negative=prompt.negative, doors=cond.named()))
    done = write_embedded(
        path,
        rows,
        family=model.texts.families[0],
        encoders=model.texts.encoders(),
        asked=asked,
        more={"model": model.name, "dtype": dtype, **facts},
    )
    return Written(done, tuple(dict.fromkeys(notes)))
