"""Frames between key prompts: the keys' own pictures at even distances, and each frame by itself."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfumato.errors import InvalidRequest
from sfumato.tasks.animate import Animate
from sfumato.tasks.interpolate import Interpolate
from sfumato.tasks.task import make
from sfumato.tasks.text2image import Text2Image
from tests.tasks.toys import alike, done, toy

KEYS = {"prompts": ("left", "right", "left"), "seeds": (1, 2, 3), "steps": 5}


@pytest.mark.parametrize(("loop", "places"), [(False, (0, 3, 6)), (True, (0, 2, 5))])
def test_keys_are_the_pictures_of_their_prompts_and_seeds(loop: bool, places: tuple[int, ...]) -> None:
    model = toy()
    made = done(Animate, model, count=7, loop=loop, **KEYS).pixels
    assert len(made) == 7
    for place, prompt, seed in zip(places, KEYS["prompts"], KEYS["seeds"], strict=True):
        key = done(Text2Image, model, prompt=prompt, seed=seed, steps=5).pixels[0]
        assert np.abs(made[place].astype(int) - key).max() <= 1


def test_between_two_keys_lies_the_row_of_interpolation() -> None:
    model = toy()
    made = done(Animate, model, count=7, **KEYS).pixels
    row = done(
        Interpolate, model, prompt="right", prompt_to="left", seed=2, seed_to=3, count=4, steps=5
    ).pixels
    assert all(np.array_equal(a, b) for a, b in zip(made[3:], row, strict=True))


def test_a_loop_goes_back_to_its_beginning() -> None:
    model = toy()
    made = done(Animate, model, count=7, loop=True, **KEYS).pixels
    row = done(
        Interpolate, model, prompt="left", prompt_to="left", seed=3, seed_to=1, count=3, steps=5
    ).pixels
    assert all(np.array_equal(a, b) for a, b in zip([*made[5:], made[0]], row, strict=True))


def test_each_frame_is_made_alone() -> None:
    model = toy()
    alike(Animate, done(Animate, model, count=5, loop=True, **KEYS), model)


@given(count=st.integers(2, 1000), keys=st.integers(2, 100), loop=st.booleans())
def test_keys_stand_at_even_distances(count: int, keys: int, loop: bool) -> None:
    places = make(Animate, prompts=("left", "right"), count=count, loop=loop).places(keys)
    assert (places[0], places[-1]) == (0, count - (not loop))
    even = places[-1] / (keys - 1)
    assert all(abs(place - k * even) <= 0.5 + 1e-9 for k, place in enumerate(places))


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"prompts": ("left",)}, "prompts"),
        ({"prompts": ("", " ")}, "prompts are empty"),
        ({"prompts": ("left", "right"), "seeds": (1,)}, "1 values for 2 prompts"),
        ({"prompts": ("left", "left")}, "key 1 and the next are the same"),
        ({"prompts": ("left", "right", "left"), "loop": True}, "key 3 and the next are the same"),
        ({"prompts": ("left", "right", "left"), "count": 2}, "at least 3"),
        ({"prompts": ("left", "right"), "count": 3, "pick": 4}, "no such frame"),
        ({"prompts": ("left", "right"), "fps": 0.0}, "fps"),
    ],
)
def test_what_cannot_be_is_told(fields: dict, told: str) -> None:
    with pytest.raises(InvalidRequest, match=told):
        done(Animate, **fields)
