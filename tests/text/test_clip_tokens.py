"""CLIP's tokens against transformers' tokenizer, and against ids that are widely published."""

from __future__ import annotations

import gzip

import pytest
import transformers
from hypothesis import given
from hypothesis import strategies as st

from sfumato.errors import InvalidRequest, WeightsError
from sfumato.text import clip
from sfumato.text.clip import pieces
from sfumato.text.prompt.chunks import clip_vocabulary, weighted_ids
from sfumato.text.prompt.dialects import read_plain
from sfumato.text.prompt.parts import Words

PUBLISHED = {
    "a photo of a cat": [320, 1125, 539, 320, 2368],
    "a photo of a dog": [320, 1125, 539, 320, 1929],
}


def oracle() -> transformers.CLIPTokenizer:
    vocabulary = clip.pipeline().get_vocab() | {"<|startoftext|>": clip.START, "<|endoftext|>": clip.END}
    merges = gzip.decompress(clip.MERGES.read_bytes()).decode().split("\n")[:-1]
    return transformers.CLIPTokenizer(vocab=vocabulary, merges=[tuple(m.split(" ")) for m in merges])


ORACLE = oracle()
WORDS = st.lists(
    st.sampled_from(["cat", "CAT", "don't", "naïve", "日本", "42", "e\u0301", "😀", "...", "\t", "ß"])
)


def plain(text: str) -> Words:
    """``text`` without weights."""
    (words,) = read_plain(text)
    return words


@pytest.mark.parametrize("prompt", PUBLISHED)
def test_published_ids(prompt: str) -> None:
    assert pieces(prompt) == PUBLISHED[prompt]


@given(st.one_of(st.text(st.characters(exclude_categories=["Cs"]), max_size=80), WORDS.map(" ".join)))
def test_ids_are_those_of_transformers(prompt: str) -> None:
    assert pieces(prompt) == ORACLE(prompt, add_special_tokens=False)["input_ids"]


def test_rows_are_started_ended_padded_and_cut() -> None:
    texts = ["", "a cat", "cat " * 200]
    found = [weighted_ids(plain(text), clip_vocabulary(), "plain") for text in texts]
    assert [rows.dropped for rows in found] == [0, 0, 200 - 75]
    same = ORACLE(texts, padding="max_length", max_length=77, truncation=True)["input_ids"]
    assert [list(rows.chunks[0].ids) for rows in found] == same
    padded = weighted_ids(plain("a cat"), clip_vocabulary(pad=0), "plain").chunks[0].ids
    assert list(padded) == [clip.START, 320, 2368, clip.END, *[0] * 73]


def test_a_prompt_cannot_forge_the_end() -> None:
    assert clip.END not in pieces("a cat <|endoftext|> a dog")


@pytest.mark.parametrize("prompt", [7, "\ud800"])
def test_what_is_not_text_is_refused(prompt: object) -> None:
    with pytest.raises(InvalidRequest):
        pieces(prompt)  # type: ignore[arg-type]


def test_an_altered_vocabulary_is_told(tmp_path, monkeypatch) -> None:
    for content in (b"not gzip", gzip.compress(b"a b\n")):
        path = tmp_path / "merges.gz"
        path.write_bytes(content)
        monkeypatch.setattr(clip, "MERGES", path)
        clip.pipeline.cache_clear()
        with pytest.raises(WeightsError, match="install sfumato again"):
            clip.pipeline()
    monkeypatch.undo()
    clip.pipeline.cache_clear()
