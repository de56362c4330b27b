"""What commands that make pictures share: which model, where to, the bar, the files and what is said of them."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from sfumato.cli.sections import SECTIONS
from sfumato.errors import InvalidRequest, OutputError

_MODEL: tuple[Any, ...] = (
    click.option(
        "-m", "--model", default=None, help="a model by name, or a checkpoint's path (default: emoji)"
    ),
    click.option("--dtype", default=None, help="float32, bfloat16 or float16 (default: the fastest here)"),
    click.option(
        "--device", default="cpu", show_default=True, help="where the networks run: cpu, cuda, cuda:1"
    ),
    click.option("--family", default=None, help="a checkpoint's family, where its keys do not tell it"),
    click.option("--predicts", default=None, help="what a checkpoint's network predicts: eps, v, flow, x0"),
    click.option(
        "--tokens",
        type=click.Path(path_type=Path),
        help="the text encoder's vocabulary, where a checkpoint has none",
    ),
    click.option(
        "--part",
        "parts",
        multiple=True,
        type=click.Path(path_type=Path),
        help="a file or folder with networks that the checkpoint lacks: text encoders, autoencoder, Redux (repeatable)",
    ),
    click.option("--packed", is_flag=True, help="keep 8-bit and GGUF weights in memory as the file has them"),
    click.option("--refiner", help="a checkpoint that goes on where little noise is left"),
    click.option(
        "--handover", type=float, help="after which part of the noise the refiner goes on (default: 0.8)"
    ),
    click.option("--variant", default=None, help='which of a folder\'s files, such as "fp16"'),
    click.option("--allow-pickle", is_flag=True, help="open .ckpt and .bin files, in a process of their own"),
    click.option("--download", is_flag=True, help="fetch a hub repository that is not in the local cache"),
    click.option(
        "--adapter",
        "adapters",
        multiple=True,
        metavar="FILE[:0.8]",
        help="let an adapter (LoRA and its kin) act, this strongly (may be repeated)",
    ),
    click.option(
        "--adapters-in",
        type=click.Path(path_type=Path),
        help="the folder of adapters that prompts name, as <lora:name:0.8>",
    ),
    click.option(
        "--embeddings-in",
        type=click.Path(path_type=Path),
        help="the folder of textual inversions that prompts name, as embedding:name",
    ),
    click.option("--merged", is_flag=True, help="put adapters into the weights instead of beside them"),
    click.option("--partial", is_flag=True, help="leave out of adapters what finds no place in the model"),
    click.option(
        "--draw", type=int, help="draw {a|b} and __list__ in prompts, by this seed and those after it"
    ),
    click.option(
        "--wildcards", type=click.Path(path_type=Path), help="the folder of the lists that __list__ names"
    ),
)
_OUTPUT: tuple[Any, ...] = (
    click.option("-o", "--out", type=click.Path(path_type=Path), default=None, help="PNG file to write."),
    click.option("--force", is_flag=True, help="replace files that exist"),
    click.option(
        "--preview/--no-preview", default=None, help="show the picture in the terminal while it grows"
    ),
    click.option(
        "--preview-file",
        type=click.Path(path_type=Path),
        help="keep the picture as it grows in this PNG file, for a viewer beside",
    ),
    click.option(
        "--preview-by",
        type=click.Path(path_type=Path),
        help="a tiny autoencoder (taesd and its kin) that decodes previews",
    ),
    click.option("--json", "as_json", is_flag=True, help="print one JSON object about what was made"),
)
LOADING = (
    *(name for name in SECTIONS["Model"] if name != "model"),
    *SECTIONS["Adapters"],
    *("embeddings_in", "draw", "wildcards"),
)
"""The options of a command that say how a model is loaded, parameters of ``api.load``, and how prompts are drawn."""
SHOWING = ("preview", "preview_file", "preview_by")
"""The options of a command that say where the picture is seen while it grows."""


def model_options(function: Any) -> Any:
    """Give a command the options that say which model, and how it is loaded."""
    return _with(_MODEL, function)


def output_options(function: Any) -> Any:
    """Give a command the options that say where pictures go and what is shown."""
    return _with(_OUTPUT, function)


def _with(options: tuple[Any, ...], function: Any) -> Any:
    for option in reversed(options):
        function = option(function)
    return function


def taken(values: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """Take ``names`` out of ``values``."""
    return {name: values.pop(name) for name in names}


def produce(
    task: Any, name: str, model: str | None, loading: dict[str, Any], showing: dict[str, Any], quiet: bool
) -> Any:
    """Load the model and run ``task``, the task ``name``, under a progress bar: the finished images."""
    from sfumato import api
    from sfumato.cli.render import Bar
    from sfumato.tasks.worded import drawn

    beside: Path | None = showing["preview_file"]
    if beside is not None:
        check_writable(targets(beside, 1), force=True)
    drawing = taken(loading, ("draw", "wildcards"))
    if drawing["wildcards"] is not None and drawing["draw"] is None:
        raise InvalidRequest("--wildcards goes with --draw, the seed that draws from the lists")
    if drawing["draw"] is not None:
        # What cannot be drawn is told before loading.
        (first, patterns, _), *_ = drawn(task, drawing["draw"], drawing["wildcards"])
        same = all(getattr(first, name, ()) == getattr(task, name, ()) for name in (*patterns, "prompts"))
        if same and not quiet:
            click.echo("note: --draw drew nothing: no prompt has {a|b} or __list__", err=True)
    for name in ("merged", "partial"):
        if loading[name] and not (loading["adapters"] or loading["adapters_in"]):
            raise InvalidRequest(f"--{name} is about adapters: it goes with --adapter or --adapters-in")
    if getattr(task, "embedded", None) is not None:
        loading["encoders"] = False
    loaded = api.load(model or "emoji", **loading)
    if showing["preview_by"] is not None:
        loaded.preview_by(showing["preview_by"])
    total = task.evaluations(loaded.model)
    with Bar(total, preview=showing["preview"], beside=beside, quiet=quiet) as bar:
        if drawing["draw"] is not None:
            return loaded.draw(task, drawing["draw"], drawing["wildcards"], bar.update)
        return loaded.run(task, bar.update)


def deliver(
    made: Callable[[], Any], out: Path, count: int, *, force: bool, as_json: bool, notes: tuple[str, ...] = ()
) -> None:
    """Check the names of ``count`` pictures, make them, write them and the sheet, and say what was written."""
    names = targets(out, count)
    check_writable(names, force)
    began = time.monotonic()
    images = made()
    seconds = time.monotonic() - began
    for name, picture in zip(names, images.images, strict=False):
        picture.save(name)
    if count > 1:
        from sfumato.picture.png import save_png
        from sfumato.picture.sheet import contact_sheet

        captions = [caption(p.recipe.arguments) for p in images.images]
        save_png(names[-1], contact_sheet([p.pixels for p in images.images], captions))
    for note in (*notes, *images.notes):
        click.echo(f"note: {note}", err=True)
    report(names, images, seconds, as_json)


def caption(arguments: dict[str, Any]) -> str:
    """What a picture of many is called: its variation, its seed, or its number."""
    if arguments.get("pick"):
        return f"number {arguments['pick']}"
    name = "variation" if "variation" in arguments else "seed"
    return f"{name} {arguments[name]}"


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


def file_name(prompt: str) -> str:
    """A short file name from a prompt: letters and digits of its first words."""
    words = "".join(c if c.isascii() and c.isalnum() else " " for c in prompt.lower()).split()
    return ("-".join(words)[:60].rstrip("-") or "picture") + ".png"


def targets(out: Path, count: int) -> list[Path]:
    """The files for ``count`` pictures: ``out`` itself, or numbered ones and the sheet as the last."""
    if out.suffix.lower() != ".png":
        raise InvalidRequest(
            f"the name {str(out)!r} is not allowed: pictures are PNG files, so end it in .png"
        )
    if count == 1:
        return [out]
    digits = len(str(count))
    numbered = [out.with_stem(f"{out.stem}-{i:0{digits}d}") for i in range(1, count + 1)]
    return [*numbered, out.with_stem(f"{out.stem}-sheet")]


def check_writable(names: list[Path], force: bool) -> None:
    """Refuse before any work: a missing folder, a folder in the way, files that exist."""
    from sfumato.files import check_folder

    check_folder(names[0].parent, names[0].name)
    for name in names:
        if name.is_dir():
            raise OutputError(f"cannot write {name}: it is a folder; give a file name")
        if name.exists() and not force:
            raise InvalidRequest(f"{name} exists; choose another --out, or --force to replace it")
