"""A set of synthetic pictures from a set of pictures: each one changed a few times, its labels kept."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from string import Formatter
from types import SimpleNamespace
from typing import Any

from sfumato.data.compose import BACKGROUNDS, on_background
from sfumato.data.folder import METADATA
from sfumato.data.pictures import PictureSet, open_pictures
from sfumato.data.record import Record
from sfumato.errors import DataError, InvalidRequest, OutputError
from sfumato.files import write_bytes
from sfumato.loaded import Loaded
from sfumato.picture.png import read_recipe, save_png
from sfumato.tasks.table import request

WORDS = ("caption", "label", "style", "group")
"""What a prompt's template may name."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a set is made larger: ``times`` new pictures of each of ``split`` (all if empty), by Image2Image.

    ``prompt`` is a template of the fields WORDS, ``"{caption}"``; ``options`` are fields of Image2Image. With
    ``originals`` the pictures themselves are among the result.
    """

    times: int = 4
    prompt: str = "{caption}"
    seed: int = 0
    split: str = ""
    limit: int | None = None
    originals: bool = False
    options: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Job:
    """One picture of the set and what becomes of it: files below the new folder, and the task's fields."""

    index: int
    record: Record
    files: tuple[PurePosixPath, ...]
    original: PurePosixPath | None
    fields: Mapping[str, Any]


def planned(source: PictureSet, plan: Plan) -> list[Job]:
    """The work in order, each file's name once.

    InvalidRequest for a plan that cannot be, DataError for names that lead out of a folder.
    """
    if not 1 <= plan.times <= 1000:
        raise InvalidRequest(f"times = {plan.times} is not allowed: from 1 to 1000")
    if plan.limit is not None and plan.limit < 1:
        raise InvalidRequest(f"limit = {plan.limit} is not allowed: 1 and above, or leave it out")
    found = [(k, r) for k, r in enumerate(source.records) if plan.split in ("", r.split)]
    if not found:
        splits = ", ".join(sorted({r.split for r in source.records}))
        raise InvalidRequest(f"split = {plan.split!r} has no pictures; there are {splits}")
    jobs: list[Job] = []
    taken: set[PurePosixPath] = set()
    for place, (index, record) in enumerate(found[: plan.limit]):
        stem = PurePosixPath(record.id).with_suffix("")
        if stem.is_absolute() or ".." in stem.parts or not stem.name:
            raise DataError(
                f"the picture {record.id!r} of {source.path} has a name that leads out of a folder"
            )
        name, number = stem.name, index
        while not taken.isdisjoint(names := _files(stem, plan)):
            stem, number = stem.with_name(f"{name}-{number}"), number + 1
        taken.update(names)
        fields = {
            **plan.options,
            "prompt": _prompt(plan.prompt, record),
            "seed": plan.seed + place * plan.times,
            "count": plan.times,
        }
        original = names[plan.times] if plan.originals else None
        jobs.append(
            Job(index=index, record=record, files=names[: plan.times], original=original, fields=fields)
        )
    return jobs


def _files(stem: PurePosixPath, plan: Plan) -> tuple[PurePosixPath, ...]:
    """The files of a picture called ``stem``: the new ones, then the picture itself where it is asked for."""
    ends = [f"-a{k + 1}" for k in range(plan.times)] + [""] * plan.originals
    return tuple(stem.with_name(f"{stem.name}{end}.png") for end in ends)


def _prompt(template: str, record: Record) -> str:
    told = dict(zip(WORDS, (record.captions[0], record.label, record.style, record.group), strict=True))
    try:
        for _, field, form, turned in Formatter().parse(template):
            if field is not None and (field not in told or form or turned):
                raise ValueError(f"{field!r} is none of them")
        return template.format(**told)
    except ValueError as error:
        raise InvalidRequest(
            f"prompt = {template!r} is not a template of {', '.join('{' + word + '}' for word in WORDS)}: {error}"
        ) from error


