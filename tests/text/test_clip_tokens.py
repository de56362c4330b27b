"""CLIP's tokens against transformers' tokenizer, and against ids that are widely published."""

from __future__ import annotations

import gzip

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from sfumato.errors import InvalidRequest, WeightsError
from sfumato.text import clip
from sfumato.text.clip import clip_ids, pieces

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


@pytest.mark.parametrize("prompt", PUBLISHED)
def test_published_ids(prompt: str) -> None:
    assert pieces(prompt) == PUBLISHED[prompt]


@given(st.one_of(st.text(st.characters(exclude_categories=["Cs"]), max_size=80), WORDS.map(" ".join)))
def test_ids_are_those_of_transformers(prompt: str) -> None:
    assert pieces(prompt) == ORACLE(prompt, add_special_tokens=False)["input_ids"]


def test_rows_are_started_ended_padded_and_cut() -> None:
    long = "cat " * 200
    ids, dropped = clip_ids(["", "a cat", long])
    assert ids.shape == (3, 77)
    assert dropped == (0, 0, 200 - 75)
    assert ids[0].tolist() == [clip.START, *[clip.END] * 76]
    assert ids[1, :5].tolist() == [clip.START, 320, 2368, clip.END, clip.END]
    assert ids[2, -1] == clip.END
    same = ORACLE(
        ["", "a cat", long], padding="max_length", max_length=77, truncation=True, return_tensors="pt"
    )
    assert torch.equal(ids, same["input_ids"])
    assert clip_ids(["a cat"], pad=0)[0][0, 4:].tolist() == [0] * 73


def test_a_prompt_cannot_forge_the_end() -> None:
    assert clip.END not in pieces("a cat <|endoftext|> a dog")


@pytest.mark.parametrize("prompt", [7, "\ud800"])
def test_what_is_not_text_is_refused(prompt: object) -> None:
    with pytest.raises(InvalidRequest):
        pieces(prompt)  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest):
        clip_ids("a cat")  # type: ignore[arg-type]


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
