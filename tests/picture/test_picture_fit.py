from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sfumato.errors import InvalidRequest, UnknownName
from sfumato.picture.fit import Box, crop, expand, fit, pad_to_multiple

DRAWN = np.random.default_rng(0)


def drawn(width: int, height: int, kind: str = "picture") -> np.ndarray:
    if kind == "mask":
        return DRAWN.random((height, width), np.float32)
    return DRAWN.integers(0, 256, (height, width, 3) if kind == "picture" else (height, width), np.uint8)


KINDS = st.sampled_from(["picture", "alpha", "mask"])
SIDES = st.integers(1, 40)


@settings(max_examples=60)
@given(SIDES, SIDES, st.integers(1, 70), st.sampled_from(["edge", "reflect"]), KINDS)
def test_padding_is_undone_by_its_box(width: int, height: int, multiple: int, how: Any, kind: str) -> None:
    picture = drawn(width, height, kind)
    padded, box = pad_to_multiple(picture, multiple, how)
    assert padded.shape[0] % multiple == padded.shape[1] % multiple == 0
    assert padded.shape[0] - height < multiple > padded.shape[1] - width
    assert np.array_equal(crop(padded, box), picture)
    assert padded.dtype == picture.dtype
    if how == "edge":
        assert (padded[:, width:] == padded[:, width - 1 : width]).all()
    elif width > 1 and padded.shape[1] > width:
        assert np.array_equal(padded[:height, width], picture[:, -2])


@settings(max_examples=60)
@given(SIDES, SIDES, st.lists(st.integers(0, 9), min_size=4, max_size=4).filter(any), KINDS,
       st.sampled_from(["edge", "reflect", "noise", "#102030"]))  # fmt: skip
def test_expanding_keeps_the_picture_and_masks_the_rest(
    width: int, height: int, sides: list[int], kind: str, fill: str
) -> None:
    left, top, right, bottom = sides
    picture = drawn(width, height, kind)
    larger, mask = expand(picture, *sides, fill=fill)
    assert mask.dtype == np.float32
    assert mask.shape == larger.shape[:2] == (top + height + bottom, left + width + right)
    assert np.array_equal(crop(larger, Box(left, top, width, height)), picture)
    assert not crop(mask, Box(left, top, width, height)).any()
    assert mask.sum() == mask.size - width * height
    assert larger.dtype == picture.dtype


def test_fills() -> None:
    picture = drawn(6, 5)
    edge, mask = expand(picture, 3, 0, 0, 2)
    assert (edge[:5, :3] == picture[:, :1]).all()
    assert (edge[5:, 3:] == picture[-1:]).all()
    assert np.array_equal(expand(picture, 3, 0, 0, 0, "reflect")[0][:, :3], picture[:, 3:0:-1])
    assert (expand(picture, 3, 0, 0, 2, "#102030")[0][mask == 1] == (16, 32, 48)).all()
    noise = [expand(picture, 300, 0, 0, 2, "noise", seed)[0] for seed in (0, 0, 1)]
    assert np.array_equal(noise[0], noise[1])
    assert not np.array_equal(noise[0], noise[2])
    assert np.bincount(noise[0][:5, :300].ravel(), minlength=256).min() > 0


@settings(max_examples=60)
@given(SIDES, SIDES, SIDES, SIDES, st.sampled_from(["crop", "pad", "stretch"]), KINDS)
def test_fitting_gives_the_size_and_stays_within_range(
    width: int, height: int, across: int, down: int, how: Any, kind: str
) -> None:
    picture = drawn(width, height, kind)
    fitted = fit(picture, across, down, how)
    assert fitted.shape[:2] == (down, across)
    assert fitted.dtype == picture.dtype
    if kind == "mask":
        assert 0 <= fitted.min() <= fitted.max() <= 1
    if (width, height) == (across, down):
        assert np.array_equal(fitted, picture)
        assert fitted is not picture


@settings(max_examples=60)
@given(SIDES, SIDES, SIDES, SIDES, st.sampled_from(["crop", "stretch"]), KINDS, st.integers(0, 255))
def test_one_colour_stays_one_colour(
    width: int, height: int, across: int, down: int, how: Any, kind: str, level: int
) -> None:
    value = np.float32(level / 255) if kind == "mask" else level
    picture = np.full_like(drawn(width, height, kind), value)
    assert np.abs(fit(picture, across, down, how).astype(float) - value).max() < 1e-6


def test_cropping_keeps_the_middle_and_padding_all() -> None:
    thirds = np.zeros((10, 30, 3), np.uint8)
    thirds[:, :10, 0] = thirds[:, 10:20, 1] = thirds[:, 20:, 2] = 255
    assert np.array_equal(fit(thirds, 10, 10), thirds[:, 10:20])
    assert np.array_equal(fit(thirds.swapaxes(0, 1), 10, 10), thirds[:, 10:20])
    padded = fit(thirds, 30, 20, "pad", fill="#010203")
    assert np.array_equal(padded[5:15], thirds)
    assert (padded[[0, 4, 15, 19]] == (1, 2, 3)).all()
    assert np.array_equal(fit(thirds, 30, 20, "pad", fill="edge")[0], thirds[0])


def test_making_smaller_averages() -> None:
    board = (np.indices((64, 64)).sum(0) % 2).astype(np.float32)
    assert np.abs(fit(board, 8, 8)[1:-1, 1:-1] - 0.5).max() < 0.02
    picture = np.asarray(Image.fromarray(drawn(64, 64)).resize((16, 16), Image.Resampling.LANCZOS))
    assert np.array_equal(fit(picture, 16, 16, "stretch"), picture)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: fit(drawn(4, 4), 0, 4), "empty"),
        (lambda: fit(drawn(4, 4), 10**5, 10**5), "too large"),
        (lambda: fit(drawn(4, 4).astype(float), 2, 2), "must be uint8"),
        (lambda: fit(drawn(4, 4), 8, 2, "pad", "nocolour"), "is not a colour"),
        (lambda: pad_to_multiple(drawn(4, 4), 0), "multiple = 0 must be at least 1"),
        (lambda: pad_to_multiple(drawn(4, 4), 10**6), "too large"),
        (lambda: crop(drawn(4, 4), Box(1, 1, 4, 1)), "does not lie inside a picture of 4 x 4"),
        (lambda: crop(drawn(4, 4), Box(-1, 0, 4, 1)), "does not lie inside"),
        (lambda: expand(drawn(4, 4), 0, 0, 0, 0), "one must be above"),
        (lambda: expand(drawn(4, 4), -1, 0, 4, 0), "none may be below 0"),
        (lambda: expand(drawn(4, 4), 10**9, 0, 0, 0), "too large"),
    ],
)
def test_what_is_refused(call: Any, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        call()


def test_unknown_ways() -> None:
    with pytest.raises(UnknownName, match="did you mean 'crop'"):
        fit(drawn(4, 4), 2, 2, "cropp")  # type: ignore[arg-type]
    with pytest.raises(UnknownName, match="did you mean 'reflect'"):
        pad_to_multiple(drawn(4, 4), 3, "reflekt")  # type: ignore[arg-type]
