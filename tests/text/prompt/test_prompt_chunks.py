"""Rows of tokens: what every row is, and where each school cuts."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfumato.errors import InvalidRequest, UnknownName
from sfumato.text.clip import END, START, pieces
from sfumato.text.prompt.chunks import Rows, clip_vocabulary, weighted_ids
from sfumato.text.prompt.dialects import DIALECTS
from tests.peers.clip_pair import clip_ids

CLIP = clip_vocabulary()
OPEN = clip_vocabulary(pad=0)
COMMA, CAT, DOG = pieces(",")[0], pieces("cat")[0], pieces("dog")[0]
TEXTS = st.lists(
    st.sampled_from(
        ["cat", "dog", ",", ".", "(", ")", ":1.3)", "BREAK", "unbelievably", "+", "x" * 40, "日本"]
    ),
    max_size=120,
).map(" ".join)


def rows(text: str, dialect: str, vocabulary=CLIP, **options: int) -> Rows:  # type: ignore[no-untyped-def]
    (words, *_) = DIALECTS[dialect].read(text)
    return weighted_ids(words, vocabulary, dialect, **options)


def content(found: Rows) -> list[list[int]]:
    """The tokens of each row, without markers and padding."""
    return [list(c.ids[1 : 1 + sum(s >= 0 for s in c.spans)]) for c in found.chunks]


@pytest.mark.parametrize("vocabulary", [CLIP, OPEN], ids=["clip", "open"])
@pytest.mark.parametrize("dialect", DIALECTS)
@given(text=TEXTS)
def test_every_row_is_start_tokens_end_padding(dialect: str, vocabulary, text: str) -> None:  # type: ignore[no-untyped-def]
    found = rows(text, dialect, vocabulary)
    assert found.chunks
    for chunk in found.chunks:
        assert len(chunk.ids) == len(chunk.weights) == len(chunk.spans) == 77
        held = sum(span >= 0 for span in chunk.spans)
        assert chunk.ids[0] == START
        assert chunk.ids[held + 1] == END
        assert set(chunk.ids[held + 2 :]) <= {vocabulary.pad}
        assert all((s >= 0) == (0 < place <= held) for place, s in enumerate(chunk.spans))
        assert all(w == 1 for w, s in zip(chunk.weights, chunk.spans, strict=True) if s < 0)
    # No token is lost, doubled or moved.
    (words, *_) = DIALECTS[dialect].read(text)
    whole = [i for section in words.sections for span in section.spans for i in pieces(span.text)]
    read = [i for row in content(found) for i in row]
    assert read == (whole[:75] if dialect == "plain" else whole)
    assert found.dropped == (max(len(whole) - 75, 0) if dialect == "plain" else 0)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_short_prompt_is_the_row_of_old(dialect: str) -> None:
    for vocabulary, pad in ((CLIP, END), (OPEN, 0)):
        found = rows("a photo of a cat", dialect, vocabulary)
        assert list(found.chunks[0].ids) == clip_ids(["a photo of a cat"], pad)[0].tolist()
        assert len(found.chunks) == 1
    assert content(rows("", dialect)) == [[]]


def test_a1111_cuts_after_75_tokens_or_after_a_near_comma() -> None:
    plain = "cat " * 80
    assert [len(row) for row in content(rows(plain, "a1111"))] == [75, 5]
    near = "cat " * 60 + ", " + "dog " * 30
    assert content(rows(near, "a1111")) == [[CAT] * 60 + [COMMA], [DOG] * 30]
    far = "cat " * 50 + ", " + "dog " * 30
    assert [len(row) for row in content(rows(far, "a1111"))] == [75, 6]
    assert [len(row) for row in content(rows(near, "a1111", backtrack=0))] == [75, 16]
    # Twenty tokens back is near, twenty-one is not: 75 - last counts from the comma itself.
    assert [len(r) for r in content(rows("cat " * 55 + ", " + "dog " * 20, "a1111"))] == [56, 20]
    assert [len(r) for r in content(rows("cat " * 54 + ", " + "dog " * 21, "a1111"))] == [75, 1]
    # A comma as the 76th token begins the next row.
    assert content(rows("cat, " * 1 + "cat " * 73 + ", dog", "a1111")) == [
        [CAT, COMMA, *[CAT] * 73],
        [COMMA, DOG],
    ]


@pytest.mark.parametrize(
    ("prompt", "held"),
    [
        ("cat BREAK dog", [1, 1]),
        ("BREAK cat", [0, 1]),
        ("cat BREAK", [1]),
        ("cat BREAK BREAK dog", [1, 0, 1]),
        ("BREAK", [0]),
        ("cat " * 75 + "BREAK dog", [75, 1]),
        ("cat " * 76 + "BREAK dog", [75, 1, 1]),
    ],
)
def test_break_begins_a_row(prompt: str, held: list[int]) -> None:
    assert [len(row) for row in content(rows(prompt, "a1111"))] == held


def test_comfyui_does_not_cut_a_short_run() -> None:
    short = "(cat:1.2) " * 73 + "(cat dog cat dog:1.3) dog"
    assert [len(row) for row in content(rows(short, "comfyui"))] == [73, 5]
    long = "(cat:1.2) " * 73 + "(" + "dog " * 9 + ":1.3)"
    assert content(rows(long, "comfyui")) == [[CAT] * 73 + [DOG] * 2, [DOG] * 7]
    assert [len(row) for row in content(rows("cat " * 160, "comfyui"))] == [75, 75, 10]


def test_compel_cuts_after_a_sentence_a_phrase_or_a_word() -> None:
    assert [len(r) for r in content(rows("cat " * 20 + ". " + "dog, " * 30 + "cat " * 9, "compel"))] == [
        21,
        69,
    ]
    assert [len(r) for r in content(rows("cat " * 70 + ", " + "dog " * 20, "compel"))] == [71, 20]
    word = len(pieces("x" * 40))
    assert [len(r) for r in content(rows("cat " * 74 + "x" * 40, "compel"))] == [74, word]
    assert len(content(rows("x" * 400, "compel"))[0]) == 75


def test_weights_go_with_their_tokens() -> None:
    (chunk,) = rows("a (red cat:1.5) [dog]", "a1111").chunks
    assert chunk.weights[:6] == pytest.approx((1, 1, 1.5, 1.5, 1 / 1.1, 1))
    assert chunk.spans[:6] == (-1, 0, 1, 1, 3, -1)


def test_embeddings_stand_for_their_names() -> None:
    known = replace(CLIP, embeddings={"bad-hands": (50001, 50002), "bad": (50000,)})
    (chunk,) = rows("a (Bad-Hands:1.2), bad cat", "a1111", known).chunks
    assert chunk.ids[1:8] == (pieces("a")[0], 50001, 50002, COMMA, 50000, CAT, END)
    assert chunk.weights[1:5] == (1, 1.2, 1.2, 1)
    (chunk,) = rows("a embedding:bad, cat (embedding:bad-hands:0.5)", "comfyui", known).chunks
    assert chunk.ids[1:8] == (pieces("a")[0], 50000, COMMA, CAT, 50001, 50002, END)
    assert content(rows("bad-hands", "comfyui", known)) == [pieces("bad-hands")]
    with pytest.raises(UnknownName, match="bad-hands"):
        rows("embedding:bad-hand", "comfyui", known)


def test_an_embedding_is_not_cut() -> None:
    known = replace(CLIP, embeddings={"style": tuple(range(50000, 50010))})
    for dialect, name in (("a1111", "style"), ("comfyui", "embedding:style")):
        found = rows("cat " * 70 + name, dialect, known)
        assert content(found)[1][:10] == list(range(50000, 50010)) or dialect == "comfyui"
        assert [i for row in content(found) for i in row][-10:] == list(range(50000, 50010))
    with pytest.raises(InvalidRequest, match="76 vectors"):
        rows("x", "a1111", replace(CLIP, embeddings={"long": tuple(range(76))}))


def test_an_unknown_dialect_is_told() -> None:
    with pytest.raises(UnknownName, match="a1111"):
        weighted_ids(DIALECTS["plain"].read("x")[0], CLIP, "a111")
