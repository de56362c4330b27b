from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sfumato.data import compose
from sfumato.data.decode import Pixels
from sfumato.data.record import Record, may_flip
from sfumato.data.tar import TarPictures
from sfumato.errors import InvalidRequest, UnknownName

CAT = Record(id="cat", label="cat", captions=("cat", "a cat"), flippable=True)


@given(rgba=arrays(np.uint8, (3, 4, 4)), rgb=st.tuples(*[st.integers(0, 255)] * 3))
def test_blending_is_the_closed_form_rounded(rgba: Pixels, rgb: compose.Rgb) -> None:
    share = rgba[..., 3:].astype(np.float64) / 255
    exact = rgba[..., :3] * share + np.array(rgb) * (1 - share)
    assert np.abs(compose.on_background(rgba, rgb) - exact).max() <= 0.5 + 1e-9


@pytest.mark.parametrize("name", list(compose.BACKGROUNDS))
def test_clear_pixels_have_exactly_the_colour_and_opaque_ones_their_own(name: str) -> None:
    rgba = np.zeros((2, 2, 4), np.uint8)
    rgba[1] = (1, 2, 3, 255)
    mixed = compose.on_background(rgba, compose.colour(name))
    assert (mixed[0] == compose.BACKGROUNDS[name]).all()
    assert (mixed[1] == (1, 2, 3)).all()


def test_there_are_twelve_colours_and_white_by_default() -> None:
    assert len(compose.BACKGROUNDS) == 12
    assert compose.colour(None) == (255, 255, 255)
    with pytest.raises(UnknownName, match="did you mean 'teal'"):
        compose.colour("teel")


def test_no_dark_fringe_appears() -> None:
    rgba = np.zeros((32, 32, 4), np.uint8)
    rgba[8:24, 8:24] = (200, 100, 50, 255)
    moved = compose.placed(rgba, 0.97, 0.013, -0.021)
    edge = (moved[..., 3] > 60) & (moved[..., 3] < 255)
    assert edge.any()
    assert np.abs(moved[edge][:, :3].astype(int) - (200, 100, 50)).max() <= 3


def test_placement_moves_by_shares_of_the_side() -> None:
    rgba = np.zeros((40, 20, 4), np.uint8)
    rgba[20, 10] = 255
    moved = compose.placed(rgba, 1.0, 0.1, -0.2)
    assert np.argwhere(moved[..., 3]).tolist() == [[12, 12]]
    assert np.array_equal(compose.placed(rgba, 1.0, 0.0, 0.0), rgba)


def test_augmentation_stays_near(tiny: TarPictures) -> None:
    rng = np.random.default_rng(0)
    dot = np.zeros((100, 100, 4), np.uint8)
    dot[49:51, 49:51] = 255
    centres = [np.argwhere(compose.augment(dot, CAT, rng)[..., 3]).mean(0) for _ in range(200)]
    spread = np.abs(np.array(centres) - 49.5).max(0)
    assert (spread > 4).all()
    assert (spread <= 6.6).all()
    with pytest.raises(InvalidRequest):
        compose.augment(dot, CAT, rng, most=1.0)


def test_only_flippable_pictures_are_mirrored() -> None:
    ramp = np.full((4, 4, 4), 255, np.uint8)
    ramp[:, :2] = 0
    rng = np.random.default_rng(1)
    held = replace(CAT, flippable=False)
    flips = [not np.array_equal(compose.augment(ramp, CAT, rng, most=0), ramp) for _ in range(400)]
    assert 150 < sum(flips) < 250
    assert all(np.array_equal(compose.augment(ramp, held, rng, most=0), ramp) for _ in range(100))


@pytest.mark.parametrize(
    ("label", "group", "subgroup", "allowed"),
    [
        ("cat", "animals-nature", "animal-mammal", True),
        ("flag of Chad", "flags", "country-flag", False),
        ("keycap 3", "symbols", "keycap", False),
        ("right arrow", "symbols", "arrow", False),
        ("waving hand", "people-body", "hand-fingers-open", False),
        ("three o’clock", "travel-places", "time", False),
        ("magnifying glass tilted left", "objects", "light-video", False),
        ("thing", "", "", False),
    ],
)
def test_what_may_be_mirrored(label: str, group: str, subgroup: str, allowed: bool) -> None:
    assert may_flip(label, group, subgroup) is allowed


def test_the_law_of_captions() -> None:
    rng = np.random.default_rng(2)
    n = 8000
    behinds = (compose.background(rng) for _ in range(n))
    drawn = [(behind, compose.caption(CAT, rng, behind)) for behind in behinds]
    named = Counter(behind for behind, _ in drawn)
    assert abs(named[None] / n - 0.5) < 0.03
    assert all(abs(named[name] / n - 0.5 / 12) < 0.012 for name in compose.BACKGROUNDS)
    assert all(text.endswith(f", {behind} background") for behind, text in drawn if behind)
    plain = [text for behind, text in drawn if behind is None]
    assert {text.removesuffix(", white background") for text in plain} == {"cat", "a cat"}
    assert abs(np.mean([text.endswith(", white background") for text in plain]) - 0.5) < 0.03
    assert abs(np.mean([text.startswith("cat") for _, text in drawn]) - 0.5) < 0.03


def test_a_seed_fixes_everything(tiny: TarPictures) -> None:
    def run(seed: int) -> list[tuple[str, bytes]]:
        rng = np.random.default_rng(seed)
        looks = []
        for index in range(20):
            record, behind = tiny.records[index], compose.background(rng)
            words = compose.caption(record, rng, behind)
            moved = compose.augment(tiny.read(index), record, rng)
            looks.append((words, compose.on_background(moved, compose.colour(behind)).tobytes()))
        return looks

    assert run(5) == run(5)
    assert run(5) != run(6)


def test_draws_do_not_depend_on_the_record() -> None:
    first, second = np.random.default_rng(3), np.random.default_rng(3)
    compose.augment(np.zeros((2, 2, 4), np.uint8), CAT, first)
    compose.augment(np.zeros((9, 9, 4), np.uint8), replace(CAT, flippable=False), second, most=0)
    compose.caption(CAT, first, None)
    compose.caption(replace(CAT, captions=("a", "b", "c")), second, "red")
    assert first.random() == second.random()
