"""Any text in any dialect: it is read, or refused in a sentence; in time that grows with its length alone."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfumato.errors import InvalidRequest
from sfumato.text.prompt.dialects import DIALECTS, parse, parts_at, unread, write
from sfumato.text.prompt.parts import bare
from sfumato.text.prompt.schedule import timeline
from sfumato.text.prompt.wildcards import draw

MARKS = [
    "(",
    ")",
    "[",
    "]",
    ":",
    "|",
    "\\",
    "1.2",
    ":0.5]",
    ":1.3)",
    "AND",
    "BREAK",
    " ",
    "a",
    "cat",
    '"',
    "+",
    "--",
]
MARKS += [
    ",",
    ".",
    "<lora:x:1>",
    "embedding:x",
    "\n",
    ".and(",
    ".blend(1,2)",
    "1e999",
    "withLora(x)",
    "日",
    "\x00",
]
TEXT = st.one_of(
    st.lists(st.sampled_from(MARKS), max_size=8).map("".join),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
)


# Fifty texts an example: 10,000 in all.
@settings(max_examples=200, deadline=None)
@given(st.lists(TEXT, min_size=50, max_size=50))
def test_a_prompt_is_read_or_refused(prompts: list[str]) -> None:
    for number, prompt in enumerate(prompts):
        name = list(DIALECTS)[number % 4]
        try:
            parsed = parse(prompt, name)
            told = timeline(parsed, 3)
        except InvalidRequest:
            continue
        again = parse(write(parsed), name)
        assert again == parsed
        for part in (*told.conditions, *parts_at(again, 2, 3)):
            assert len(bare(part)) <= 2 * len(prompt) + 8
        words = told.conditions[0].words
        writing = DIALECTS[name].write_words
        if writing is not None and len(words) == 1:
            assert DIALECTS[name].read(writing(words[0])) == words


def lines(call: Callable[[], Any]) -> int:
    """How many lines of Python run in ``call``."""
    count = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    except InvalidRequest:
        pass
    finally:
        sys.settrace(before)
    return count


REPEATED = [
    "(",
    "[",
    ")",
    "]",
    "(a",
    "(a)",
    "[a:",
    "[a|",
    "[a:1]",
    "(a:1)",
    ":1.2)",
    ":",
    "a AND ",
    "a BREAK ",
]
REPEATED += [
    "\\",
    '"',
    '\\"',
    '"a" ',
    "+",
    "a+ ",
    "(a)+ ",
    "withLora(a)",
    "<a:",
    "<lora:a:1>",
    "1",
    "a b",
    ".and(",
]
REPEATED += [",", "embedding:a "]


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("piece", REPEATED)
def test_work_grows_with_the_length(piece: str, dialect: str) -> None:
    few, many = (lines(lambda n=n: parse(piece * n, dialect)) for n in (20, 200))  # type: ignore[misc]
    assert many <= 11 * few + 400


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_hundred_thousand_brackets(dialect: str) -> None:
    deep = 100_000
    assert parse("(" * deep, dialect).parts
    for prompt in ("(" * 9000 + "a", "[" * 9000 + "a" + "]" * 9000):
        with contextlib.suppress(InvalidRequest):  # the weight of the first is beyond all numbers
            assert parse(prompt, dialect).parts


LONG = ["(a:" + "1" * 20_000 + "x", "a" + " " * 20_000 + "b BREAK", ":" + " " * 20_000 + "a"]


@pytest.mark.parametrize("prompt", LONG)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_patterns_do_not_go_back_and_forth(prompt: str, dialect: str) -> None:
    # Quadratic backtracking would make this four hundred million steps.
    assert parse(prompt, dialect).parts


def test_lone_surrogates_are_refused_where_tokens_are_made() -> None:
    from sfumato.text.prompt.chunks import clip_vocabulary, weighted_ids

    for name, dialect in DIALECTS.items():
        (words,) = dialect.read("a \ud800")
        with pytest.raises(InvalidRequest, match="not valid Unicode"):
            weighted_ids(words, clip_vocabulary(), name)


BRACES = ["{", "}", "|", "$$", "2", "1-2$$", "0.5::", "::", "a", " ", "\\{", "__x__", "__", "${"]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(BRACES)))
def test_patterns_are_drawn_or_refused(pieces: list[str]) -> None:
    with contextlib.suppress(InvalidRequest):
        first, again = (draw("".join(pieces), 5, lambda _: ["p", "{q|r}"]) for _ in range(2))
        assert first == again


@pytest.mark.parametrize(
    ("text", "mark"),
    [
        ("a (red:1.3) cat", "'(red:1.3)'"),
        ("a cat <lora:ink:0.8>", "'<lora:ink:0.8>'"),
        ("<lyco:ink> a cat", "'<lyco:ink>'"),
        ("a (red) cat :) (at 10:30 sharp) <b> [x] a:1", None),
        ("(" * 2000 + ":1" * 1000, None),
        ("(:" + "1" * 3900, None),
    ],
)
def test_marks_in_plain_prompts_are_told(text: str, mark: str | None) -> None:
    said = list(unread(text))
    assert said == [] if mark is None else len(said) == 1 and mark in said[0]


def test_patterns_and_embeddings_that_stay_words_are_told() -> None:
    for name in DIALECTS:
        said = " ".join(unread("a {cat|dog}, __style__", name))
        assert "'{cat|dog}' is read as it is written" in said
        assert "--draw" in said
        assert "'__dir/*__'" in " ".join(unread("a __dir/*__, b", name))
        assert ("embedding:toy" in " ".join(unread("a embedding:toy, b", name))) == (name != "comfyui")
        assert list(unread("a {cat} || snake__case __x ___ embedding: a|b", name)) == []
