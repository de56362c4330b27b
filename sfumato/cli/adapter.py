"""``sfumato adapter``: an adapter in another layout."""

from __future__ import annotations

import json
from pathlib import Path

import click

DEFAULT = "emoji"
"""The model that adapters are for unless another is named."""


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("target", type=click.Path(path_type=Path))
@click.option(
    "--to",
    "layout",
    type=click.Choice(["kohya", "diffusers", "peft"]),
    required=True,
    help="whose names: a file of kohya's scripts (ComfyUI and A1111 read it) or of diffusers, or PEFT's folder",
)
@click.option("-m", "--model", default=None, help="the model that it is for, or its path (default: emoji)")
@click.option("--partial", is_flag=True, help="leave out what finds no place in the model")
@click.option("--title", default="", help="what the adapter is called in its header")
@click.option("--dtype", default=None, help="float32, bfloat16 or float16 (default: as it is)")
@click.option("--family", default=None, help="the checkpoint's family, where its keys do not tell it")
@click.option("--variant", default=None, help='which of a folder\'s files, such as "fp16"')
@click.option("--allow-pickle", is_flag=True, help="open .pt and .bin files, in a process of their own")
@click.option("--json", "as_json", is_flag=True, help="print JSON instead of text")
def command(
    source: Path,
    target: Path,
    layout: str,
    model: str | None,
    partial: bool,
    title: str,
    dtype: str | None,
    family: str | None,
    variant: str | None,
    allow_pickle: bool,
    as_json: bool,
) -> None:
    """Write the adapter SOURCE to TARGET in another layout, bit for bit where that can be.

    sfumato adapter ink.safetensors ink-kohya.safetensors --to kohya -m sd15

    The model tells which layers the names are; every tensor finds its place there, or nothing is written.
    """
    from sfumato import api
    from sfumato.adapters.found import check_target
    from sfumato.errors import InvalidRequest, WeightsError

    if not source.exists():
        raise InvalidRequest(f"the adapter {source} does not exist")
    check_target(target, layout)
    loaded = api.load(model or DEFAULT, family=family, variant=variant, allow_pickle=allow_pickle)
    try:
        path, notes = loaded.adapters.write(source, target, layout, title=title, dtype=dtype, partial=partial)
    except WeightsError as error:
        if model is not None:
            raise
        raise WeightsError(f"{error}; no -m MODEL was given, and the default is {DEFAULT}") from error
    if as_json:
        click.echo(json.dumps({"path": str(path), "notes": list(notes)}))
        return
    click.echo(str(path))
    for note in notes:
        click.echo(f"note: {note}", err=True)
