"""Prompts over the steps: switches, cycles, stages. The first table's prompts and texts are A1111's own examples."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfumato.errors import InvalidRequest
from sfumato.text.prompt.dialects import parse
from sfumato.text.prompt.parts import Cycle, Part, Switch
from sfumato.text.prompt.schedule import at_step, step_of, timeline
from sfumato.text.prompt.templates import DEEPEST, parse_template, render, write_template

TEN: list[tuple[str, list[tuple[int, str]]]] = [
    ("test", [(10, "test")]),
    ("a [b:3]", [(3, "a "), (10, "a b")]),
    ("a [b: 3]", [(3, "a "), (10, "a b")]),
    ("a [[[b]]:2]", [(2, "a "), (10, "a [[b]]")]),
    ("[(a:2):3]", [(3, ""), (10, "(a:2)")]),
    ("a [b : c : 1] d", [(1, "a b  d"), (10, "a  c  d")]),
    ("a[b:[c:d:2]:1]e", [(1, "abe"), (2, "ace"), (10, "ade")]),
    ("a [unbalanced", [(10, "a [unbalanced")]),
    ("a [b:.5] c", [(5, "a  c"), (10, "a b c")]),
    ("((a][:b:c [d:3]", [(3, "((a][:b:c "), (10, "((a][:b:c d")]),
    ("[a|(b:1.1)]", [(n, "a" if n % 2 else "(b:1.1)") for n in range(1, 11)]),
    ("[fe|]male", [(n, "female" if n % 2 else "male") for n in range(1, 11)]),
    ("[fe|||]male", [(n, "female" if n % 4 == 1 else "male") for n in range(1, 11)]),
    # What follows is derived from the grammar.
    ("[a::4]b", [(4, "ab"), (10, "b")]),
    ("[a:b:0]", [(10, "b")]),
    ("[a:b:-2]", [(10, "b")]),
    ("[a:b:10]", [(10, "a")]),
    ("[a:b:99]", [(10, "a")]),
    ("[a:b:1.0]", [(10, "a")]),
    ("[a:b:1e0]", [(1, "a"), (10, "b")]),
    ("[a:b:0.29]", [(2, "a"), (10, "b")]),
    ("[:b:0.5]", [(5, ""), (10, "b")]),
    ("[a:b]", [(10, "[a:b]")]),
    ("[a:b:c:0.5]", [(10, "[a:b:c:0.5]")]),
    ("a | b [c:d:0.5]", [(10, "a | b [c:d:0.5]")]),
    ("(a|b) [c:d:0.5]", [(10, "(a|b) [c:d:0.5]")]),
    (r"\[a:b:0.5\]", [(10, r"\[a:b:0.5\]")]),
    (r"[a\:b:c\|:0.5]", [(5, r"a\:b"), (10, r"c\|")]),
    ("[a:b:0.5] \\", [(10, "[a:b:0.5] \\")]),
    ("[a|[b:c:5]]", [(n, "a" if n % 2 else "b" if n <= 5 else "c") for n in range(1, 11)]),
    ("[(a:b:0.5]", [(10, "[(a:b:0.5]")]),
]


@pytest.mark.parametrize(("prompt", "texts"), TEN)
def test_texts_at_ten_steps(prompt: str, texts: list[tuple[int, str]]) -> None:
    template = parse_template(prompt)
    expected = [next(text for end, text in texts if step < end) for step in range(10)]
    assert [render(template, step, 10) for step in range(10)] == expected
    assert parse_template(write_template(template)) == template


def test_a_template_is_switches_and_cycles() -> None:
    assert parse_template("a [b:[c|d]:0.25]") == (
        "a ",
        Switch(("b",), (Cycle((("c",), ("d",))),), 0.25, True),
    )


def test_stages_are_half_open_and_fill_the_walk() -> None:
    told = timeline(parse("a [b:c:0.5] AND [d|e] :2", "a1111"), 4)
    assert [(s.begin, s.end) for s in told.stages] == [(0, 1), (1, 2), (2, 3), (3, 4)]
    assert len(told.conditions) == 4
    assert [[p for p, _ in stage.parts] for stage in told.stages] == [[0, 1], [0, 2], [3, 1], [3, 2]]
    assert {tuple(w for _, w in stage.parts) for stage in told.stages} == {(1.0, 2.0)}
    assert told.at(3) is told.stages[3]


def test_equal_neighbours_are_one_stage() -> None:
    told = timeline(parse("[a:a:0.5] [x|x]", "a1111"), 8)
    assert [(s.begin, s.end) for s in told.stages] == [(0, 8)]


def test_weights_are_read_from_the_text_of_a_step() -> None:
    parsed = parse("(a:[1.2:1.4:2])", "a1111")
    weights = [at_step(parsed, step, 4)[0].words[0].sections[0].spans[0].weight for step in range(4)]
    assert weights == pytest.approx([1.2, 1.2, 1.4, 1.4])


@given(st.text(alphabet="ab:|[]()0.5\\ ", max_size=30), st.integers(1, 12))
def test_a_timeline_says_what_each_step_says(prompt: str, steps: int) -> None:
    parsed = parse(prompt, "a1111")
    told = timeline(parsed, steps)
    assert told.stages[0].begin == 0
    assert told.stages[-1].end == steps
    assert all(a.end == b.begin for a, b in zip(told.stages, told.stages[1:], strict=False))
    assert len(set(told.conditions)) == len(told.conditions)
    for step in range(steps):
        parts = tuple(Part(told.conditions[place].words, weight) for place, weight in told.at(step).parts)
        assert parts == at_step(parsed, step, steps)


@pytest.mark.parametrize("step", [-1, 4])
def test_steps_outside_are_refused(step: int) -> None:
    with pytest.raises(InvalidRequest, match="0 to 3"):
        at_step(parse("a", "a1111"), step, 4)
    with pytest.raises(InvalidRequest, match="at least 1"):
        timeline(parse("a", "a1111"), 0)


def test_schedules_too_deep_are_refused() -> None:
    deep = "[a:" * (DEEPEST + 1) + "b" + ":1]" * (DEEPEST + 1)
    with pytest.raises(InvalidRequest, match="64 deep"):
        parse(deep, "a1111")
    assert len(timeline(parse(deep[3:-3], "a1111"), 3).stages) == 2


def test_a_level_belongs_to_the_step_that_begins_at_or_above_it() -> None:
    levels = [float("inf"), 10.0, 3.0, 1.0, 0.0]
    assert [step_of(levels, level) for level in (float("inf"), 11, 10, 9.9, 3, 2, 1, 0.5, 0)] == [
        0, 0, 1, 1, 2, 2, 3, 3, 3,
    ]  # fmt: skip
    assert step_of([5.0, 0.0], 7.0) == 0
