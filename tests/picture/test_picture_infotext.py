import dataclasses
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfumato.picture.infotext import Infotext, parse_infotext, write_infotext
from sfumato.picture.recipe import Recipe

HASH = "0123456789abcdef" * 4
FULL: dict[str, Any] = {
    "prompt": "a red circle, on blue",
    "negative": "blurry",
    "steps": 20,
    "sampler": "dpmpp-2m",
    "grid": "karras",
    "guidance": 3.5,
    "seed": 1234,
    "size": [64, 32],
}


def recipe(**changes: Any) -> Recipe:
    return Recipe("text2image", "sfumato-64", HASH, FULL | changes, {"sfumato": "0.1.0"})


def test_the_text() -> None:
    assert write_infotext(recipe()) == (
        "a red circle, on blue\n"
        "Negative prompt: blurry\n"
        "Steps: 20, Sampler: dpmpp-2m, Schedule type: karras, CFG scale: 3.5, Seed: 1234, Size: 64x32, "
        "Model hash: 0123456789, Model: sfumato-64, RNG: CPU, Version: sfumato 0.1.0"
    )


def test_what_is_missing_is_left_out() -> None:
    bare = Recipe("text2image", "m", HASH, {"prompt": "p", "negative": None, "strength": None})
    assert write_infotext(bare) == "p\nModel hash: 0123456789, Model: m, RNG: CPU, Version: sfumato unknown"


@pytest.mark.parametrize(
    ("size", "text"), [(64, "64x64"), ([64, 32], "64x32"), ("64x32", "64x32"), (None, None)]
)
def test_size(size: Any, text: str | None) -> None:
    assert parse_infotext(write_infotext(recipe(size=size))).fields.get("Size") == text


LINES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
# Other programs cannot tell such lines apart, nor see blanks at the ends; the recipe keeps them.
PROMPTS = LINES.map(str.strip).filter(
    lambda text: not any(line.startswith("Negative prompt:") for line in text.split("\n"))
)


@given(PROMPTS, PROMPTS, LINES.filter(bool), LINES)
def test_round_trip(prompt: str, negative: str, model: str, sampler: str) -> None:
    made = dataclasses.replace(recipe(prompt=prompt, negative=negative, sampler=sampler), model=model)
    back = parse_infotext(write_infotext(made))
    assert (back.prompt, back.negative) == (prompt, negative)
    assert (back.fields["Model"], back.fields["Sampler"]) == (model, sampler)
    assert len(back.fields) == 10


@given(st.text())
def test_any_text_is_read(text: str) -> None:
    parse_infotext(text)


def test_foreign_texts() -> None:
    text = (
        "masterpiece,\n<lora:x:0.8>\nNegative prompt: bad, ugly\nNegative prompt: more\n"
        'Steps: 20, Sampler: Euler a, Lora hashes: "x: 1a2b3c4d5e6f, y: 00", junk, Broken: "a\\q", '
        "Model: , Version: v1.10.1"
    )
    assert parse_infotext(text) == Infotext(
        "masterpiece,\n<lora:x:0.8>",
        "bad, ugly\nNegative prompt: more",
        {
            "Steps": "20",
            "Sampler": "Euler a",
            "Lora hashes": "x: 1a2b3c4d5e6f, y: 00",
            "Broken": '"a\\q"',
            "Model": "",
            "Version": "v1.10.1",
        },
    )


def test_two_items_are_no_parameters() -> None:
    assert parse_infotext("a cat\nSteps: 1, Seed: 2") == Infotext("a cat\nSteps: 1, Seed: 2")
    assert parse_infotext("") == Infotext()


@pytest.mark.parametrize("unit", ["a", " ", 'ab:"', 'ab:"\\"', "ab:", ",", "a b-", '"', "\\"])
def test_hostile_lines_are_read_quickly(unit: str) -> None:
    start = time.perf_counter()
    parse_infotext(unit * (2**20 // len(unit)))
    assert time.perf_counter() - start < 2
