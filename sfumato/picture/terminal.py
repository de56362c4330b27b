"""A preview of a picture in the terminal: half blocks in 24-bit colour."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TextIO

from PIL import Image

from sfumato.errors import InvalidRequest
from sfumato.picture.images import Picture, to_rgb

_RESET = "\x1b[0m"
_UPPER_HALF = "▀"


def show(picture: Picture, *, colour: bool, columns: int = 64) -> str:
    """``picture`` as lines of text, at most ``columns`` characters wide; each character is two pixels high.

    Without ``colour`` (see ``supports_colour``) there is nothing to show, and the text is empty. Pictures are
    made smaller as needed, never larger.
    """
    if columns < 1:
        raise InvalidRequest(f"a preview must be at least 1 column wide, not {columns}")
    if not colour:
        return ""
    image = to_rgb(picture)
    if image.width > columns:
        height = max(1, round(image.height * columns / image.width))
        image = image.resize((columns, height), Image.Resampling.BOX)
    data, width = image.tobytes(), 3 * image.width
    rows = [data[start : start + width] for start in range(0, len(data), width)]
    return "".join(_line(upper, lower) for upper, lower in zip(rows[::2], [*rows[1::2], b""], strict=False))


def supports_colour(stream: TextIO, environment: Mapping[str, str]) -> bool:
    """Whether a preview can be shown on ``stream``: a terminal, not TERM=dumb, and NO_COLOR not set."""
    if environment.get("NO_COLOR") or environment.get("TERM", "dumb") == "dumb":
        return False
    return stream.isatty()


def _line(upper: bytes, lower: bytes) -> str:
    """One line of text for two rows of RGB bytes; an empty lower row keeps the terminal's background."""
    cells = []
    last = ""
    for start in range(0, len(upper), 3):
        escape = "\x1b[38;2;{};{};{}m".format(*upper[start : start + 3])
        if lower:
            escape += "\x1b[48;2;{};{};{}m".format(*lower[start : start + 3])
        cells.append(_UPPER_HALF if escape == last else escape + _UPPER_HALF)
        last = escape
    return "".join(cells) + _RESET + "\n"
