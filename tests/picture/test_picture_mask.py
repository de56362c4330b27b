from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from scipy import ndimage

from sfumato.errors import InvalidRequest
from sfumato.picture.mask import blur, grown, read_mask
from sfumato.picture.read import read_picture
from sfumato.picture.shapes import is_form, parse_mask

DRAWN = np.random.default_rng(0)
GREY = DRAWN.integers(0, 256, (12, 20), np.uint8)
SIZE = (20, 12)
MASKS = hnp.arrays(np.bool_, st.tuples(st.integers(1, 12), st.integers(1, 12))).filter(np.any)
WHOLE = st.integers(-10, 50)


def saved(array: np.ndarray, kind: str = "PNG", mode: str | None = None) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "RGBA"])
def test_white_in_a_file_is_new(mode: str, tmp_path: Path) -> None:
    (tmp_path / "mask.png").write_bytes(saved(GREY, mode=mode))
    mask = read_mask(str(tmp_path / "mask.png"), SIZE)
    assert mask.dtype == np.float32
    assert np.array_equal(mask, GREY.astype(np.float32) / np.float32(255))


def test_arrays_of_every_kind_are_one_mask() -> None:
    want = read_mask(GREY, SIZE)
    assert np.array_equal(read_mask(GREY[..., None], SIZE), want)
    assert np.array_equal(read_mask(GREY.astype(np.uint16) * 257, SIZE), want)
    assert np.array_equal(read_mask(GREY.astype(np.float32) / np.float32(255), SIZE), want)
    assert np.array_equal(read_mask(Image.fromarray(GREY), SIZE), want)
    assert np.array_equal(read_mask(GREY > 100, SIZE), read_mask((GREY > 100) * np.uint8(255), SIZE))


def test_transparent_is_new() -> None:
    array = np.dstack([GREY, GREY, GREY, GREY])
    want = np.float32(1) - GREY.astype(np.float32) / np.float32(255)
    assert np.array_equal(read_mask(saved(array), SIZE, channel="alpha"), want)
    assert np.array_equal(read_mask("alpha", SIZE, picture=read_picture(array)), want)
    assert np.array_equal(parse_mask("outside(alpha)", SIZE, read_picture(array)), 1 - want)


@given(WHOLE, WHOLE, st.integers(1, 40), st.integers(1, 40))
def test_whole_rectangles_cover_what_of_them_lies_inside(
    left: int, top: int, width: int, height: int
) -> None:
    mask = parse_mask(f"rect({left}, {top}, {width}, {height})", (30, 20))
    across = max(0, min(30, left + width) - max(0, left))
    down = max(0, min(20, top + height) - max(0, top))
    assert mask.sum() == across * down
    if across and down:
        rows, columns = np.nonzero(mask)
        assert (rows.min(), columns.min()) == (max(0, top), max(0, left))


@given(*(st.floats(-5, 40) for _ in range(2)), *(st.floats(0.25, 40) for _ in range(2)))
def test_pixels_belong_where_their_centre_is(x: float, y: float, across: float, down: float) -> None:
    x, y, across, down = (round(value, 3) for value in (x, y, across, down))
    rectangle = parse_mask(f"rect({x:.3f},{y:.3f},{across:.3f},{down:.3f})", (16, 12))
    ellipse = parse_mask(f"ellipse({x:.3f},{y:.3f},{across:.3f},{down:.3f})", (16, 12))
    for row in range(12):
        for column in range(16):
            a, b = column + 0.5, row + 0.5
            assert rectangle[row, column] == (x <= a < x + across and y <= b < y + down)
            assert ellipse[row, column] == (((a - x) / across) ** 2 + ((b - y) / down) ** 2 <= 1)


@given(st.floats(3, 60), st.floats(3, 60))
def test_ellipses_have_the_area_of_ellipses(across: float, down: float) -> None:
    area = parse_mask(f"ellipse(64, 64, {across:.4f}, {down:.4f})", (128, 128)).sum()
    # What a closed convex curve cuts off or adds is below half of the pixels on it, and mostly far below.
    assert abs(area - np.pi * across * down) <= 2 * (across + down)


