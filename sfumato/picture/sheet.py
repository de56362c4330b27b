"""Contact sheets: many pictures in a grid, each with a caption under it."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from sfumato.errors import InvalidRequest
from sfumato.picture.images import Picture, check_size, to_rgb

GAP = 8
"""White pixels around and between the cells."""

FONT_SIZE = 12
"""Height of the captions' font in pixels."""

LINE_HEIGHT = 15
"""Pixels from one line of a caption to the next."""

MAX_LINES = 4
"""Longer captions are cut and end in three dots."""

_LONGEST = 1000
_DOTS = "..."


def contact_sheet(
    pictures: Sequence[Picture],
    captions: Sequence[str] | None = None,
    columns: int | None = None,
    *,
    scale: int = 1,
) -> Image.Image:
    """Lay ``pictures`` out row by row on white, each ``scale`` times as large (pixels repeated).

    All cells are as wide and high as the largest picture, with GAP pixels between them; smaller pictures are
    centred across their cell, at its top. Captions are wrapped under the cells, and a row is as high as its
    longest caption needs. Without ``columns`` the grid is about square.
    """
    if not pictures:
        raise InvalidRequest("a contact sheet needs at least one picture")
    if captions is not None and len(captions) != len(pictures):
        raise InvalidRequest(f"{len(pictures)} pictures need as many captions, not {len(captions)}")
    if scale < 1 or (columns is not None and columns < 1):
        raise InvalidRequest(f"columns and scale must be at least 1, not {columns} and {scale}")
    images = [to_rgb(picture) for picture in pictures]
    across = min(columns or math.ceil(math.sqrt(len(images))), len(images))
    rows = [range(start, min(start + across, len(images))) for start in range(0, len(images), across)]
    cell_width = scale * max(image.width for image in images)
    cell_height = scale * max(image.height for image in images)

    font = ImageFont.load_default(size=FONT_SIZE)
    texts = [wrap(caption, cell_width, font) for caption in captions or [""] * len(images)]
    text_heights = [LINE_HEIGHT * max(len(texts[index]) for index in row) for row in rows]
    width = GAP + across * (cell_width + GAP)
    height = GAP + len(rows) * (cell_height + GAP) + sum(text_heights)
    check_size(width, height)

    sheet = Image.new("RGB", (width, height), "white")
    top = GAP
    for row, text_height in zip(rows, text_heights, strict=True):
        for column, index in enumerate(row):
            left = GAP + column * (cell_width + GAP)
            image = images[index]
            large = image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
            sheet.paste(large, (left + (cell_width - large.width) // 2, top))
            label = Image.new("RGB", (cell_width, text_height), "white")  # clips what a glyph sticks out
            for number, line in enumerate(texts[index]):
                ImageDraw.Draw(label).text((0, number * LINE_HEIGHT), line, "black", font)
            sheet.paste(label, (left, top + cell_height))
        top += cell_height + text_height + GAP
    return sheet


def wrap(caption: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    """Break ``caption`` into at most MAX_LINES lines no wider than ``width``, between words if possible."""
    lines: list[str] = []
    for paragraph in caption[:_LONGEST].splitlines():
        line = ""
        for word in paragraph.split():
            rest = word
            if line and font.getlength(f"{line} {word}") <= width:
                line, rest = f"{line} {word}", ""
            elif line:
                lines.append(line)
                line = ""
            while rest:
                fitting = _fitting(rest, width, font)
                line, rest = rest[:fitting], rest[fitting:]
                if rest:
                    lines.append(line)
        if line:
            lines.append(line)
    if len(lines) > MAX_LINES or len(caption) > _LONGEST:
        lines = lines[:MAX_LINES]
        room = width - math.ceil(font.getlength(_DOTS))
        lines[-1] = lines[-1][: _fitting(lines[-1], room, font)] + _DOTS
    return lines


def _fitting(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> int:
    """How many characters of ``text``, at least one, fit into ``width`` pixels."""
    lengths = range(1, len(text) + 1)
    return max(1, bisect_right(lengths, width, key=lambda count: math.ceil(font.getlength(text[:count]))))
