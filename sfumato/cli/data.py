"""``sfumato data``: look at pictures with captions, check them, and build the default corpus."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    name="data", help="Look at data sets, check them, build the default one.", no_args_is_help=True
)

DataPath = Annotated[Path, typer.Argument(help="A tar with its .jsonl, a folder of pictures, or IDX files.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]

_FORMATS = {".png": "PNG", ".webp": "WEBP", ".jpg": "JPEG", ".jpeg": "JPEG"}
_MOST_SHOWN = 12


@app.command()
def show(path: DataPath, as_json: AsJson = False) -> None:
    """Say what a data set holds: pictures, splits, styles, licences, sizes, hash."""
    from sfumato.data.commands import describe

    _print(describe(path), as_json)


@app.command()
def check(path: DataPath, as_json: AsJson = False) -> None:
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
def sheet(
    path: DataPath,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The picture to write (.png, .webp, .jpg).")
    ] = Path("sheet.png"),
    count: Annotated[int, typer.Option("--count", "-n", help="How many pictures.")] = 24,
    seed: Annotated[int, typer.Option(help="Another seed, another choice.")] = 0,
    as_json: AsJson = False,
) -> None:
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
def build(
    out: Annotated[Path, typer.Argument(help="The folder to write emoji-128.tar and emoji.jsonl into.")],
    cache: Annotated[Path | None, typer.Option(help="Where npm packages are kept (130 MB).")] = None,
    only: Annotated[list[str] | None, typer.Option("--set", help="Only this set; may be repeated.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that draw.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Draw the default emoji corpus again from npm packages (about 15 minutes of one core)."""
    from sfumato.data.commands import build_emoji

    _print(build_emoji(out, cache or _default_cache(), only or (), workers), as_json)


def _default_cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "sfumato" / "npm"


def _print(report: dict[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(report, ensure_ascii=False, indent=2))
        return
    for key, value in report.items():
        typer.echo(f"{key:13} {_worded(value)}")


def _worded(value: object) -> str:
    if isinstance(value, dict):
        parts = [f"{name or '(none)'} {count:,}" for name, count in value.items()]
    elif isinstance(value, list):
        parts = [str(item) for item in value]
    else:
        return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
    more = [f"and {len(parts) - _MOST_SHOWN} more"] if len(parts) > _MOST_SHOWN else []
    return ", ".join(parts[:_MOST_SHOWN] + more) or "none"
