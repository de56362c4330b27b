"""A file of embedded prompts as a field of a task: it fills in the prompt, and stands in the place of text encoders."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import PlainSerializer, PlainValidator, WithJsonSchema

from sfumato.condition import Prompt
from sfumato.errors import InvalidRequest
from sfumato.model import Model
from sfumato.tasks.script import read
from sfumato.text.embedded import Embedded, open_embedded

DESCRIPTION = "a file of embedded prompts, read in place of text encoders (see: sfumato embed)"
ABSENT = Prompt(text="", absent=True, negative=True)
"""The negative prompt that nobody gave."""


def _embedded(value: Any) -> Embedded | None:
    """The file of embedded prompts that ``value`` is, or names."""
    if value is None or isinstance(value, Embedded):
        return value
    if not isinstance(value, str | Path):
        raise ValueError(
            f"embedded must be the name of a file of embedded prompts, not {type(value).__name__}"
        )
    return open_embedded(value)


MaybeEmbedded = Annotated[
    Embedded | None,
    PlainValidator(_embedded),
    PlainSerializer(lambda file: None if file is None else f"sha256:{file.hash}"),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "null"}]}),
]
"""A field that is a file of embedded prompts or None."""


def filled(values: dict[str, Any]) -> dict[str, Any]:
    """The fields ``values`` of a task; without a prompt, with those that its file of embedded prompts was written for.

    InvalidRequest if that file holds several.
    """
    file = _embedded(values.get("embedded"))
    if file is None or values.get("prompt"):
        return {**values, "embedded": file}
    if len(file.asked) != 1:
        raise InvalidRequest(
            f"{file.path} holds {len(file.asked)} embedded prompts: say which, such as "
            f"{' or '.join(repr(one.get('prompt', '')) for one in file.asked[:3])}"
        )
    given = {name for name, value in values.items() if value is not None} - {"prompt"}
    told = {name: value for name, value in file.asked[0].items() if name not in given}
    return {**values, **told, "embedded": file}


def check_there(task: Any) -> None:
    """Refuse plain texts of ``task`` that are not in its file, before anything is loaded."""
    if task.embedded is None or task.dialect != "plain" or task.clip_skip or task.padding:
        return
    apart: Callable[[str], Any] = getattr(task, "apart", lambda name: {})
    named = [(getattr(task, name, None), name) for name in ("prompt", "prompt_to", "source", "negative")]
    texts = [(text, name) for text, name in named if text]
    texts += [(text, "prompt") for text in getattr(task, "prompts", ())]
    for text, name in texts:
        avoided = name == "negative"
        if apart("negative" if avoided else "prompt"):
            continue
        told = Prompt(text=text, negative=avoided).wording
        if not task.embedded.has(told):
            raise InvalidRequest(task.embedded.lacks(told))


def prompt_of(task: Any, text: str | None, name: str) -> Prompt:
    """The ``text`` of ``task``, its ``name`` being "prompt" or "negative", without what is told of the picture.

    Other encoders' texts (``apart_of``) belong to the task's own.
    """
    return Prompt(
        text=text or "",
        absent=text is None and not apart_of(task, text, name),
        negative=name == "negative",
        dialect=getattr(task, "dialect", "plain"),
        skip=getattr(task, "clip_skip", 0),
        padding=getattr(task, "padding", None) or "",
    )


def apart_of(task: Any, text: str | None, name: str) -> dict[str, str]:
    """The texts that other encoders read in the place of ``text``, if that is the task's own."""
    own = text == getattr(task, name, text)
    found: dict[str, str] = task.apart(name) if own and hasattr(task, "apart") else {}
    return found


def prompts_of(task: Any, text: str | None, name: str, steps: int) -> tuple[Prompt, ...]:
    """All that encoders read of ``text`` over so many ``steps``: several prompts where it changes, or is a sum."""
    prompt, apart = prompt_of(task, text, name), apart_of(task, text, name)
    return (prompt,) if prompt.dialect == "plain" and not apart else read(prompt, apart, steps).prompts


def ready(task: Any, prompt: Prompt) -> Prompt:
    """``prompt`` with its states if ``task`` has a file of them; InvalidRequest if it is not there."""
    file: Embedded | None = getattr(task, "embedded", None)
    return prompt if file is None else replace(prompt, ready=file.find(prompt.wording))


def lacks_negative(task: Any, text: str | None) -> bool:
    """Whether the negative prompt ``text`` is left out, and the task's file, of another program, has nothing for it."""
    file: Embedded | None = getattr(task, "embedded", None)
    return file is not None and text is None and not file.has(ABSENT.wording)


def notes(task: Any, model: Model) -> list[str]:
    """That other encoders embedded the prompts of ``task`` than the ``model`` has, if it has any."""
    file: Embedded | None = getattr(task, "embedded", None)
    if file is None or not file.encoders or model.texts is None:
        return []
    own = model.texts.encoders()
    other = [place for place, told in file.encoders.items() if own.get(place, told) != told]
    if not other:
        return []
    return [f"{file.path.name} was embedded by another encoder ({', '.join(other)}) than this model's own"]
