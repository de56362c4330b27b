"""The whole corpus, in order: fetch, name, render, split, write."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from sfumato.data.emoji.names import load_names
from sfumato.data.emoji.packages import PackageCache
from sfumato.data.emoji.render import Picture, need_renderer, picture
from sfumato.data.emoji.sets import SETS, Drawing, EmojiSet, drawings
from sfumato.data.emoji.splits import assign, twins
from sfumato.errors import InvalidRequest, OutputError, UnknownName
from sfumato.files import why_unwritable, write_atomic, write_bytes

SIDE = 128
TAR, LINES = f"emoji-{SIDE}.tar", "emoji.jsonl"
REFERENCE_SHA256 = "afb91d17d7403a4f55ca8de1ba78be788b03c042c8b5575f93cee53978edd794"
"""The hash of the tar that the shipped weights were trained on. Another version of the WebP encoder may give
other bytes for the same pixels."""

Render: TypeAlias = Callable[[Iterable[str | bytes]], Iterable[Picture | None]]


@dataclass(frozen=True, slots=True)
class Built:
    """What a build wrote; ``reference`` says whether the tar is the reference corpus to the byte."""

    tar: Path
    lines: Path
    pictures: int
    left_out: int
    splits: dict[str, int]
    sha256: str
    reference: bool


@dataclass(frozen=True, slots=True)
class _Entry:
    row: dict[str, Any]
    picture: Picture


def build(
    out: str | os.PathLike[str],
    cache: str | os.PathLike[str],
    sets: Sequence[str] = (),
    workers: int = 1,
    console: Console | None = None,
) -> Built:
    """Write ``emoji-128.tar`` and ``emoji.jsonl`` into the folder ``out``; packages are kept in ``cache``.

    ``sets`` limits the build to some sets; the splits then differ from the corpus's, as they depend on how
    many styles a family has. Needs npm and the extra ``train``, and about 15 minutes of one core, shared by
    ``workers`` processes. Each file appears whole, at the end, or not at all.
    """
    chosen = _chosen(sets)
    if workers < 1:
        raise InvalidRequest(f"a build has 1 worker or more, not {workers}")
    need_renderer()
    folder = _writable(Path(out))
    packages = PackageCache(Path(cache))
    with _progress(console) as progress, _renderer(workers) as render:
        names = load_names(packages)
        everything = [drawing for one in chosen for drawing in drawings(one, names, packages)]
        entries = _entries([d for d in everything if not d.toned], render, progress)
        toned = [d for d in everything if d.toned]
        assign([e.row for e in entries], [_member(e.row) for e in entries] + [_member(d.row) for d in toned])
        _return_twins(entries, toned, render)
    left_out = len(everything) - len(toned) - len(entries)
    return _write(folder, entries, left_out)


def _chosen(names: Sequence[str]) -> list[EmojiSet]:
    known = [one.name for one in SETS]
    for name in names:
        if name not in known:
            raise UnknownName("emoji set", name, known)
    return [one for one in SETS if not names or one.name in names]


def _writable(folder: Path) -> Path:
    """The folder, created if need be; refuse now rather than after a quarter of an hour."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(why_unwritable(folder, error)) from error
    if not os.access(folder, os.W_OK):
        raise OutputError(f"cannot write in {folder}: no permission; choose another folder")
    return folder


def _progress(console: Console | None) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console or Console(stderr=True), transient=True)


@contextmanager
def _renderer(workers: int) -> Iterator[Render]:
    draw = partial(picture, side=SIDE)
    if workers == 1:
        yield partial(map, draw)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        try:
            yield partial(pool.map, draw, chunksize=8)
        finally:
            pool.shutdown(cancel_futures=True)


def _member(row: dict[str, Any]) -> tuple[str, str]:
    return row["family"], row["set"]


def _entries(plain: list[Drawing], render: Render, progress: Progress) -> list[_Entry]:
    """The drawings that are not empty, rendered, each naming the first of its set that equals it."""
    first: dict[tuple[str, str], str] = {}
    entries = []
    task = progress.add_task("drawing", total=len(plain))
    for drawing, done in zip(plain, render(d.source for d in plain), strict=True):
        progress.advance(task)
        if done is None:
            continue
        row = dict(drawing.row)
        original = first.setdefault((row["set"], done.digest), row["id"])
        if original != row["id"]:
            row["same_as"] = original
        row["file"] = f"{row['id']}.webp"
        entries.append(_Entry(row, done))
    return entries


def _return_twins(entries: list[_Entry], toned: list[Drawing], render: Render) -> None:
    """Move held-out pictures that have a near twin in train, or are one of their own skin tones, to train."""
    tested = {_member(e.row) for e in entries if e.row["split"] == "val"}
    siblings = [d for d in toned if _member(d.row) in tested]
    shades = [
        (d.row["set"], p.thumb)
        for d, p in zip(siblings, render(d.source for d in siblings), strict=True)
        if p is not None
    ]
    for name in {e.row["set"] for e in entries}:
        ours = [e for e in entries if e.row["set"] == name]
        held_out = [e for e in ours if e.row["split"] != "train"]
        train = [e.picture.thumb for e in ours if e.row["split"] == "train"]
        train += [thumb for of, thumb in shades if of == name]
        if held_out and train:
            near = twins(np.stack([e.picture.thumb for e in held_out]), np.stack(train))
            for entry in (e for e, is_twin in zip(held_out, near, strict=True) if is_twin):
                entry.row.update(split="train", twin=True)


def _write(folder: Path, entries: list[_Entry], left_out: int) -> Built:
    tar = write_atomic(folder / TAR, partial(_write_tar, entries))
    text = "".join(json.dumps(e.row, ensure_ascii=False) + "\n" for e in entries)
    lines = write_bytes(folder / LINES, text.encode())
    with open(tar, "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    splits = dict(Counter(e.row["split"] for e in entries))
    return Built(tar, lines, len(entries), left_out, splits, sha256, sha256 == REFERENCE_SHA256)


def _write_tar(entries: list[_Entry], file: BinaryIO) -> None:
    """The pictures one after the other; each row learns where its bytes lie."""
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for entry in entries:
            info = tarfile.TarInfo(entry.row["file"])
            info.size, info.mode = len(entry.picture.data), 0o644
            entry.row["offset"], entry.row["size"] = tar.offset + tarfile.BLOCKSIZE, info.size
            tar.addfile(info, io.BytesIO(entry.picture.data))
