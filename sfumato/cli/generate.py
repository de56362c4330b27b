"""``sfumato generate``: pictures from a sentence."""

from __future__ import annotations

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
    targets,
)
from sfumato.cli.options import given, options_of
from sfumato.cli.sections import Sectioned
from sfumato.errors import InvalidRequest
from sfumato.picture.png import read_recipe
from sfumato.tasks.animate import Animate
from sfumato.tasks.table import request
from sfumato.tasks.task import make
from sfumato.tasks.text2image import Text2Image

__all__ = ["command", "evaluations_of", "file_name", "targets"]

PARENTS = ("image", "image_to", "mask", "begin", "content", "map")
"""The pictures that a task may have been given, which a recipe knows by their hashes alone."""


@click.command(cls=Sectioned)
@click.argument("prompt", required=False)
@output_options
@model_options
@click.option("--like", type=click.Path(path_type=Path), help="a picture of ours: make it again, exactly")
@click.option("--image", help="for --like: the picture that it was made from")
@click.option("--image-to", help="for --like: the other picture that it was made from")
@click.option("--content", help="for --like: the picture that was redrawn in a style")
@click.option("--map", help="for --like: the picture whose colours were areas")
@click.option("--mask", help="for --like: the mask that it was made with")
@click.option("--begin", help="for --like: the picture that its walk began at")
@options_of(Text2Image, skip=("prompt",))
def command(
    prompt: str | None,
    out: Path | None,
    model: str | None,
    like: Path | None,
    force: bool,
    as_json: bool,
    **fields: Any,
) -> None:
    """Make pictures from a sentence.

    sfumato generate "a rocket, 3d style" -o rocket.png

    With --count N the files are rocket-1.png, rocket-2.png, ... and rocket-sheet.png shows all of them. Each
    file carries its complete recipe; `--like FILE` follows it again, whatever task made it.
    """
    loading, showing = taken(fields, LOADING), taken(fields, SHOWING)
    parents = given(taken(fields, (*PARENTS, *(("look", "embedded") if like is not None else ()))))
    options = given(fields)
    if prompt is None and (options.get("look") or options.get("embedded")):
        prompt = ""
    if (prompt is None) == (like is None):
        raise InvalidRequest('give a prompt, such as "a rocket, 3d style", or --like PICTURE, and not both')
    if like is None and parents:
        raise InvalidRequest(
            f"--{next(iter(parents)).replace('_', '-')} goes with --like alone; to work on a picture, see "
            "sfumato edit, inpaint, vary"
        )
    if like is not None and (loading["draw"] is not None or loading["wildcards"] is not None):
        raise InvalidRequest(f"{like} has the prompt that was drawn: leave out --draw and --wildcards")
    if like is not None and options:
        raise InvalidRequest(
            f"--like follows the recipe of {like} exactly; leave out --{next(iter(options))}"
        )
    task, notes = request("text2image", prompt=prompt, **options) if prompt is not None else (None, ())

    def made() -> Any:
        if task is not None:
            return produce(task, "text2image", model, loading, showing, as_json)
        from sfumato import api

        assert like is not None
        return api.remake(like, model, given(loading), **parents)

    moving = None if like is None else _moving(like)
    if moving is not None and like is not None:
        from sfumato.cli.animate import deliver_moving

        name = out or Path(f"like{like.suffix.lower()}")
        deliver_moving(made, moving, name, frames=False, force=force, as_json=as_json)
        return
    count = 1 if task is None or task.pick else task.count
    deliver(
        made,
        out or Path("like.png" if like else file_name(prompt or "")),
        count,
        force=force,
        as_json=as_json,
        notes=notes,
    )


def _moving(path: Path) -> Animate | None:
    """The task of a moving picture, which is made again whole; None if ``path`` is of another."""
    recipe = read_recipe(path)
    if recipe.task != "animate" or recipe.arguments.get("pick") is not None:
        return None
    return make(Animate, **{k: v for k, v in recipe.arguments.items() if k not in ("parents", "look")})


def evaluations_of(chosen: dict[str, Any]) -> int | None:
    """How many network evaluations a request takes; None where its sampler decides on the way."""
    from sfumato.samplers import sampler

    each = sampler(chosen["sampler"]).evaluations
    return None if each is None else int(chosen["steps"] * each)
