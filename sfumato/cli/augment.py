"""``sfumato augment``: a larger set of pictures from a set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from sfumato.cli.making import LOADING, model_options, taken
from sfumato.cli.options import given, options_of
from sfumato.cli.sections import Sectioned
from sfumato.errors import InvalidRequest
from sfumato.tasks.image2image import Image2Image

DRAWING = ("draw", "wildcards")
OWN = ("image", "prompt", "seed", "count", "pick")


@click.command("augment", cls=Sectioned)
@click.argument("source", type=click.Path(path_type=Path))
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="the folder to write")
@click.option("--times", type=int, default=4, show_default=True, help="how many new pictures of each")
@click.option(
    "--prompt",
    default="{caption}",
    show_default=True,
    help="what a picture shows: a text with {caption}, {label}, {style}, {group}",
)
@click.option("--seed", type=int, default=0, show_default=True, help="the first new picture's seed")
@click.option("--split", default="", help="only pictures of this split")
@click.option("--limit", type=int, default=None, help="only the first so many pictures")
@click.option("--originals", is_flag=True, help="copy the pictures themselves too")
@click.option("--resume", is_flag=True, help="go on in a folder that was begun")
@click.option("--json", "as_json", is_flag=True, help="print one JSON object about what was made")
@model_options
@options_of(Image2Image, skip=OWN)
def command(
    source: Path,
    out: Path,
    times: int,
    prompt: str,
    seed: int,
    split: str,
    limit: int | None,
    originals: bool,
    resume: bool,
    as_json: bool,
    model: str | None,
    **values: Any,
) -> None:
    """Make a set of synthetic pictures from a set: each picture changed a few times, its labels kept.

    SOURCE is a folder of pictures with captions, a tar with its .jsonl, or IDX files. The folder that is written has
    the pictures under their parents' names and metadata.jsonl, as `sfumato train` and `sfumato data` read it.

    sfumato augment photos/ -o more/ --times 4 --strength 0.5 --prompt "{caption}, 3d style"
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    from sfumato import api
    from sfumato.augment import Plan, augment, check_out, planned
    from sfumato.data.pictures import open_pictures

    loading = taken(values, LOADING)
    if any(value not in (None, ()) for value in taken(loading, DRAWING).values()):
        raise InvalidRequest(
            "the prompts of augment are templates, of which nothing is drawn: leave --draw out"
        )
    plan = Plan(
        times=times,
        prompt=prompt,
        seed=seed,
        split=split,
        limit=limit,
        originals=originals,
        options=given(values),
    )
    planned(open_pictures(source), plan)
    check_out(source, out, resume)
    loaded = api.load(model or "emoji", **loading)
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=as_json) as bar:
        task = bar.add_task("augmenting")
        told = augment(
            source,
            out,
            loaded,
            plan,
            resume=resume,
            listen=lambda done, of: bar.update(task, completed=done, total=of),
        )
    click.echo(json.dumps(told) if as_json else f"{told['out']}: {told['made']} made, {told['kept']} kept")
