"""``sfumato data``: look at pictures with captions, check them, and build the default corpus."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import click

_data = click.argument("path", type=click.Path(path_type=Path))
_json = click.option("--json", "as_json", is_flag=True, help="print JSON instead of text")

_FORMATS = {".png": "PNG", ".webp": "WEBP", ".jpg": "JPEG", ".jpeg": "JPEG"}
_MOST_SHOWN = 12


@click.group()
def app() -> None:
    """Look at data sets, check them, build the default one.

    A PATH is a tar with its .jsonl beside it, a folder of pictures with captions, or IDX files.
    """


@app.command()
@_data
@_json
def show(path: Path, as_json: bool) -> None:
    """Say what a data set holds: pictures, splits, styles, licences, sizes, hash."""
    from sfumato.data.commands import describe

    _print(describe(path), as_json)


@app.command()
@_data
@_json
def check(path: Path, as_json: bool) -> None:
    """Decode every picture; name those that are damaged (exit code 5)."""
    from rich.console import Console
    from rich.progress import Progress

    from sfumato.data.commands import check as check_pictures
    from sfumato.errors import DataError

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("decoding")
        report = check_pictures(path, lambda done, of: bar.update(task, completed=done, total=of))
    _print(report, as_json)
    if report["damaged"]:
        raise DataError(f"{len(report['damaged'])} of {report['pictures']} pictures in {path} are damaged")


@app.command()
@_data
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    default=Path("sheet.png"),
    show_default=True,
    help="the picture to write (.png, .webp, .jpg)",
)
@click.option("-n", "--count", type=int, default=24, show_default=True, help="how many pictures")
@click.option("--seed", type=int, default=0, show_default=True, help="another seed, another choice")
@_json
def sheet(path: Path, out: Path, count: int, seed: int, as_json: bool) -> None:
    """Draw a contact sheet of random pictures with captions, as training sees them."""
    from sfumato.data.commands import sheet as make_sheet
    from sfumato.errors import InvalidRequest
    from sfumato.files import write_atomic

    form = _FORMATS.get(out.suffix.lower())
    if form is None:
        raise InvalidRequest(f"cannot write {out}: the name must end in one of {', '.join(_FORMATS)}")
    image = make_sheet(path, count, seed)
    write_atomic(out, lambda file: image.save(file, form))
    _print({"out": str(out), "width": image.width, "height": image.height}, as_json)


@app.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--cache", type=click.Path(path_type=Path), help="where npm packages are kept (130 MB)")
@click.option("--set", "only", multiple=True, metavar="NAME", help="only this set; may be repeated")
@click.option(
    "--workers", type=click.IntRange(min=1), default=1, show_default=True, help="processes that draw"
)
@_json
def build(out: Path, cache: Path | None, only: tuple[str, ...], workers: int, as_json: bool) -> None:
    """Draw the default emoji corpus again from npm packages (about 15 minutes of one core).

    The folder OUT gets emoji-128.tar and emoji.jsonl.
    """
    from sfumato.data.commands import build_emoji

    _print(build_emoji(out, cache or _default_cache(), only, workers), as_json)


@app.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--most", type=float, default=24.0, show_default=True, help="the most MiB it may take")
@_json
def pack(path: Path, out: Path, most: float, as_json: bool) -> None:
    """Pack PATH into the folder OUT at a given size (lossy WebP), to train on another machine."""
    from rich.console import Console
    from rich.progress import Progress

    from sfumato.data.pack import pack as pack_pictures
    from sfumato.data.pictures import open_pictures

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("packing")
        report = pack_pictures(
            open_pictures(path),
            out,
            int(most * 2**20),
            lambda done, of: bar.update(task, completed=done, total=of),
        )
    _print(report, as_json)


def _default_cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "sfumato" / "npm"


def _print(report: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(report, ensure_ascii=False, indent=2))
        return
    for key, value in report.items():
        click.echo(f"{key:13} {_worded(value)}")


def _worded(value: object) -> str:
    if isinstance(value, dict):
        parts = [f"{name or '(none)'} {count:,}" for name, count in value.items()]
    elif isinstance(value, list):
        parts = [str(item) for item in value]
    else:
        return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
    more = [f"and {len(parts) - _MOST_SHOWN} more"] if len(parts) > _MOST_SHOWN else []
    return ", ".join(parts[:_MOST_SHOWN] + more) or "none"