def test_parts_of_the_size_and_unions() -> None:
    assert np.array_equal(parse_mask("rect(25%, 50%, 50%, 25%)", SIZE), parse_mask("rect(5, 6, 10, 3)", SIZE))
    assert parse_mask("ellipse(50%,50%,50%,50%)", SIZE)[6, 10] == 1
    both = parse_mask(" rect(0,0,4,4)+ rect( 2 , 2 , 4 , 4 ) ", SIZE)
    assert both.sum() == 16 + 16 - 4
    outside = parse_mask("outside(rect(0,0,4,4) + rect(2,2,4,4))", SIZE)
    assert np.array_equal(outside, 1 - both)
    assert np.array_equal(
        parse_mask("outside(outside(rect(0,0,4,4)))", SIZE), parse_mask("rect(0,0,4,4)", SIZE)
    )


@pytest.mark.parametrize(("tolerance", "hits"), [("", 1), (", 3", 2), (",30", 3), (", 255", 5)])
@pytest.mark.parametrize("name", ["color(#00ff00", "colour(lime"])
def test_a_colour_is_where_every_channel_is_near(name: str, tolerance: str, hits: int) -> None:
    picture = np.array([[[0, 255, 0], [3, 253, 0], [30, 225, 0], [31, 255, 0], [0, 200, 255]]], np.uint8)
    mask = parse_mask(f"{name}{tolerance})", (5, 1), read_picture(picture))
    assert mask[0].tolist() == [1.0] * hits + [0.0] * (5 - hits)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rect(1,2,3)", "',' is missing"),
        ("rect(1,2,0,4)", "'0' must be above 0"),
        ("rect(1,2,3,-4%)", "must be above 0"),
        ("rect(1,2,3,4", "'\\)' is missing"),
        ("rect(1,2,3,4))", "is not expected there"),
        ("rect(1,2,3,4) rect(1,2,3,4)", "is not expected there"),
        ("rect(1,2,3,4) + ", "a shape is missing"),
        ("rect(nan,2,3,4)", "a length is missing"),
        ("rect(1,2,3,99999999999)", "beyond 1000000 pixels"),
        ("outside(circle(1,2,3))", "'circle' is not a shape"),
        ("rec(1,2,3,4)", "'rec' is not a shape"),
        ("outside(" * 40, "nested more than 8 deep"),
        ("rect(" + "1" * 2000, "longer than 1000 characters"),
        ("color(#12345)", "is not a colour"),
        ("color(#00ff00, 300)", "tolerance 300 must lie between 0 and 255"),
        ("color(#00ff00)", "there is no picture"),
        ("alpha", "has no transparent part"),
        ("alpha +", "has no transparent part"),
        ("rect(100,100,5,5)", "0 \\(black\\) everywhere"),
    ],
)
def test_words_that_are_refused(text: str, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        read_mask(text, SIZE)


@given(st.text(st.sampled_from("rectelipsoudalphcor(),+%#.0123456789- "), max_size=60))
def test_any_words_are_a_mask_or_refused(text: str) -> None:
    try:
        mask = parse_mask(text, (5, 4), read_picture(DRAWN.integers(0, 256, (4, 5, 4), np.uint8)))
    except InvalidRequest:
        return
    assert mask.shape == (4, 5)
    assert 0 <= mask.min() <= mask.max() <= 1


def test_words_and_paths() -> None:
    assert all(
        map(is_form, ("rect(1,2,3,4)", " alpha", "alpha + rect(1", "outside (x", "colour(red)", "ellipse("))
    )
    assert not any(
        map(is_form, ("mask.png", "./alpha", "alpha.png", "rect.png", "alpha/rect.png", "m(1).png", ""))
    )
    with pytest.raises(InvalidRequest, match=r"cannot read alpha: No such file"):
        read_mask("./alpha", SIZE)


def test_other_sizes_are_refused_and_stretched_when_asked() -> None:
    large = np.kron(GREY, np.ones((2, 2), np.uint8))
    with pytest.raises(InvalidRequest, match="has 40 x 24 pixels and the picture 20 x 12; scale it"):
        read_mask(large, SIZE)
    with pytest.raises(
        InvalidRequest, match="has 20 x 13 pixels and the picture 20 x 12; they must be equal"
    ):
        read_mask(np.ones((13, 20), np.uint8), SIZE, resize=True)
    halves = np.zeros((24, 40), np.uint8)
    halves[:, 20:] = 255
    assert np.array_equal(read_mask(halves, SIZE, resize=True) > 0.5, np.arange(20) >= np.full((12, 1), 10))
    assert read_mask(np.ones((1200, 1999), bool), SIZE, resize=True).min() == 1


def test_black_everywhere_asks_for_nothing_and_white_for_all() -> None:
    for black in (np.zeros((12, 20), np.uint8), saved(np.zeros((12, 20), np.uint8))):
        with pytest.raises(InvalidRequest, match="nothing would be made new; white is new"):
            read_mask(black, SIZE)
        assert read_mask(black, SIZE, invert=True).min() == 1
    with pytest.raises(InvalidRequest, match="nothing would be made new"):
        read_mask(GREY // 2, SIZE, threshold=0.6)
    with pytest.raises(InvalidRequest, match="nothing would be made new"):
        read_mask("rect(5,5,3,3)", SIZE, grow=-2)


def test_what_is_likely_not_a_mask_is_refused() -> None:
    coloured = DRAWN.integers(0, 256, (12, 20, 3), np.uint8)
    with pytest.raises(InvalidRequest, match="is coloured"):
        read_mask(saved(coloured), SIZE)
    with pytest.raises(InvalidRequest, match="transparent in parts: say channel='alpha'"):
        read_mask(saved(np.dstack([GREY] * 4)), SIZE)
    with pytest.raises(InvalidRequest, match="no transparent part"):
        read_mask(saved(GREY), SIZE, channel="alpha")
    for array in (
        np.full((12, 20), np.nan),
        np.full((12, 20), 2.0),
        np.zeros((12, 20, 3)),
        np.zeros((12, 20), int),
    ):
        with pytest.raises(InvalidRequest, match="mask"):
            read_mask(array, SIZE)


@pytest.mark.parametrize(
    "options", [{"feather": -1}, {"feather": 257}, {"feather": np.nan}, {"threshold": 0}, {"threshold": 1.5},
                {"grow": 1025}, {"channel": "red"}, {"most_pixels": 100}]
)  # fmt: skip
def test_options_have_limits(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        read_mask(saved(GREY), SIZE, **options)


@settings(max_examples=50)
@given(MASKS)
def test_inverting_twice_is_nothing(mask: np.ndarray) -> None:
    size = mask.shape[1], mask.shape[0]
    once = 1 - read_mask(mask, size)
    if once.any():
        assert np.array_equal(read_mask(once, size, invert=True), mask)


@settings(max_examples=50)
@given(MASKS, st.integers(0, 15))
def test_growing_is_the_greatest_in_a_square(mask: np.ndarray, pixels: int) -> None:
    start = mask.astype(np.float32)
    side = 2 * pixels + 1
    assert np.array_equal(grown(start, pixels), ndimage.maximum_filter(start, side, mode="nearest"))
    assert np.array_equal(grown(start, -pixels), ndimage.minimum_filter(start, side, mode="nearest"))


def test_a_rectangle_grows_by_so_many_pixels() -> None:
    assert np.array_equal(
        read_mask("rect(20, 20, 10, 8)", (64, 64), grow=5), parse_mask("rect(15, 15, 20, 18)", (64, 64))
    )


@pytest.mark.parametrize("deviation", [0.3, 1.0, 2.5, 30.0])
@pytest.mark.parametrize("shape", [(1, 1), (12, 20), (40, 700), (3, 1)])
def test_feather_is_the_gaussian_of_scipy(deviation: float, shape: tuple[int, int]) -> None:
    mask = DRAWN.random(shape, np.float32)
    radius = int(np.ceil(3 * deviation))
    want = ndimage.gaussian_filter(mask.astype(float), deviation, mode="nearest", radius=radius)
    assert np.abs(blur(mask, deviation) - want).max() < 2e-6


def test_feather_keeps_the_mean_away_from_borders_and_far_pixels_exactly() -> None:
    hard = parse_mask("rect(40, 40, 50, 30)", (160, 160))
    soft = read_mask("rect(40, 40, 50, 30)", (160, 160), feather=5)
    assert abs(float(soft.sum(dtype=np.float64)) - 1500) < 1e-3
    near = grown(hard, 15)
    assert not soft[near == 0].any()
    assert (soft[grown(hard, -15) == 1] == 1).all()
    assert np.array_equal(read_mask(GREY, SIZE, feather=0), read_mask(GREY, SIZE))
    assert (blur(np.ones((50, 60), np.float32), 7) == 1).all()


@settings(max_examples=50)
@given(MASKS, st.floats(0, 9), st.integers(-3, 3))
def test_masks_stay_between_0_and_1(mask: np.ndarray, feather: float, grow: int) -> None:
    made = blur(grown(mask.astype(np.float32), grow), feather)
    assert made.dtype == np.float32
    assert 0 <= made.min() <= made.max() <= 1
