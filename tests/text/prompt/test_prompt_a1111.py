"""A1111's dialect: weights, sections, parts and adapters, derived by hand from its published grammar."""

from __future__ import annotations

import pytest

from sfumato.errors import InvalidRequest
from sfumato.text.prompt.a1111 import read, take_adapters, write_words
from sfumato.text.prompt.dialects import notes, parse, write
from sfumato.text.prompt.parts import Adapter, Section, Span, Words

UP, DOWN = 1.1, 1 / 1.1
TABLE: list[tuple[str, list[list[tuple[str, float]]]]] = [
    ("", [[]]),
    ("normal text", [[("normal text", 1)]]),
    ("an (important) word", [[("an ", 1), ("important", UP), (" word", 1)]]),
    ("((very)) (((much)))", [[("very", UP**2), (" ", 1), ("much", UP**3)]]),
    ("[less] of [[that]]", [[("less", DOWN), (" of ", 1), ("that", DOWN**2)]]),
    ("(a:1.5) b", [[("a", 1.5), (" b", 1)]]),
    ("(a:.5)(b:2.)", [[("a", 0.5), ("b", 2)]]),
    ("(a:-1) (b:+1.25)", [[("a", -1), (" ", 1), ("b", 1.25)]]),
    ("(a : 1.3 )", [[("a ", 1.3)]]),
    ("(a:\n1.3)", [[("a", 1.3)]]),
    ("((a:1.5))", [[("a", 1.5 * UP)]]),
    ("((a:1.5):2)", [[("a", 3)]]),
    ("(one (two:2) three:1.5)", [[("one ", 1.5), ("two", 3), (" three", 1.5)]]),
    ("[(a)]", [[("a", 1)]]),
    ("([a])b", [[("ab", 1)]]),
    ("(a [b) c]", [[("a ", UP), ("b", 1), (" c", DOWN)]]),
    ("[a:1.3]", [[("a:1.3", DOWN)]]),
    ("([a:1.3)]", [[("a", 1.3 * DOWN)]]),
    ("(unbalanced", [[("unbalanced", UP)]]),
    ("((a) b", [[("a", UP**2), (" b", UP)]]),
    ("[open (both", [[("open ", DOWN), ("both", 1)]]),
    ("close) here]", [[("close) here]", 1)]]),
    ("a:1.3) b", [[("a:1.3) b", 1)]]),
    ("(a:1.2.3)", [[("a:1.2.3", UP)]]),
    ("(a:b:1.4)", [[("a:b", 1.4)]]),
    ("16:9, (4:3)", [[("16:9, ", 1), ("4", 3)]]),
    (r"\(literal\]", [[("(literal]", 1)]]),
    (r"(a \(b\):1.2)", [[("a (b)", 1.2)]]),
    (r"(a\:1.2)", [[("a", 1.2)]]),
    (r"back\\slash \word", [[("back\\slash word", 1)]]),
    ("(unnecessary)(parens)", [[("unnecessaryparens", UP)]]),
    ("()[]", [[]]),
    ("(:1.2)", [[]]),
    ("a BREAK b", [[("a", 1)], [("b", 1)]]),
    ("BREAK a BREAK", [[], [("a", 1)], []]),
    ("(a  BREAK\n b:1.2)", [[("a", 1.2)], [("b", 1.2)]]),
    ("BREAKING BREAKS", [[("BREAKING BREAKS", 1)]]),
    (r"a BR\EAK b", [[("a BREAK b", 1)]]),
    ("{a|b} <c", [[("{a|b} <c", 1)]]),
    ("日本 (猫:1.2) 😀", [[("日本 ", 1), ("猫", 1.2), (" 😀", 1)]]),
    (
        "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
        [
            [
                ("a ", 1), ("house", 1.3 * UP**2), (" ", UP), ("on", 1), (" a ", UP), ("hill", 0.5 * UP),
                (", sun, ", UP), ("sky", UP**4), (".", UP),
            ]
        ],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("prompt", "expected"), TABLE)
def test_weights(prompt: str, expected: list[list[tuple[str, float]]]) -> None:
    (words,) = read(prompt)
    assert [[span.text for span in s.spans] for s in words.sections] == [[t for t, _ in s] for s in expected]
    for section, wanted in zip(words.sections, expected, strict=True):
        assert [span.weight for span in section.spans] == pytest.approx([w for _, w in wanted], rel=1e-12)


def test_the_table_is_long() -> None:
    assert len(TABLE) >= 40


@pytest.mark.parametrize(
    ("prompt", "parts"),
    [
        ("a cat", [("a cat", 1)]),
        ("a AND b", [("a", 1), (" b", 1)]),
        ("a :1.2 AND b:-.5 AND c : 2", [("a", 1.2), (" b", -0.5), (" c", 2)]),
        ("a AND", [("a", 1), ("", 1)]),
        ("BAND AND ANDY", [("BAND", 1), (" ANDY", 1)]),
        ("(a:1.2) AND (b:1.3)", [("(a:1.2)", 1), (" (b:1.3)", 1)]),
        ("a wide view, 16:9", [("a wide view, 16", 9)]),
        ("a:", [("a:", 1)]),
        ("a : 1e5", [("a : 1e5", 1)]),
    ],
)
def test_parts_and_their_weights(prompt: str, parts: list[tuple[str, float]]) -> None:
    found = [("".join(map(str, p.template)), p.weight) for p in parse(prompt, "a1111").parts]
    assert found == parts


def test_a_negative_prompt_has_one_part() -> None:
    (part,) = parse("a AND b :3", "a1111", compose=False).parts
    assert (part.template, part.weight) == (("a AND b :3",), 1)


@pytest.mark.parametrize(
    ("prompt", "rest", "adapters"),
    [
        ("a <lora:x:0.8> b", "a  b", [Adapter("lora", "x", 0.8, 0.8)]),
        ("<lora:x>", "", [Adapter("lora", "x", 1, 1)]),
        ("<lora:x:0.5:1.5>", "", [Adapter("lora", "x", 0.5, 1.5)]),
        ("<lyco:y:te=0.2:unet=0.4:dyn=8>", "", [Adapter("lyco", "y", 0.2, 0.4, (("dyn", "8"),))]),
        ("<lora:x:unet=0.4>", "", [Adapter("lora", "x", 1, 0.4)]),
        ("<hypernet:h:-1>", "", [Adapter("hypernet", "h", -1, -1)]),
        ("[<lora:a:1>cat:dog:0.5]", "[cat:dog:0.5]", [Adapter("lora", "a")]),
        ("a < b > c <lora:>", "a < b > c <lora:>", []),
        ("<lora:a:1><lora:b:2>", "", [Adapter("lora", "a"), Adapter("lora", "b", 2, 2)]),
    ],
)
def test_adapters_are_taken_out(prompt: str, rest: str, adapters: list[Adapter]) -> None:
    assert take_adapters(prompt) == (rest, tuple(adapters))


@pytest.mark.parametrize("prompt", ["(" * 1001 + "a", "(a:10001)", "(a:-10001)", "a :10001", "<lora:x:1e38>"])
def test_a_weight_beyond_sense_is_refused(prompt: str) -> None:
    with pytest.raises(InvalidRequest, match="a finite number from -10000 to 10000"):
        parse(prompt, "a1111")
    ((span,),) = [section.spans for section in read("(a:10000)")[0].sections]
    assert span.weight == 10000


def test_the_weight_of_a_whole_prompt_is_told() -> None:
    """And what the note says to write has the colon and no weight."""
    (said,) = notes("a wide view, 16:9", "a1111")
    assert "weighs 9," in said
    assert "':\\9'" in said
    meant = parse(r"a wide view, 16:\9", "a1111").parts[0]
    assert meant.weight == 1
    assert read(str(meant.template[0]))[0].sections[0].spans == (Span("a wide view, 16:9"),)
    assert not any(notes(text, "a1111") for text in ("a cat", "a :9 AND b", "a :1", r"a 16:\9"))


@pytest.mark.parametrize("prompt", ["<lora:x:strong>", "<lora:x:nan>", "<lora:x:1:2:3>", "<lora:x:te=a>"])
def test_a_strength_that_is_no_number_is_refused(prompt: str) -> None:
    with pytest.raises(InvalidRequest, match="<lora:x"):
        parse(prompt, "a1111")


@pytest.mark.parametrize(
    "prompt",
    [
        "a [cat:dog:0.5] AND b :1.5 <lora:x:0.5:0.25:dyn=8>",
        "x [a|[b:2]|] y AND z",
        "ratio 16:9",
        "[a:b:1.0] [c::7]",
        r"\(a\) (b:1.2) BREAK c",
        "",
        "<lora:x>",
    ],
)
def test_what_is_written_reads_the_same(prompt: str) -> None:
    parsed = parse(prompt, "a1111")
    assert parse(write(parsed), "a1111") == parsed


def test_texts_that_look_like_syntax_are_escaped() -> None:
    spans = (Span(r"(a) \ [b]:1.2) BREAK AND ", 1.0), Span(":", 0.000012), Span("x", -1e4))
    words = Words((Section(spans), Section((Span("BREAK"),))))
    assert read(write_words(words)) == (words,)
    with pytest.raises(InvalidRequest, match="whole sections"):
        write_words(Words((Section((Span("a"),), 0.5),)))
