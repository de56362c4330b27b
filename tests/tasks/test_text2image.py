"""Text2Image as a definition: one list of fields for library, schema and command line; every fault told."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import click
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from sfumato.cli.options import OF_MODEL, options_of
from sfumato.cli.options import given as said
from sfumato.errors import InvalidRequest
from sfumato.model import Defaults
from sfumato.tasks.task import make
from sfumato.tasks.text2image import MAX_PROMPT, Text2Image, parse_size, to_bytes

DEFAULTS = Defaults(
    steps=20,
    sampler="ddim",
    grid="karras",
    guidance=4.0,
    width=128,
    height=96,
    multiple=16,
    least=64,
    most=256,
)
FIELDS = [field.name for field in dataclasses.fields(Text2Image)]


def test_every_fault_is_told_at_once() -> None:
    with pytest.raises(InvalidRequest) as caught:
        make(
            Text2Image, prompt=" ", steps=0, count=1001, seed=-1, guidance=math.inf, size=3, promt="x", zzz=1
        )
    text = str(caught.value)
    for word in (
        "the prompt is empty",
        "steps = 0",
        "count = 1001",
        "seed = -1",
        "guidance = inf",
        "size = 3",
    ):
        assert word in text
    assert "unknown argument 'promt'; did you mean 'prompt'?" in text
    assert "unknown argument 'zzz'; allowed: prompt, negative" in text
    assert "\n" not in text
    assert "pydantic" not in text


def test_a_missing_prompt_is_told() -> None:
    with pytest.raises(InvalidRequest, match="prompt"):
        make(Text2Image, steps=3)


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("prompt", ["x" * MAX_PROMPT, "日本"], ["x" * (MAX_PROMPT + 1), "", "\t\n", None, 3, "\udcff"]),
        ("negative", ["", None, "x" * MAX_PROMPT], ["x" * (MAX_PROMPT + 1), 3, "\ud800"]),
        ("steps", [1, 1000, None, "20"], [0, -1, 1001, 1.5, "many", math.nan]),
        ("guidance", [0, 1, 100, 7.5, None], [-0.1, 100.1, math.nan, math.inf, "strong"]),
        ("seed", [0, 2**63 - 1], [-1, 2**63, 0.5, None]),
        ("count", [1, 1000], [0, 1001, None]),
        ("size", ["128x128", None], [128, (128, 128)]),
    ],
)
def test_limits(name: str, good: list[Any], bad: list[Any]) -> None:
    for value in good:
        made = make(Text2Image, **{"prompt": "x", name: value})
        assert getattr(made, name) == (int(value) if name == "steps" and value else value)
    for value in bad:
        with pytest.raises(InvalidRequest, match=name):
            make(Text2Image, **{"prompt": "x", name: value})


def test_a_request_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        make(Text2Image, prompt="x").prompt = "y"  # type: ignore[misc]


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(exclude_categories=[]), max_size=60) | st.text().map(lambda t: t * 500))
def test_any_text_is_a_prompt_or_is_refused_with_a_sentence(text: str) -> None:
    try:
        made = make(Text2Image, prompt=text)
    except InvalidRequest as error:
        unfit, told = any("\ud800" <= c <= "\udfff" for c in text), str(error)
        assert not text.strip() or len(text) > MAX_PROMPT or unfit
    else:
        told = "prompt"
        assert made.prompt == text
        assert made.prompt.encode()
    assert "prompt" in told
    assert len(told) < 300


def test_the_schema_has_the_fields_and_their_limits() -> None:
    schema = TypeAdapter(Text2Image).json_schema()
    assert list(schema["properties"]) == FIELDS
    assert schema["required"] == ["prompt"]
    assert schema["additionalProperties"] is False
    assert all(p["description"] for p in schema["properties"].values())
    steps = schema["properties"]["steps"]["anyOf"][0]
    # What the schema allows is what validation allows, at both ends.
    for value, fits in (
        (steps["minimum"], True),
        (steps["minimum"] - 1, False),
        (steps["maximum"] + 1, False),
    ):
        if fits:
            Text2Image(prompt="x", steps=value)
        else:
            with pytest.raises(ValidationError):
                Text2Image(prompt="x", steps=value)
    assert schema["properties"]["prompt"]["maxLength"] == MAX_PROMPT


def test_json_there_and_back_is_the_same_request() -> None:
    adapter = TypeAdapter(Text2Image)
    made = Text2Image(prompt='a "cat"\n日本', steps=7, guidance=2.5, seed=2**63 - 1, size="64x64")
    assert adapter.validate_json(adapter.dump_json(made)) == made


@click.command()
@options_of(Text2Image, skip=("prompt",))
def probe(**values: Any) -> None:
    """Return what was given."""
    probe.given = values  # type: ignore[attr-defined]


def options() -> dict[str, click.Option]:
    return {p.name: p for p in probe.params if isinstance(p, click.Option) and p.name}


def test_the_command_lines_options_are_the_fields() -> None:
    assert list(options()) == FIELDS[1:]
    schema = TypeAdapter(Text2Image).json_schema()["properties"]
    kinds = {"string": "text", "integer": "integer", "number": "float", "array": "text"}
    for name, option in options().items():
        assert option.opts == [f"--{name.replace('_', '-')}"]
        assert option.help is not None
        assert schema[name]["description"] in option.help
        hint = schema[name].get("type") or schema[name]["anyOf"][0]["type"]
        assert option.type.name == kinds[hint]
        assert option.multiple == (hint == "array")
        default = schema[name]["default"]
        told = "(default: the model's)" if name in OF_MODEL else f"(default: {default})"
        assert (told in option.help) == (default not in (None, []) or name in OF_MODEL)


def test_options_left_out_are_not_values() -> None:
    probe.main(["--steps", "3"], standalone_mode=False)
    values = probe.given  # type: ignore[attr-defined]
    assert said(values) == {"steps": 3}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("128x96", (128, 96)),
        ("96X128", (96, 128)),
        ("128×96", (128, 96)),
        (" 128 x 96 ", (128, 96)),
        ("64", (64, 64)),
        ("256x256", (256, 256)),
    ],
)
def test_sizes(text: str, wanted: tuple[int, int]) -> None:
    assert parse_size(text, DEFAULTS) == wanted


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "such as 128x96"),
        ("x", "such as 128x96"),
        ("128x", "such as 128x96"),
        ("128x96x3", "such as 128x96"),
        ("1e2x96", "such as 128x96"),
        ("128.0x96", "such as 128x96"),
        ("9" * 5000, "such as 128x96"),
        ("128x100", "the nearest is 96"),
        ("130", "the nearest is 128"),
        ("0x0", "the nearest is 64"),
        ("-128x128", "the nearest is 64"),
        ("512x512", "the nearest is 256"),
    ],
)
def test_sizes_that_are_refused(text: str, word: str) -> None:
    with pytest.raises(InvalidRequest, match=word) as caught:
        parse_size(text, DEFAULTS)
    assert len(str(caught.value)) < 300


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=12) | st.from_regex(r"-?\d{1,5}(x-?\d{1,5})?", fullmatch=True))
def test_any_size_is_allowed_or_refused(text: str) -> None:
    try:
        sides = parse_size(text, DEFAULTS)
    except InvalidRequest:
        return
    assert all(64 <= side <= 256 and side % 16 == 0 for side in sides)


def test_what_is_left_out_is_the_models() -> None:
    made = Text2Image(prompt="x", guidance=0.0, steps=5)
    chosen = made.resolved(DEFAULTS)
    assert list(chosen) == FIELDS
    own = {"sampler": "ddim", "grid": "karras", "guide": "cfg", "size": "128x96"}
    fixed = {"prompt": "x", "negative": None, "seed": 0, "count": 1, "noise": "stream", "pick": None}
    fixed |= {"dialect": "plain", "clip_skip": 0, "look": [], "look_by": "tokens"}
    fixed |= dict.fromkeys(("padding", "prompt_2", "prompt_3", "negative_2", "negative_3", "embedded"))
    assert chosen == {**fixed, "steps": 5, "guidance": 0.0, **own}
    assert Text2Image(**chosen).resolved(DEFAULTS) == chosen


def test_pixels_round_to_the_nearest_byte() -> None:
    every = np.arange(256, dtype=np.float64)
    pixels = np.tile((every / 127.5 - 1).astype(np.float32), (3, 2, 1))
    made = to_bytes(pixels)
    assert made.shape == (2, 256, 3)
    assert made.dtype == np.uint8
    assert (made == every[None, :, None]).all()
    nudged = np.tile(((every + 0.4) / 127.5 - 1).astype(np.float32), (3, 1, 1))
    assert (to_bytes(nudged)[..., 0] == np.minimum(every, 255)).all()
    assert to_bytes(np.array([[[-9.0, 9.0]]] * 3, np.float32)).tolist() == [[[0] * 3, [255] * 3]]
