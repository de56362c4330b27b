"""The commands that work on pictures, one a task: arguments, options, help and checks from its dataclass."""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path
from typing import Any

import click

from sfumato.cli.making import (
    LOADING,
    SHOWING,
    deliver,
    file_name,
    model_options,
    output_options,
    produce,
    taken,
)
from sfumato.cli.options import given, is_required, options_of
from sfumato.cli.sections import Sectioned
from sfumato.tasks.table import TASKS, request


@dataclasses.dataclass(frozen=True, kw_only=True)
class Front:
    """How a task looks as a command: the fields that are arguments in order, and examples."""

    task: str
    arguments: tuple[str, ...]
    examples: tuple[str, ...]


FRONTS: dict[str, Front] = {
    "class": Front(
        task="class2image",
        arguments=("label",),
        examples=("sfumato class 3 -m digits.safetensors -o three.png",),
    ),
    "compose": Front(
        task="compose",
        arguments=("prompt",),
        examples=(
            'sfumato compose "a meadow" --regions "rect(0, 20%, 50%, 60%): a cat"',
            'sfumato compose "a meadow" --map areas.png --regions "color(#ff0000): a cat" --by attention',
        ),
    ),
    "control": Front(
        task="control",
        arguments=("image", "prompt"),
        examples=('sfumato control edges.png "a glass house" -m FLUX.1-Canny-dev',),
    ),
    "edit": Front(
        task="image2image",
        arguments=("image", "prompt"),
        examples=('sfumato edit photo.png "a red apple, 3d style" --strength 0.6',),
    ),
    "inpaint": Front(
        task="inpaint",
        arguments=("image", "prompt"),
        examples=(
            'sfumato inpaint photo.png "a hat" --mask mask.png',
            'sfumato inpaint photo.png "a hat" --mask "rect(30, 0, 60, 40)"',
        ),
    ),
    "instruct": Front(
        task="instruct",
        arguments=("image", "prompt"),
        examples=('sfumato instruct photo.png "make it snow" -m FLUX.1-Kontext-dev',),
    ),
    "interpolate": Front(
        task="interpolate",
        arguments=("prompt", "prompt_to"),
        examples=('sfumato interpolate "a cat" "a dog" --count 7', 'sfumato interpolate "a cat" --seed-to 8'),
    ),
    "outpaint": Front(
        task="outpaint",
        arguments=("image", "prompt"),
        examples=('sfumato outpaint photo.png "a meadow" --left 32 --size 96',),
    ),
    "resample": Front(
        task="resample",
        arguments=("image", "prompt"),
        examples=('sfumato resample cat.png "a dog" --source "a cat" --strength 0.7',),
    ),
    "restore": Front(
        task="restore",
        arguments=("image",),
        examples=('sfumato restore small.png --damage "average(factor=4)" --prompt "a cat"',),
    ),
    "style": Front(
        task="style",
        arguments=("image", "prompt"),
        examples=(
            'sfumato style painting.png "a cat" --count 4',
            'sfumato style painting.png "a cat" --content cat.png --strength 0.6 --path inverted',
        ),
    ),
    "tile": Front(
        task="tile",
        arguments=("prompt",),
        examples=('sfumato tile "green leaves" -o leaves.png',),
    ),
    "unconditional": Front(task="unconditional", arguments=(), examples=("sfumato unconditional --count 4",)),
    "upscale": Front(
        task="upscale",
        arguments=("image",),
        examples=('sfumato upscale cat.png --prompt "a cat" --factor 4', 'sfumato upscale --prompt "a cat"'),
    ),
    "vary": Front(
        task="vary",
        arguments=("prompt",),
        examples=('sfumato vary "a cat" --seed 7 --count 4', 'sfumato vary "a cat" --image cat.png'),
    ),
}
"""The commands by name."""


def front(name: str) -> click.Command:
    """The command called ``name``."""
    chosen = FRONTS[name]
    task = TASKS[chosen.task]
    fields = {field.name: field for field in dataclasses.fields(task)}
    needed = [name for name in chosen.arguments if is_required(fields[name])]

    def run(out: Path | None, model: str | None, force: bool, as_json: bool, **values: Any) -> None:
        loading, showing = taken(values, LOADING), taken(values, SHOWING)
        options = given(values)
        if "prompt" in needed and "prompt" not in options:
            if not (options.get("embedded") or options.get("look")):
                raise click.MissingParameter(param_hint="'PROMPT'", param_type="argument")
            options["prompt"] = ""
        made, notes = request(chosen.task, **options)
        image = options.get("image")
        told = str(options.get("prompt") or options.get("label") or name)
        plain = f"{Path(image).stem}-{name}.png" if image else file_name(told)
        deliver(
            lambda: produce(made, chosen.task, model, loading, showing, as_json),
            out or Path(plain),
            1 if made.pick else made.count,
            force=force,
            as_json=as_json,
            notes=notes,
        )

    told = inspect.cleandoc(task.__doc__ or "").replace("``", "")
    run.__doc__ = "\n\n".join((told, *chosen.examples))
    function = options_of(task, skip=chosen.arguments)(run)
    function = output_options(model_options(function))
    for argument in reversed(chosen.arguments):
        # what else can be in the place of a prompt is known when all is read
        function = click.argument(argument, required=argument in needed and argument != "prompt")(function)
    return click.command(name, cls=Sectioned)(function)


COMMANDS = {name: front(name) for name in FRONTS}
"""The commands, made."""


def __getattr__(name: str) -> click.Command:
    """A command as an attribute of this module, so that it is found as others are."""
    if name not in COMMANDS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return COMMANDS[name]
