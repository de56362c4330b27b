"""``sfumato inspect``: what a file or folder of weights is, from its headers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sfumato.errors import WeightsError

if TYPE_CHECKING:
    from sfumato.families.inspect import Report
    from sfumato.weights.source import Source

PICTURES = (".png", ".webp", ".gif", ".jpg", ".jpeg")
"""The endings of files that are looked at as pictures."""
_LONGEST = 100  # characters of a metadata text that are shown


@click.command()
@click.argument("path")
@click.option("--hash", "hashes", is_flag=True, help="also the files' sha256, which reads every byte of them")
@click.option("--variant", default=None, help='which of a folder\'s files, such as "fp16"')
@click.option("--allow-pickle", is_flag=True, help="open .ckpt and .bin files, in a process of their own")
@click.option(
    "--part",
    "parts",
    multiple=True,
    type=click.Path(path_type=Path),
    help="a file with another network of the same checkpoint (may be repeated)",
)
@click.option("--json", "as_json", is_flag=True, help="print JSON instead of text")
def command(
    path: str,
    hashes: bool,
    variant: str | None,
    allow_pickle: bool,
    parts: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Say what the weights at PATH are: family, variant, networks, dtypes, prediction, licence; or an adapter.

    PATH is a file, a folder, or the name of a hub model in the local cache. Only headers are read, so the answer
    comes at once, whatever the size; adapters are read whole, to tell one that was not trained. Of a picture the
    recipe is shown, or what another program says of it; of a file of embedded prompts, which they are.
    """
    if Path(path).suffix.lower() in PICTURES:
        from sfumato.cli import pictured

        told = pictured.about(Path(path))
        click.echo(json.dumps(told, ensure_ascii=False) if as_json else "\n".join(pictured.lines(told)))
        return
    from sfumato.families.foreign import about as foreign
    from sfumato.families.inspect import inspect
    from sfumato.weights.hub import resolve
    from sfumato.weights.source import open_source

    with ExitStack() as stack:
        place = resolve(path)
        if parts or is_loose(place, variant):
            from sfumato.families.split import assembled, opened

            checkpoint = stack.enter_context(opened(place, parts, variant=variant, allow_pickle=allow_pickle))
            source = assembled(checkpoint)
        else:
            source = stack.enter_context(open_source(place, variant=variant, allow_pickle=allow_pickle))
        try:
            if (wrapped := foreign(source, hashes=hashes)) is not None:
                click.echo(
                    json.dumps(wrapped) if as_json else "\n".join(folder_lines(source.path.name, wrapped))
                )
                return
            report = inspect(source, hashes=hashes)
        except (
            WeightsError
        ):  # no network: an adapter, perhaps, or embedded prompts, which take torch to look at
            from sfumato.adapters.about import about

            if (found := embedded(source)) is None and (found := about(source)) is None:
                raise
            found |= {"sha256": source.hash()} if hashes else {}
            shown = embedded_lines if found["kind"] == "embedded" else adapter_lines
            click.echo(json.dumps(found) if as_json else "\n".join(shown(source.path.name, found)))
            return
    if as_json:
        click.echo(json.dumps(report.as_dict(), ensure_ascii=False))
    else:
        click.echo("\n".join(table(report)))


def table(report: Report) -> list[str]:
    """The lines of ``report`` for a person."""
    title = f"{report.title}, {report.variant}" if report.variant else report.title
    lines = [f"{Path(report.path).name}: {title}"]
    rows = [("layout", report.layout)]
    if report.prediction:
        rows.append(("predicts", f"{report.prediction} ({report.why})"))
    if report.packed:
        rows.append(("packed", f"{', '.join(report.packed)}; unpacked when loaded, or kept so with --packed"))
    rows += [("note", note) for note in report.notes]
    if report.licence:
        rows.append(("licence", report.licence))
    if report.missing:
        rows.append(("lacks", f"{', '.join(report.missing)}: no picture can be made of it alone"))
    if report.others:
        more = ", ..." if report.others > len(report.other_names) else ""
        rows.append(
            ("others", f"{report.others:,} tensors of no network: {', '.join(report.other_names)}{more}")
        )
    lines += [f"  {key:10}{value}" for key, value in rows]
    lines.append("")
    lines.append(
        f"  {'network':10}{'kind':7}{'layout':11}{'tensors':>8}{'parameters':>16}{'size':>11}  dtypes"
    )
    for one in report.components:
        kinds = ", ".join(
            name if len(one.dtypes) == 1 else f"{name} {count / max(1, one.parameters):.0%}"
            for name, count in one.dtypes.items()
        )
        lines.append(
            f"  {one.place:10}{one.kind:7}{one.layout:11}{one.tensors:8,}{one.parameters:16,}"
            f"{_size(one.bytes):>11}  {kinds}"
        )
    lines.append("")
    for file in report.files:
        lines.append(
            f"  {_size(file.bytes):>10}  {file.name}" + (f"  sha256 {file.sha256}" if file.sha256 else "")
        )
    if report.metadata:
        lines.append("")
        lines += [f"  {key}: {_short(value)}" for key, value in sorted(report.metadata.items())]
    return lines


