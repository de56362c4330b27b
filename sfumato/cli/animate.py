"""``sfumato animate``: a moving picture from key prompts."""

from __future__ import annotations

import inspect
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from sfumato.cli.making import (
    LOADING,
    SHOWING,
    check_writable,
    file_name,
    model_options,
    output_options,
    produce,
    taken,
    targets,
)
from sfumato.cli.options import given, options_of
from sfumato.cli.sections import Sectioned
from sfumato.picture.moving import check_moving
from sfumato.picture.png import read_recipe
from sfumato.tasks.animate import Animate
from sfumato.tasks.table import request


def run(
    prompts: tuple[str, ...],
    out: Path | None,
    frames: bool,
    model: str | None,
    force: bool,
    as_json: bool,
    **values: Any,
) -> None:
    """Make the frames and write them."""
    loading, showing = taken(values, LOADING), taken(values, SHOWING)
    task, notes = request("animate", prompts=prompts, **given(values))
    deliver_moving(
        lambda: produce(task, "animate", model, loading, showing, as_json),
        task,
        out or Path(file_name(prompts[0])).with_suffix(".webp"),
        frames=frames,
        force=force,
        as_json=as_json,
        notes=notes,
    )


def deliver_moving(
    made: Callable[[], Any],
    task: Animate,
    out: Path,
    *,
    frames: bool,
    force: bool,
    as_json: bool,
    notes: tuple[str, ...] = (),
) -> None:
    """Check the names, make the frames, write the moving picture and, if asked, each frame; say what was written."""
    target = check_moving(out)
    names = targets(target.with_suffix(".png"), task.count)[:-1] if frames else []
    check_writable([target, *names], force)
    began = time.monotonic()
    images = made()
    images.save_moving(target)
    for name, picture in zip(names, images.images, strict=False):
        picture.save(name)
    for note in (*notes, *images.notes):
        click.echo(f"note: {note}", err=True)
    if not as_json:
        for name in (target, *names):
            click.echo(str(name))
        return
    told = {
        "file": str(target),
        "frames": [str(name) for name in names],
        **json.loads(read_recipe(target).to_json()),
    }
    click.echo(json.dumps({**told, "seconds": round(time.monotonic() - began, 3)}))


run.__doc__ = "\n\n".join(
    (
        inspect.cleandoc(Animate.__doc__ or ""),
        "The ending of --out says the format: .webp or .png (every pixel kept), or .gif (256 colours a frame). "
        "The file carries its complete recipe; `sfumato generate --like FILE` makes it again.",
        'sfumato animate "a cat, 3d style" "a dog, 3d style" --loop -o walk.webp',
    )
)

_frames = click.option("--frames", is_flag=True, help="write every frame as a numbered PNG too")
_prompts = click.argument("prompts", nargs=-1, required=True)
command = click.command("animate", cls=Sectioned)(
    _prompts(output_options(_frames(model_options(options_of(Animate, skip=("prompts",))(run)))))
)
