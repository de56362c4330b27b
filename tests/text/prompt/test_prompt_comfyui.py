"""ComfyUI's dialect: weights derived by hand from its grammar; neighbours stay apart, as they are tokenised apart."""

from __future__ import annotations

import pytest

from sfumato.errors import InvalidRequest
from sfumato.text.prompt.comfyui import pieces_of, read, write_words
from sfumato.text.prompt.dialects import embeddings, parse, parts_at, written_in
from sfumato.text.prompt.parts import Section, Span, Words

TABLE: list[tuple[str, list[tuple[str, float]]]] = [
    ("", []),
    ("normal text", [("normal text", 1)]),
    ("an (important) word", [("an ", 1), ("important", 1.1), (" word", 1)]),
    ("(a:1.5)", [("a", 1.5)]),
    ("(a:.5)(b:2.)", [("a", 0.5), ("b", 2)]),
    ("(a: 1.3 )", [("a", 1.3)]),
    ("(a:-1)(b:+1)", [("a", -1), ("b", 1)]),
    ("(a:1e1)", [("a", 10)]),
    ("((a))", [("a", 1.21)]),
    ("(((a)))", [("a", 1.331)]),
    ("((a:1.2))", [("a", 1.2)]),
    ("((a):1.2)", [("a", 1.2 * 1.1)]),
    ("((a:1.2):1.5)", [("a", 1.2)]),
    ("(b (a:1.2):1.5)", [("b ", 1.5), ("a", 1.2)]),
    ("(b (a:1.2) c)", [("b ", 1.1), ("a", 1.2), (" c", 1.1)]),
    ("(b (a) c:2)", [("b ", 2), ("a", 2.2), (" c", 2)]),
    ("(a:b:1.4)", [("a:b", 1.4)]),
    ("(a:b)", [("a:b", 1.1)]),
    ("(a:1.2.3)", [("a:1.2.3", 1.1)]),
    ("(a:)", [("a:", 1.1)]),
    ("(:1.2)", [(":1.2", 1.1)]),
    ("()", []),
    ("a () b", [("a ", 1), (" b", 1)]),
    ("un(necess)ary", [("un", 1), ("necess", 1.1), ("ary", 1)]),
    ("(a)(b)", [("a", 1.1), ("b", 1.1)]),
    ("[a] [b:c:0.5] [d|e]", [("[a] [b:c:0.5] [d|e]", 1)]),
    ("a BREAK b AND c", [("a BREAK b AND c", 1)]),
    ("<lora:x:1>", [("<lora:x:1>", 1)]),
    (r"\(literal\)", [("(literal)", 1)]),
    (r"(a \(b\):1.2)", [("a (b)", 1.2)]),
    (r"(a\):1.2)", [("a)", 1.2)]),
    (r"\[x\] \\", [(r"\[x\] \\", 1)]),
    (r"\\(a)", [("\\(a)", 1)]),
    ("16:9", [("16:9", 1)]),
    ("(16:9)", [("16", 9)]),
    ("(open", [("(open", 1)]),
    ("a (open (b)", [("a ", 1), ("open ", 1.1), ("(b", 1.1)]),
    ("a (open (b) c", [("a ", 1), ("(open (b) c", 1)]),
    ("close) b", [("close) b", 1)]),
    ("close) (b) c", [("close) (b) c", 1)]),
    ("a) ( (b)", [("a) ( ", 1), ("b", 1.1)]),
    ("line\nbreak (x:1.2)", [("line\nbreak ", 1), ("x", 1.2)]),
    ("(日本:1.2)😀", [("日本", 1.2), ("😀", 1)]),
    ("embedding:cat (embedding:dog:1.2)", [("embedding:cat ", 1), ("embedding:dog", 1.2)]),
]


@pytest.mark.parametrize(("prompt", "expected"), TABLE)
def test_weights(prompt: str, expected: list[tuple[str, float]]) -> None:
    ((section,),) = ([*words.sections] for words in read(prompt))
    assert [span.text for span in section.spans] == [text for text, _ in expected]
    assert [span.weight for span in section.spans] == pytest.approx([w for _, w in expected], rel=1e-12)
    words = Words((section,))
    assert read(write_words(words)) == (words,)


def test_the_table_is_long() -> None:
    assert len(TABLE) >= 40


@pytest.mark.parametrize("prompt", ["(a:nan)", "(a:inf)", "(a:1e999)", "(b:-inf)"])
def test_a_weight_that_is_not_finite_is_refused(prompt: str) -> None:
    with pytest.raises(InvalidRequest, match="not a finite number"):
        parse(prompt, "comfyui")


def test_embeddings_are_named() -> None:
    assert list(pieces_of("a embedding:x b embedding:y, c")) == [("", "a"), ("x", "b"), ("y,", "c")]
    assert list(pieces_of("embedding:x")) == [("x", "")]
    assert embeddings(parse("a embedding:x b (embedding:y:1.2) embedding:x", "comfyui")) == ("x", "y")
    assert embeddings(parse("embedding:x", "a1111")) == ()


def test_a_prompt_goes_from_a1111_to_comfyui() -> None:
    (part,) = parts_at(parse("a ((house)) [by] the (sea:1.3)", "a1111"), 0, 1)
    text = written_in(part.words[0], "comfyui")
    spans = read(text)[0].sections[0].spans
    assert [span.text for span in spans] == ["a ", "house", " ", "by", " the ", "sea"]
    assert [span.weight for span in spans] == pytest.approx([1, 1.21, 1, 1 / 1.1, 1, 1.3])
    with pytest.raises(InvalidRequest, match="no sections"):
        written_in(Words((Section((Span("a"),)), Section((Span("b"),)))), "comfyui")