def check_out(source: str | os.PathLike[str], out: str | os.PathLike[str], resume: bool) -> Path:
    """The folder ``out``; OutputError if it is not empty (unless in ``resume``), or within the set itself."""
    folder = Path(out)
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not resume)):
        raise OutputError(
            f"{folder} is there and not empty: choose another folder, or go on in it with resume"
        )
    if folder.resolve().is_relative_to(Path(source).resolve()):
        raise OutputError(f"{folder} lies in the set {source}, to which it would add: choose another folder")
    return folder


def augment(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    model: Loaded,
    plan: Plan,
    *,
    resume: bool = False,
    listen: Callable[[int, int], None] = lambda done, of: None,
) -> dict[str, Any]:
    """Write the folder ``out``: new pictures under their parents' names, and ``metadata.jsonl`` with their labels.

    Each new picture carries its recipe with its parent's hash, each line of metadata the record and the ``parent``.
    ``listen(done, of)`` is told of pictures made. With ``resume`` pictures that are there already, by the same
    plan, stay. Raises what ``planned`` and ``check_out`` do, OutputError where ``out`` cannot be written, and
    InvalidRequest where a picture in it was made by another plan. Returns how many pictures were made and kept.
    """
    pictures, folder = open_pictures(source), check_out(source, out, resume)
    jobs = planned(pictures, plan)
    made = kept = 0
    lines: list[str] = []
    total = len(jobs) * plan.times
    for job in jobs:
        pixels = on_background(pictures.read(job.index), BACKGROUNDS["white"])
        task, _ = request("image2image", image=pixels, **job.fields)
        there = [resume and _same(folder / file, task, k) for k, file in enumerate(job.files)]
        if not all(there):
            images = model.run(task).images
            for file, picture, done in zip(job.files, images, there, strict=True):
                if not done:
                    _ready(folder / file)
                    picture.save(folder / file)
            made += there.count(False)
        kept += there.count(True)
        lines += _lines(job, task.image.hash)
        if job.original is not None:
            _ready(folder / job.original)
            save_png(folder / job.original, pixels)
        listen(made + kept, total)
    write_bytes(folder / METADATA, "".join(f"{line}\n" for line in lines).encode())
    return {"out": str(folder), "pictures": len(jobs), "made": made, "kept": kept, "lines": len(lines)}


def _same(file: Path, task: Any, row: int) -> bool:
    """Whether ``file`` is there, the picture ``row`` of ``task``; InvalidRequest if it was made otherwise."""
    if not file.exists():
        return False
    told: Mapping[str, Any] = read_recipe(file).arguments
    of_model = SimpleNamespace(steps=None, sampler=None, grid=None, guidance=None, guide=None)
    wanted = {
        name: value
        for name, value in task.resolved(of_model).items()
        if name not in ("seed", "count", "pick") and value is not None
    }
    # Noise of a seed each counts seeds, other noise keeps the first seed and counts pictures.
    seed = told.get("seed", 0) + (told.get("pick") or 1) - 1
    if seed != task.seed + row or any(told.get(name) != value for name, value in wanted.items()):
        raise InvalidRequest(f"{file} was made by another plan: give the same options, or another folder")
    return True


def _lines(job: Job, parent_hash: str) -> Iterator[str]:
    """What is known of each picture of ``job``, as JSON: its parent's record under its own name."""
    record = job.record
    known: dict[str, Any] = {
        "label": record.label,
        "captions": list(record.captions),
        "style": record.style,
        "split": record.split,
        "group": record.group,
        "family": record.family,
        "license": record.licence,
        "attribution": record.attribution,
        "flippable": record.flippable,
        "tags": list(record.tags),
        "w": record.weight,
    }
    parent = {"parent": record.id, "parent_sha256": parent_hash, "synthetic": True}
    if job.original is not None:
        yield json.dumps({"file_name": str(job.original), **known}, ensure_ascii=False)
    for file in job.files:
        yield json.dumps({"file_name": str(file), **known, **parent}, ensure_ascii=False)


def _ready(file: Path) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write {file}: {error.strerror or error}") from error
