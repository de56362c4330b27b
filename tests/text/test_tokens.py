import time
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertTokenizer

from sfumato.errors import InvalidRequest, WeightsError
from sfumato.text.tokens import MAX_TOKENS, SPECIAL, Tokenizer

VOCABULARY = Path(__file__).parents[2] / "sfumato" / "assets" / "emoji" / "vocab.txt"
OURS = Tokenizer.load(VOCABULARY)
INDEX = {token: number for number, token in enumerate(OURS.vocabulary)}
THEIRS = BertTokenizer(vocab=INDEX)

TEXTS = [
    "",
    " ",
    "a red apple",
    "A RED Apple, 3D style!",
    "crème brûlée à la Provençale",
    "cre\u0300me bru\u0302le\u0301e",
    "naïve façade — “quoted” … it's 50% off (really)?!",
    "don't stop-motion: mother-in-law's e-mail@example.com #1 $5 ^_^",
    "我喜欢猫 and 犬",
    "日本の寿司 ラーメン",
    "한국어 텍스트",
    "😀 smile 👩‍🚀 🏳️‍🌈",
    "tab\tnew\nline\r\u00a0nbsp\u2003em\u3000wide",
    "zero\u200bwidth \u00adsoft \x00nul \x07bell \ufffdreplaced",
    "ẞ straße Øre łódź İstanbul ﬁne ½ ²",
    "x" * 100,
    "x" * 101,
    "hippopotamus typewriter stethoscope",
    "русский текст ελληνικά עברית العربية",
]


def their_pieces(text: str) -> list[int]:
    return THEIRS(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("text", TEXTS)
def test_is_the_function_of_transformers(text: str) -> None:
    assert OURS.pieces(text) == their_pieces(text)


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=60).filter(lambda text: "[" not in text))
def test_any_text_as_transformers(text: str) -> None:
    assert OURS.pieces(text) == their_pieces(text)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.text(st.characters(), max_size=40), max_size=4), st.integers(2, 40))
def test_any_text(prompts: list[str], length: int) -> None:
    try:
        batch = OURS(prompts, length)
    except InvalidRequest:
        assert any("\ud800" <= character <= "\udfff" for prompt in prompts for character in prompt)
        return
    assert batch.ids.shape == batch.mask.shape == (len(prompts), length)
    assert batch.ids.dtype == torch.int64
    assert ((batch.ids >= 0) & (batch.ids < len(OURS.vocabulary))).all()
    for row, prompt in enumerate(prompts):
        alone = OURS([prompt], length)
        assert torch.equal(alone.ids[0], batch.ids[row])
        assert torch.equal(alone.mask[0], batch.mask[row])
        size = int(batch.mask[row].sum())
        assert batch.mask[row, :size].all()
        assert batch.ids[row, 0] == INDEX["[CLS]"]
        assert batch.ids[row, size - 1] == INDEX["[SEP]"]
        assert (batch.ids[row, size:] == INDEX["[PAD]"]).all()
        assert size + batch.dropped[row] == OURS.count(prompt)


def test_the_empty_prompt_is_start_and_end() -> None:
    batch = OURS([""])
    assert batch.ids.shape == (1, MAX_TOKENS)
    assert batch.ids[0, :2].tolist() == [INDEX["[CLS]"], INDEX["[SEP]"]]
    assert batch.mask.sum() == 2
    assert OURS.count("") == 2


def test_a_long_prompt_is_cut_and_says_so() -> None:
    prompt = "red apple " * 20
    batch = OURS(["red apple", prompt])
    assert batch.dropped == (0, 42 - MAX_TOKENS)
    assert batch.mask[1].all()
    assert batch.ids[1, 1:-1].tolist() == OURS.pieces(prompt)[: MAX_TOKENS - 2]


def test_markers_in_a_prompt_are_plain_text() -> None:
    pieces = OURS.pieces("cat [SEP] dog [PAD] [CLS] [UNK]")
    assert not {INDEX[token] for token in SPECIAL} & set(pieces)


def test_ten_thousand_words_take_linear_time() -> None:
    def seconds(words: int) -> float:
        prompt = "a red apple on stethoscope " * (words // 5)
        best = float("inf")
        for _ in range(3):
            started = time.process_time()
            OURS([prompt])
            best = min(best, time.process_time() - started)
        return best

    assert seconds(40_000) < 12 * max(seconds(10_000), 1e-3)


@pytest.mark.parametrize("prompt", ["\ud800", "a cat \udc80 here", "\udfff\ud800"])
def test_a_lone_surrogate_is_refused(prompt: str) -> None:
    with pytest.raises(InvalidRequest, match=r"lone surrogate U\+D[0-9A-F]{3}"):
        OURS([prompt])


@pytest.mark.parametrize("prompts", ["one string", [b"bytes"], [None], [3]])
def test_what_is_not_a_list_of_strings_is_refused(prompts: object) -> None:
    with pytest.raises(InvalidRequest, match="string"):
        OURS(prompts)  # type: ignore[arg-type]


def test_a_length_without_room_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="at least 2"):
        OURS(["cat"], length=1)


def test_damaged_vocabularies(tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    with pytest.raises(WeightsError, match="cannot read"):
        Tokenizer.load(path)
    for data, why in (
        (b"\xff\xfe", "not UTF-8"),
        (b"[PAD]\n[UNK]\n[CLS]\nfox\n", r"has no \[SEP\]"),
        (b"[PAD]\n[UNK]\n[CLS]\n[SEP]\nfox\nfox\n", "twice"),
    ):
        path.write_bytes(data)
        with pytest.raises(WeightsError, match=why):
            Tokenizer.load(path)
