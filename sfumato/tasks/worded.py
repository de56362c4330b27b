"""Fields of tasks that read sentences: how they are written, and what each text encoder reads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le, MaxLen
from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from sfumato.errors import InvalidRequest
from sfumato.tasks.embedded import DESCRIPTION, MaybeEmbedded, check_there, filled
from sfumato.text.prompt.dialects import dialect, parse
from sfumato.text.prompt.lists import Folder
from sfumato.text.prompt.wildcards import draw, no_lists

MAX_PROMPT = 4000
CONFIG = ConfigDict(extra="forbid", allow_inf_nan=False)
Text = Annotated[str, MaxLen(MAX_PROMPT)]

ENCODERS = {2: "text_2", 3: "text_3"}
"""Text encoders by the number of the field that speaks to them alone."""


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Worded:
    """A task that reads sentences. In the dialect ``plain`` a sentence is what it is, marks and brackets included."""

    prompt: Text = Field(default="", description="what the picture shows")
    negative: Text | None = Field(default=None, description="what the picture should keep away from")
    dialect: str = Field(
        default="plain", description="how prompts are written: plain, a1111, comfyui or compel"
    )
    clip_skip: Annotated[int, Ge(0), Le(30)] = Field(
        default=0, description="how many more blocks CLIP encoders leave out at their end"
    )
    padding: Literal["seen", "masked"] | None = Field(
        default=None,
        description="what T5's padding is to the model: seen or masked, if not as the family does",
    )
    prompt_2: Text | None = Field(
        default=None, description="what the second CLIP encoder reads instead of the prompt"
    )
    prompt_3: Text | None = Field(default=None, description="what the T5 encoder reads instead of the prompt")
    negative_2: Text | None = Field(
        default=None, description="what the second CLIP encoder reads as the negative prompt"
    )
    negative_3: Text | None = Field(
        default=None, description="what the T5 encoder reads as the negative prompt"
    )
    embedded: MaybeEmbedded = Field(default=None, description=DESCRIPTION)

    @model_validator(mode="before")
    @classmethod
    def _filled(cls, values: Any) -> Any:
        """Without a prompt, that of the file of embedded ones."""
        given = getattr(values, "kwargs", None) or {}
        return values if given.get("embedded") is None else type(values)(values.args, filled(dict(given)))

    def __post_init__(self) -> None:
        """Read all sentences once, so that what cannot be read is told before anything is loaded."""
        dialect(self.dialect)
        for name in ("prompt", "prompt_2", "prompt_3", "prompt_to", "source"):
            if text := getattr(self, name, None):
                parse(text, self.dialect)
        for name in ("negative", "negative_2", "negative_3"):
            if text := getattr(self, name, None):
                parse(text, self.dialect, compose=False)
        check_there(self)

    def apart(self, name: str) -> dict[str, str]:
        """The texts of ``name`` ("prompt", "negative") that other encoders read, by encoder."""
        given = {place: getattr(self, f"{name}_{number}") for number, place in ENCODERS.items()}
        return {place: text for place, text in given.items() if text is not None}


def drawn(task: Any, seed: int, folder: str | Path | None = None) -> list[tuple[Any, dict[str, str], int]]:
    """``task`` with prompts drawn from its patterns, picture by picture, with the patterns and the number that drew it.

    The first picture has the prompts of ``seed``, the next count on; a row of pictures that belong together has one
    draw. ``folder`` has the lists of ``__name__``. InvalidRequest for a task without prompts or a pattern that is not
    well formed.
    """
    lists = no_lists if folder is None else Folder(folder)
    names = ("prompt", "prompt_2", "prompt_3", "prompt_to", "source", "negative", "negative_2", "negative_3")
    patterns = {name: text for name in names if (text := getattr(task, name, None))}
    several = tuple(getattr(task, "prompts", ()))
    if not patterns and not several:
        raise InvalidRequest("there is no prompt to draw")
    single = getattr(task, "counts", "seed") == ""
    numbers = [0] if single else range(task.count) if task.pick is None else [task.pick - 1]
    made = []
    for number in numbers:
        told: dict[str, Any] = {name: draw(text, seed + number, lists) for name, text in patterns.items()}
        if several:
            told["prompts"] = tuple(draw(text, seed + number, lists) for text in several)
        own = {} if single else {"pick": number + 1}
        made.append((replace(task, **told, **own), patterns, seed + number))
    return made
