"""What ``sfumato data`` does, as functions that return values."""

from __future__ import annotations

import os
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sfumato.data.compose import augment, background, caption, colour, on_background
from sfumato.data.decode import Pixels
from sfumato.data.pictures import PictureSet, open_pictures
from sfumato.errors import DataError, InvalidRequest

SAMPLE = 200
"""Pictures that ``describe`` decodes to learn their sizes."""

CELL, WORDS, MARGIN = 128, 40, 6
MOST_ON_SHEET = 400


def describe(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What the pictures at ``path`` are: counts of splits, styles, groups, licences, sizes; their hash.

    Sizes are those of up to 200 pictures, evenly spread.
    """
    pictures = open_pictures(path)
    records = pictures.records
    sample = np.unique(np.linspace(0, len(pictures) - 1, SAMPLE).astype(int)).tolist()
    shapes = (pictures.read(i).shape for i in sample)
    return {
        "path": str(pictures.path),
        "pictures": len(pictures),
        "captions": sum(len(r.captions) for r in records),
        "labels": len({r.label for r in records}),
        "families": len({r.family for r in records}),
        "flippable": sum(r.flippable for r in records),
        "splits": _counts(r.split for r in records),
        "styles": _counts(r.style for r in records),
        "groups": _counts(r.group for r in records),
        "licences": _counts(r.licence for r in records),
        "attributions": _counts(r.attribution for r in records),
        "sizes": _counts(f"{width}x{height}" for height, width, _ in shapes),
        "sha256": pictures.sha256(),
    }


def _counts(values: Iterable[str]) -> dict[str, int]:
    return dict(Counter(values).most_common())


def check(path: str | os.PathLike[str], progress: Callable[[int, int], None] | None = None) -> dict[str, Any]:
    """Decode every picture: ``{"path", "pictures", "damaged": [sentence, ...]}``.

    ``progress`` is called with how many are done, and of how many.
    """
    pictures = open_pictures(path)
    damaged = []
    for index in range(len(pictures)):
        try:
            pictures.read(index)
        except DataError as error:
            damaged.append(str(error))
        if progress:
            progress(index + 1, len(pictures))
    return {"path": str(pictures.path), "pictures": len(pictures), "damaged": damaged}


def sheet(path: str | os.PathLike[str], n: int = 24, seed: int = 0) -> Image.Image:
    """A contact sheet of ``n`` random pictures as training sees them: placed, on a colour, with a caption."""
    if not 1 <= n <= MOST_ON_SHEET:
        raise InvalidRequest(f"a sheet has from 1 to {MOST_ON_SHEET} pictures, not {n}")
    pictures = open_pictures(path)
    rng = np.random.default_rng(seed)
    chosen = rng.choice(len(pictures), min(n, len(pictures)), replace=False).tolist()
    cells = [_cell(pictures, index, rng) for index in chosen]
    columns = min(len(cells), max(1, round((1.6 * len(cells)) ** 0.5)))
    rows = -(-len(cells) // columns)
    page = Image.new("RGB", (columns * (CELL + MARGIN), rows * (CELL + WORDS + MARGIN)), "white")
    for place, cell in enumerate(cells):
        down, across = divmod(place, columns)
        page.paste(cell, (across * (CELL + MARGIN), down * (CELL + WORDS + MARGIN)))
    return page


def _cell(pictures: PictureSet, index: int, rng: np.random.Generator) -> Image.Image:
    record, behind = pictures.records[index], background(rng)
    words = caption(record, rng, behind)
    seen = on_background(augment(pictures.read(index), record, rng), colour(behind))
    cell = Image.new("RGB", (CELL, CELL + WORDS), "white")
    small = _fitted(seen)
    cell.paste(small, ((CELL - small.width) // 2, (CELL - small.height) // 2))
    lines = textwrap.wrap(words, 24, max_lines=3, placeholder=" ...")
    ImageDraw.Draw(cell).text((0, CELL + 1), "\n".join(lines), "black", ImageFont.load_default(10), spacing=1)
    return cell


def _fitted(pixels: Pixels) -> Image.Image:
    image = Image.fromarray(pixels)
    scale = CELL / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.NEAREST if scale >= 2 else Image.Resampling.LANCZOS)


def build_emoji(
    out: str | os.PathLike[str],
    cache: str | os.PathLike[str],
    sets: Sequence[str] = (),
    workers: int = 1,
) -> dict[str, Any]:
    """Draw the default corpus into the folder ``out`` (see ``sfumato.data.emoji.build``)."""
    from sfumato.data.emoji.build import build

    made = asdict(build(out, cache, sets, workers))
    return {key: str(value) if isinstance(value, Path) else value for key, value in made.items()}
