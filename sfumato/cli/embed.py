"""``sfumato embed``: what a model's text encoders make of prompts, for machines that do without the encoders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from sfumato.cli.making import LOADING, model_options, taken
from sfumato.cli.options import given, options_of
from sfumato.errors import InvalidRequest
from sfumato.tasks.worded import Worded

MOST = 1_000
"""The most prompts that a file may list."""


@click.command()
@click.argument("prompts", nargs=-1)
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), required=True, help="the .safetensors file to write"
)
@click.option("--from", "listed", type=click.Path(path_type=Path), help="a file with a prompt in each line")
@click.option(
    "--steps",
    type=click.IntRange(1, 1000),
    help="how many steps schedules in prompts are for (default: the model's)",
)
@click.option("--force", is_flag=True, help="replace a file that exists")
@click.option("--json", "as_json", is_flag=True, help="print JSON instead of text")
@model_options
@options_of(Worded, skip=("prompt", "embedded"))
def command(
    prompts: tuple[str, ...],
    out: Path,
    listed: Path | None,
    steps: int | None,
    force: bool,
    as_json: bool,
    model: str | None,
    **fields: Any,
) -> None:
    """Write what a model's text encoders make of prompts to a file; denoiser and autoencoder are not loaded.

    sfumato embed "a cat" "a dog" --negative grey -m flux1-dev -o pets.safetensors

    sfumato generate "a cat" --embedded pets.safetensors -m flux1-dev

    Every task takes --embedded, and then neither loads nor needs text encoders. Without a prompt it makes the one that
    the file was written for.
    """
    loading = taken(fields, LOADING)
    for name in ("draw", "wildcards", "refiner", "handover"):
        if loading.pop(name) is not None:
            raise InvalidRequest(f"--{name} is not for embedded prompts: leave it out")
    told = given(fields)
    texts = [*prompts, *([] if listed is None else lines(listed))]
    if not texts:
        raise InvalidRequest('give prompts, such as "a cat", or --from FILE with one in each line')
    check_target(out, force)

    from sfumato import api

    # of an adapter the denoiser's parts have no place here; notes name what is left out
    loading["partial"] = loading["partial"] or bool(loading["adapters"] or loading["adapters_in"])
    loaded = api.load(model or "emoji", draws=False, **loading)
    done = loaded.embed(out, *({"prompt": text, **told} for text in texts), steps=steps)
    notes = (*loaded.notes, *done.notes)
    if as_json:
        click.echo(
            json.dumps({"file": str(done.path), "prompts": texts, "notes": list(notes)}, ensure_ascii=False)
        )
        return
    click.echo(str(done.path))
    for note in notes:
        click.echo(f"note: {note}", err=True)


def lines(path: Path) -> list[str]:
    """The prompts in ``path``, one a line, empty lines left out; InvalidRequest if it cannot be read as UTF-8."""
    try:
        found = [line for line in path.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"cannot read the prompts in {path}: {error}") from error
    if len(found) > MOST:
        raise InvalidRequest(f"{path} lists {len(found):,} prompts, and at most {MOST:,} are allowed")
    return found


def check_target(out: Path, force: bool) -> None:
    """Refuse a name that cannot be written, before anything is loaded."""
    from sfumato.files import check_folder

    if out.suffix != ".safetensors":
        raise InvalidRequest(f"the name {str(out)!r} is not allowed: embedded prompts are .safetensors files")
    check_folder(out.parent, out.name)
    if out.exists() and not force:
        raise InvalidRequest(f"{out} exists; choose another --out, or --force to replace it")
