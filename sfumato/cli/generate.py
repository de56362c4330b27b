"""``sfumato generate``: pictures from a sentence."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import click

from sfumato.cli.options import given, options_of
from sfumato.errors import InvalidRequest, OutputError
from sfumato.tasks.task import make
from sfumato.tasks.text2image import Text2Image


@click.command()
@click.argument("prompt", required=False)
@click.option("-o", "--out", type=click.Path(path_type=Path), default=None, help="PNG file to write.")
@click.option("-m", "--model", default=None, help="a model by name, or a checkpoint's path (default: emoji)")
@click.option("--dtype", default=None, help="float32, bfloat16 or float16 (default: the fastest here)")
@click.option("--device", default="cpu", show_default=True, help="where the networks run: cpu, cuda, cuda:1")
@click.option("--family", default=None, help="a checkpoint's family, where its keys do not tell it")
@click.option("--predicts", default=None, help="what a checkpoint's network predicts: eps, v, flow, x0")
@click.option(
    "--tokens", type=click.Path(path_type=Path), help="T5's vocabulary, where a checkpoint has none"
)
@click.option("--variant", default=None, help='which of a folder\'s files, such as "fp16"')
@click.option("--allow-pickle", is_flag=True, help="open .ckpt and .bin files, in a process of their own")
@click.option("--download", is_flag=True, help="fetch a hub repository that is not in the local cache")
@click.option("--like", type=click.Path(path_type=Path), help="a picture of ours: make it again, exactly")
@click.option("--force", is_flag=True, help="replace files that exist")
@click.option("--preview/--no-preview", default=None, help="show the picture in the terminal while it grows")
@click.option("--json", "as_json", is_flag=True, help="print one JSON object about what was made")
@options_of(Text2Image, skip=("prompt",))
def command(
    prompt: str | None,
    out: Path | None,
    model: str | None,
    dtype: str | None,
    device: str,
    family: str | None,
    predicts: str | None,
    tokens: Path | None,
    variant: str | None,
    allow_pickle: bool,
    download: bool,
    like: Path | None,
    force: bool,
    preview: bool | None,
    as_json: bool,
    **fields: Any,
) -> None:
    """Make pictures from a sentence.

    sfumato generate "a rocket, 3d style" -o rocket.png

    With --count N the files are rocket-1.png, rocket-2.png, ... and rocket-sheet.png shows all of them. Each
    file carries its complete recipe; `--like FILE` follows it again.
    """
    options = given(fields)
    if (prompt is None) == (like is None):
        raise InvalidRequest('give a prompt, such as "a rocket, 3d style", or --like PICTURE, and not both')
    if like is not None and options:
        raise InvalidRequest(
            f"--like follows the recipe of {like} exactly; leave out --{next(iter(options))}"
        )
    task = make(Text2Image, prompt=prompt, **options) if prompt is not None else None
    count = task.count if task is not None else 1
    names = targets(out or Path("like.png" if like else file_name(prompt or "")), count)
    check_writable(names, force)

    from sfumato import api
    from sfumato.cli.render import Bar

    began = time.monotonic()
    if task is None:
        assert like is not None
        made = api.remake(like, model)
    else:
        loaded = api.load(
            model or "emoji",
            dtype=dtype,
            device=device,
            family=family,
            predicts=predicts,
            tokens=tokens,
            variant=variant,
            allow_pickle=allow_pickle,
            download=download,
        )
        evaluations = evaluations_of(task.resolved(loaded.model.defaults))
        with Bar(evaluations, preview=preview, quiet=as_json) as bar:
            made = loaded.run(task, bar.update)
    seconds = time.monotonic() - began
    for name, picture in zip(names, made.images, strict=False):
        picture.save(name)
    if count > 1:
        from sfumato.picture.png import save_png
        from sfumato.picture.sheet import contact_sheet

        captions = [f"seed {p.recipe.arguments['seed']}" for p in made.images]
        save_png(names[-1], contact_sheet([p.pixels for p in made.images], captions))
    for note in made.notes:
        click.echo(f"note: {note}", err=True)
    report(names, made, seconds, as_json)


def report(names: list[Path], made: Any, seconds: float, as_json: bool) -> None:
    """Say what was written: file names, or one JSON object."""
    if as_json:
        pictures = [
            {"file": str(name), **json.loads(picture.recipe.to_json())}
            for name, picture in zip(names, made.images, strict=False)
        ]
        sheet = str(names[-1]) if len(names) > len(made.images) else None
        click.echo(json.dumps({"pictures": pictures, "sheet": sheet, "seconds": round(seconds, 3)}))
        return
    for name in names:
        click.echo(str(name))
    if sys.stderr.isatty():
        click.echo(f"{len(made.images)} in {seconds:.1f} s", err=True)


def evaluations_of(chosen: dict[str, Any]) -> int | None:
    """How many network evaluations a task takes, for the progress bar; None where its sampler decides on the way."""
    from sfumato.samplers import sampler

    each = sampler(chosen["sampler"]).evaluations
    return None if each is None else int(chosen["steps"] * each)


def file_name(prompt: str) -> str:
    """A short file name from a prompt: letters and digits of its first words."""
    words = "".join(c if c.isascii() and c.isalnum() else " " for c in prompt.lower()).split()
    return ("-".join(words)[:60].rstrip("-") or "picture") + ".png"


def targets(out: Path, count: int) -> list[Path]:
    """The files for ``count`` pictures: ``out`` itself, or numbered ones and the sheet as the last."""
    if out.suffix.lower() != ".png":
        raise InvalidRequest(
            f"--out = {str(out)!r} is not allowed: pictures are PNG files, so end it in .png"
        )
    if count == 1:
        return [out]
    digits = len(str(count))
    numbered = [out.with_stem(f"{out.stem}-{i:0{digits}d}") for i in range(1, count + 1)]
    return [*numbered, out.with_stem(f"{out.stem}-sheet")]


def check_writable(names: list[Path], force: bool) -> None:
    """Refuse before any work: a missing folder, a folder in the way, files that exist."""
    from sfumato.files import check_folder

    check_folder(names[0].parent)
    for name in names:
        if name.is_dir():
            raise OutputError(f"cannot write {name}: it is a folder; give a file name")
        if name.exists() and not force:
            raise InvalidRequest(f"{name} exists; choose another --out, or --force to replace it")
