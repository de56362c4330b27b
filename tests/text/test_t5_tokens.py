"""T5's tokens: both forms of a vocabulary agree with the packages that made them."""

from __future__ import annotations

import io

import pytest
import sentencepiece
from tokenizers import Tokenizer
from tokenizers.models import Unigram
from tokenizers.pre_tokenizers import Metaspace

from sfumato.errors import WeightsError
from sfumato.text.t5 import T5Tokens

TEXTS = [
    f"{a} {b} {c}"
    for a in ("red", "green", "blue")
    for b in ("cat", "dog", "rocket")
    for c in ("runs", "flies")
]


@pytest.fixture(scope="module")
def model() -> bytes:
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(TEXTS * 20),
        model_writer=out,
        vocab_size=40,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    return out.getvalue()


def test_a_spiece_model(model: bytes, tmp_path) -> None:
    (tmp_path / "spiece.model").write_bytes(model)
    tokens = T5Tokens.load(tmp_path)
    own = sentencepiece.SentencePieceProcessor(model_proto=model)
    for text in ("red cat", "blue rocket flies", ""):
        ids = tokens.split(text)
        assert ids == own.EncodeAsIds(text)
        assert (
            "".join(tokens.piece(i) for i in ids).replace("\N{LOWER ONE EIGHTH BLOCK}", " ").strip() == text
        )
    assert own.DecodeIds(tokens.split("green dog")) == "green dog"


def test_a_tokenizer_json(tmp_path) -> None:
    made = Tokenizer(
        Unigram([("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁red", -1.0), ("▁cat", -1.5)], unk_id=2)
    )
    made.pre_tokenizer = Metaspace()
    made.save(str(tmp_path / "tokenizer.json"))
    tokens = T5Tokens.load(tmp_path)
    assert tokens.split("red cat") == [3, 4]
    assert tokens.split("") == []
    assert tokens.piece(4) == "▁cat"


def test_a_missing_or_damaged_vocabulary_is_told(tmp_path) -> None:
    with pytest.raises(WeightsError, match="comes with the checkpoint"):
        T5Tokens.load(tmp_path)
    for name in ("tokenizer.json", "spiece.model"):
        (tmp_path / name).write_bytes(b"nothing of the kind")
        with pytest.raises(WeightsError, match="cannot be read"):
            T5Tokens.load(tmp_path / name)
