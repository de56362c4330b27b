import io
import re

import numpy as np
import pytest
from PIL import Image

from sfumato.errors import InvalidRequest
from sfumato.picture.terminal import show, supports_colour


def decoded(text: str) -> np.ndarray:
    """What a terminal would show, as pixels; rows without a lower half keep -1 there."""
    rows = []
    for line in text.splitlines():
        assert line.endswith("\x1b[0m")
        upper, lower, now, below = [], [], (-1, -1, -1), (-1, -1, -1)
        for layer, colour, block in re.findall(r"\x1b\[([34])8;2;(\d+;\d+;\d+)m|(▀)", line):
            if block:
                upper.append(now)
                lower.append(below)
            elif layer == "3":
                now = tuple(map(int, colour.split(";")))
            else:
                below = tuple(map(int, colour.split(";")))
        rows += [upper, lower]
    return np.array(rows)


@pytest.mark.parametrize("height", [2, 5, 6])
def test_every_pixel_is_shown(height: int) -> None:
    picture = np.random.default_rng(0).integers(0, 2, (height, 9, 3), dtype=np.uint8) * 255
    pixels = decoded(show(picture, colour=True))
    assert np.array_equal(pixels[:height], picture)
    assert (pixels[height:] == -1).all()


def test_large_pictures_are_made_smaller() -> None:
    pixels = decoded(show(Image.new("RGB", (640, 320), "red"), colour=True, columns=20))
    assert pixels.shape == (10, 20, 3)
    assert (pixels == (255, 0, 0)).all()
    assert decoded(show(Image.new("L", (1000, 1)), colour=True, columns=1)).shape == (2, 1, 3)


def test_equal_neighbours_share_their_colours() -> None:
    assert show(Image.new("RGB", (3, 1)), colour=True) == "\x1b[38;2;0;0;0m▀▀▀\x1b[0m\n"


def test_nothing_without_colour() -> None:
    assert show(Image.new("RGB", (3, 1)), colour=False) == ""
    with pytest.raises(InvalidRequest):
        show(Image.new("RGB", (3, 1)), colour=True, columns=0)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_who_supports_colour() -> None:
    xterm = {"TERM": "xterm-256color"}
    assert supports_colour(Terminal(), xterm)
    assert supports_colour(Terminal(), xterm | {"NO_COLOR": ""})
    assert not supports_colour(io.StringIO(), xterm)
    assert not supports_colour(Terminal(), xterm | {"NO_COLOR": "1"})
    assert not supports_colour(Terminal(), {"TERM": "dumb"})
    assert not supports_colour(Terminal(), {})