def is_loose(place: Path, variant: str | None) -> bool:
    """Whether ``place`` is a folder of files that belong to no set, each a network of its own."""
    if not place.is_dir():
        return False
    from sfumato.families.split import loose

    return bool(loose(place, variant))


def embedded(source: Source) -> dict[str, Any] | None:
    """What a file of embedded prompts holds; None for a source that is none."""
    if len(source.files) != 1 or "prompt_embeds" not in source.entries:
        return None
    from sfumato.text.embedded import open_embedded, said

    file = open_embedded(source.files[0])
    rows = [
        {"prompt": said(one), **{door: list(file.entries[name].shape) for door, name in doors.items()}}
        for one, doors in file.rows.items()
    ]
    dtypes = sorted({entry.dtype for entry in file.entries.values()})
    return {
        "kind": "embedded",
        "family": file.family,
        "encoders": dict(file.encoders),
        "dtypes": dtypes,
        "rows": rows,
    }


def embedded_lines(name: str, told: Mapping[str, Any]) -> list[str]:
    """The lines of a file of embedded prompts for a person."""
    lines = [f"{name}: {len(told['rows'])} embedded prompts, {', '.join(told['dtypes'])}"]
    lines.append(f"  family    {told['family'] or 'not said: of another program'}")
    lines += [f"  encoder   {place} {value[:12]}..." for place, value in told["encoders"].items()]
    for row in told["rows"]:
        shapes = ", ".join(f"{door} {' x '.join(map(str, s))}" for door, s in row.items() if door != "prompt")
        lines.append(f"  {row['prompt']}: {shapes}")
    return lines


def folder_lines(name: str, told: Mapping[str, Any]) -> list[str]:
    """The lines of a folder that is read through diffusers for a person."""
    there = "not installed" if told["installed"] is None else f"{told['installed']} is installed"
    lacks = "" if told["known"] or told["installed"] is None else ", which does not have this class"
    rows = [
        ("pipeline", told["pipeline"]),
        ("denoiser", f"{told['denoiser']}, not native: read through diffusers"),
        ("needs", f"{told['needs']} (diffusers: {there}{lacks})"),
        *([("refused", told["refused"])] if told["refused"] else []),
        *(("note", note) for note in told["notes"]),
    ]
    lines = [f"{name}: {told['title']}", *(f"  {key:10}{value}" for key, value in rows), ""]
    for one in told["components"]:
        kinds = ", ".join(one["dtypes"])
        lines.append(
            f"  {one['name']:18}{one['class']:36}{one['tensors']:7,}{one['parameters']:16,}{_size(one['bytes']):>11}"
            f"  {kinds}"
        )
    return lines


def adapter_lines(name: str, told: Mapping[str, Any]) -> list[str]:
    """The lines of an adapter or a textual inversion for a person."""
    if told["kind"] == "embedding":
        shown = ", ".join(
            f"{count} of {width} for {place}" for place, (count, width) in told["vectors"].items()
        )
        return [f"{name}: textual inversion {told['name']!r}", f"  vectors   {shown}"]
    base = ", ".join(f"{value} ({key})" for key, value in told["base"].items())
    rows = {
        "family": told["family"],
        "base": base,
        "layout": told["layout"],
        "updates": ", ".join(f"{count} {algorithm}" for algorithm, count in told["algorithms"].items()),
        "rank": ", ".join(map(str, told["ranks"])),
        "scale": ", ".join(f"{scale:g}" for scale in told["scales"]),
        "networks": ", ".join(f"{place} {count}" for place, count in told["networks"].items()),
        "dtypes": ", ".join(told["dtypes"]),
        "size": _size(told["bytes"]),
        "title": _short(told["title"]),
        "trigger": _short(told["trigger"]),
        "predicts": _short(told["predicts"]),
        "padding": told["padding"] and f"T5's {told['padding']} in training",
        "sha256": told.get("sha256", ""),
    }
    lines = [f"{name}: adapter of {told['layers']:,} layers"]
    lines += [f"  {key:10}{value}" for key, value in rows.items() if value]
    return [*lines, *(f"  note      {note}" for note in told["notes"])]


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}... ({len(text):,} characters)"


def _size(count: int) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000  # type: ignore[assignment]
    return f"{count:.2f} GB"
