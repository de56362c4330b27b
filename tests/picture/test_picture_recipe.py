import dataclasses
import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfumato.errors import DataError, InvalidRequest
from sfumato.picture.recipe import MAX_RECIPE, Recipe, current_versions

HASH = "0123456789abcdef" * 4
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
TEXT1 = TEXT.filter(bool)
KNOWN = {"task", "model", "model_hash", "arguments", "versions", "schema"}
RECIPES = st.builds(
    Recipe,
    task=TEXT1,
    model=TEXT1,
    model_hash=st.from_regex(r"[0-9a-f]{64}", fullmatch=True),
    arguments=st.dictionaries(TEXT, VALUES, max_size=6),
    versions=st.dictionaries(TEXT, TEXT, max_size=3),
    extra=st.dictionaries(TEXT.filter(lambda key: key not in KNOWN), VALUES, max_size=3),
)


def recipe(**arguments: Any) -> Recipe:
    return Recipe("text2image", "sfumato-64", HASH, arguments, {"sfumato": "0.1.0"})


def exact(value: Any) -> str:
    """1, 1.0 and True are equal in Python; their texts are not."""
    return repr(value)


@given(RECIPES)
def test_json_round_trip(made: Recipe) -> None:
    back = Recipe.from_json(made.to_json())
    assert back == made
    assert back.to_json() == made.to_json()
    for name, value in made.arguments.items():
        back_value = back.arguments[name]
        if not isinstance(value, dict | list):
            assert exact(back_value) == exact(value)


def test_equal_recipes_have_equal_json() -> None:
    assert recipe(seed=1, prompt="a").to_json() == recipe(prompt="a", seed=1).to_json()


def test_values_are_copied_and_tuples_become_lists() -> None:
    size = [64, 32]
    made = recipe(size=size, box=(1, 2))
    size.append(7)
    assert made.arguments == {"size": [64, 32], "box": [1, 2]}


def test_unknown_keys_are_kept() -> None:
    record = json.loads(recipe(seed=1).to_json()) | {"extra": 1, "signature": {"a": [None]}}
    back = Recipe.from_json(json.dumps(record))
    assert back.extra == {"extra": 1, "signature": {"a": [None]}}
    assert json.loads(back.to_json()) == record


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"guidance": float("nan")}, "arguments.guidance.*finite"),
        ({"guidance": float("inf")}, "finite"),
        ({"prompt": "\ud800"}, "arguments.prompt.*surrogate"),
        ({"\udfff": 1}, "surrogate"),
        ({"mask": b"x"}, "bytes"),
        ({"seed": 2**5000}, "bits"),
        ({"table": {1: 2}}, "must be text"),
    ],
)
def test_what_json_cannot_hold_is_refused(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        recipe(**arguments)


def test_deep_nesting_is_refused() -> None:
    value: Any = 1
    for _ in range(40):
        value = [value]
    with pytest.raises(InvalidRequest, match="deep"):
        recipe(value=value)


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": 2},
        {"schema": True},
        {"task": ""},
        {"model": 3},
        {"model_hash": HASH.upper()},
        {"model_hash": HASH + "\n"},
        {"arguments": [1]},
        {"versions": {"torch": 2}},
        {"extra": {"task": "x"}},
    ],
)
def test_bad_fields_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        dataclasses.replace(recipe(), **changes)


def test_too_long_is_refused() -> None:
    made = recipe(prompt="x" * MAX_RECIPE)
    with pytest.raises(InvalidRequest, match="too long"):
        made.to_json()
    with pytest.raises(DataError, match="too long"):
        Recipe.from_json(" " * (MAX_RECIPE + 1))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not valid JSON"),
        ("[]", "not a JSON object"),
        ("{}", "lacks arguments, model"),
        ('{"schema": 2}', "schema 2.*update"),
        ('{"schema": "1"}', "schema '1'"),
        ('{"a": 1, "a": 2}', "twice"),
        ('{"a": NaN}', "NaN"),
        ("[" * 100_000, "not valid JSON"),
        ("9" * 10_000, "not valid JSON"),
    ],
)
def test_bad_json_is_refused(text: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        Recipe.from_json(text)


@pytest.mark.parametrize(("name", "value"), [("arguments", '{"a": 1e999}'), ("task", '"\\ud800"')])
def test_bad_values_in_json_are_data_errors(name: str, value: str) -> None:
    record = json.loads(recipe().to_json()) | {name: "@"}
    with pytest.raises(DataError):
        Recipe.from_json(json.dumps(record).replace('"@"', value))


@given(st.text())
def test_any_other_text_is_a_data_error(text: str) -> None:
    with pytest.raises(DataError):
        Recipe.from_json(text)


def test_versions_do_not_import_torch() -> None:
    code = (
        "import sys; from sfumato.picture import png, sheet, terminal; from sfumato.picture.recipe import *\n"
        "v = current_versions(dtype='float32'); assert 'torch' not in sys.modules; print(*v)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"sfumato", "torch", "python", "platform", "dtype"} <= set(answer.stdout.split())


def test_versions_ask_torch_when_it_is_there() -> None:
    torch = pytest.importorskip("torch")
    versions = current_versions()
    assert versions["threads"] == str(torch.get_num_threads())
    assert versions["cpu"] == torch.backends.cpu.get_cpu_capability()
    assert versions["dtype"] == "float32"
    Recipe("text2image", "m", HASH, {}, versions)
