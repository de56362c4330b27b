import numpy as np
import pytest
from PIL import Image, ImageFont

from sfumato.errors import InvalidRequest
from sfumato.picture.sheet import FONT_SIZE, GAP, LINE_HEIGHT, MAX_LINES, contact_sheet, wrap

RNG = np.random.default_rng(0)


def noise(height: int, width: int) -> np.ndarray:
    # Never white, so that what is left of the sheet can be told from it.
    return RNG.integers(0, 200, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("scale", [1, 2, 3])
def test_geometry_is_exact(scale: int) -> None:
    pictures = [noise(8, 10) for _ in range(5)]
    sheet = np.asarray(contact_sheet(pictures, columns=2, scale=scale)).copy()
    high, wide = 8 * scale, 10 * scale
    assert sheet.shape == (GAP + 3 * (high + GAP), GAP + 2 * (wide + GAP), 3)
    for index, picture in enumerate(pictures):
        top, left = GAP + index // 2 * (high + GAP), GAP + index % 2 * (wide + GAP)
        cell = sheet[top : top + high, left : left + wide]
        assert np.array_equal(cell, picture.repeat(scale, 0).repeat(scale, 1))
        cell[:] = 255
    assert (sheet == 255).all()


def test_smaller_pictures_are_centred_at_the_top() -> None:
    sheet = np.asarray(contact_sheet([np.zeros((8, 10, 3), np.uint8), np.zeros((4, 4, 3), np.uint8)]))
    left = GAP + 10 + GAP
    black = (sheet[:, left:] == 0).all(2)
    assert black.sum() == 16
    assert black[GAP : GAP + 4, 3:7].all()


def test_rows_are_as_high_as_their_captions_need() -> None:
    pictures = [noise(64, 64) for _ in range(4)]
    sheet = np.asarray(contact_sheet(pictures, ["", "one\ntwo", "", "x"], 2))
    assert sheet.shape[0] == 3 * GAP + 2 * 64 + 2 * LINE_HEIGHT + LINE_HEIGHT
    second_row = GAP + 64 + 2 * LINE_HEIGHT + GAP
    assert np.array_equal(sheet[second_row : second_row + 64, GAP : GAP + 64], pictures[2])
    under = sheet[GAP + 64 : GAP + 64 + 2 * LINE_HEIGHT]
    assert (under[:, : 2 * GAP + 64] == 255).all()
    for line in (under[:LINE_HEIGHT], under[LINE_HEIGHT:]):
        assert (line[:, 2 * GAP + 64 :] < 100).any()


def test_captions_stay_inside_their_cells() -> None:
    caption = "WWWWWWWWWWWWWWWWWWWWWWWWW gypsum jjjj " * 5
    sheet = np.asarray(contact_sheet([noise(64, 64)] * 2, [caption, caption]))
    text = sheet[GAP + 64 :]
    assert text.shape[0] == MAX_LINES * LINE_HEIGHT + GAP
    for gap in (text[:, :GAP], text[:, GAP + 64 : 2 * GAP + 64], text[:, -GAP:]):
        assert (gap == 255).all()


def test_wrapping() -> None:
    font = ImageFont.load_default(size=FONT_SIZE)
    assert wrap("", 64, font) == []
    assert wrap("a red  circle\n on blue", 400, font) == ["a red circle", "on blue"]
    lines = wrap("a small red circle on blue", 64, font)
    assert " ".join(lines) == "a small red circle on blue"
    assert "".join(wrap("m" * 20, 64, font)) == "m" * 20
    for text in ("word " * 100_000, "x" * 500_000, "a\n" * 9, "日本語" * 99):
        lines = wrap(text, 64, font)
        assert len(lines) == MAX_LINES
        assert lines[-1].endswith("...")
        assert all(font.getlength(line) <= 64 for line in lines)
    assert wrap("abc", 1, font) == ["a", "b", "c"]


@pytest.mark.parametrize(("count", "size"), [(1, (1, 1)), (2, (2, 1)), (4, (2, 2)), (5, (3, 2))])
def test_the_grid_is_about_square(count: int, size: tuple[int, int]) -> None:
    sheet = contact_sheet([Image.new("RGBA", (4, 4))] * count)
    assert sheet.size == tuple(GAP + number * (4 + GAP) for number in size)
    assert contact_sheet([noise(4, 4)] * count, columns=99).size == (GAP + count * (4 + GAP), 4 + 2 * GAP)


@pytest.mark.parametrize(
    "arguments",
    [
        {"pictures": []},
        {"captions": ["a", "b"]},
        {"columns": 0},
        {"scale": 0},
        {"scale": 5000},
    ],
)
def test_bad_requests(arguments: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest):
        contact_sheet(**({"pictures": [noise(4, 4)]} | arguments))  # type: ignore[arg-type]
