"""A choice with options as text: what is written is read, and what makes no sense is told."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfumato.errors import InvalidRequest, UnknownName
from sfumato.process.spec import check_options, options_of, parse, write

NAMES = st.from_regex(r"[a-z][a-z0-9_+]*", fullmatch=True)
KEYS = st.from_regex(r"[a-z][a-z0-9_]*", fullmatch=True)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.one_of(
    st.booleans(),
    st.integers(-(10**12), 10**12),
    NUMBERS,
    NAMES.filter(lambda w: w not in ("true", "false", "inf", "nan", "infinity")),
    st.lists(NUMBERS, max_size=5),
)


@given(NAMES, st.dictionaries(KEYS, VALUES, max_size=5))
def test_what_is_written_is_read(name: str, options: dict) -> None:
    assert parse(write(name, options)) == (name, options)


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        name, options = parse(text)
    except InvalidRequest:
        return
    assert name
    assert parse(write(name, options)) == (name, options)


@pytest.mark.parametrize(
    "text", ["", "a b", "a(", "a)", "a(b)", "a(b=)", "a(=1)", "a(b=1, b=2)", "a(b=[x])", "a(b=nan)"]
)
def test_what_makes_no_sense_is_told(text: str) -> None:
    with pytest.raises(InvalidRequest):
        parse(text)


def walk(
    x: float, *, eta: float = 1.0, order: int = 2, kind: str = "a", on: bool = False, at: tuple = (1.0,)
) -> None:
    """Something with options."""


def test_options_are_the_keyword_only_parameters() -> None:
    assert options_of(walk) == {"eta": 1.0, "order": 2, "kind": "a", "on": False, "at": (1.0,)}
    check_options("walk", walk, {"eta": 1, "order": 3, "kind": "b", "on": True, "at": [2.0, 3.0]})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"etta": 1.0}, "did you mean 'eta'"),
        ({"eta": "x"}, "a number"),
        ({"eta": True}, "a number"),
        ({"order": 2.5}, "a whole number"),
        ({"on": 1}, "true or false"),
        ({"kind": 3}, "a word"),
        ({"at": 3.0}, "a list of numbers"),
    ],
)
def test_options_of_another_kind_are_refused(options: dict, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        check_options("walk", walk, options)


def test_a_choice_without_options_says_so() -> None:
    with pytest.raises(InvalidRequest, match="takes no options"):
        check_options("plain", lambda x: x, {"eta": 1.0})
    with pytest.raises(UnknownName):
        check_options("walk", walk, {"zzz": 1})
