import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from sfumato.errors import InvalidRequest, WeightsError
from sfumato.nn.bert import Bert, BertConfig
from sfumato.text.encoder import TextEncoder, data_sha256
from sfumato.text.tokens import MAX_TOKENS, SPECIAL, Tokenizer
from sfumato.weights.packed import save_packed

HERE = Path(__file__).parent
ASSETS = HERE.parents[1] / "sfumato" / "assets" / "emoji"
FILES = ("text.safetensors", "vocab.txt")
ENCODER = TextEncoder.load(ASSETS)


def cosine(first: str, second: str) -> float:
    one, other = ENCODER.encode([first, second]).pooled
    return float(one @ other)


def test_the_files_are_small() -> None:
    assert sum((ASSETS / name).stat().st_size for name in FILES) <= 13.4 * 2**20


def test_sentence_vectors_are_near_the_original_models() -> None:
    with safe_open(HERE / "original.safetensors", "pt") as file:
        texts = json.loads(file.metadata()["texts"])
        original = file.get_tensor("pooled").float()
    cosines = (ENCODER.encode(texts).pooled * original).sum(dim=1)
    assert len(texts) == 100
    assert cosines.mean() >= 0.95
    assert cosines.median() >= 0.99


def test_words_of_like_meaning_are_near() -> None:
    assert cosine("automobile", "car") > 0.8
    assert cosine("automobile", "banana") < 0.4


def test_shapes_and_padding() -> None:
    states, mask, pooled = ENCODER.encode(["a red apple", "", "two cats and a dog"])
    assert states.shape == (3, MAX_TOKENS, 384)
    assert states.dtype == pooled.dtype == torch.float32
    assert mask.dtype == torch.bool
    assert mask.sum(dim=1).tolist() == [5, 2, 7]
    assert (states[~mask] == 0).all()
    assert not states.requires_grad
    mean = states[0, :5].mean(dim=0)
    torch.testing.assert_close(pooled[0], mean / mean.norm())
    torch.testing.assert_close(pooled.norm(dim=1), torch.ones(3))


def test_no_prompts() -> None:
    assert ENCODER.encode([]).tokens.shape == (0, MAX_TOKENS, 384)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.text(st.characters(), max_size=60), min_size=1, max_size=5))
def test_rows_do_not_depend_on_their_company(prompts: list[str]) -> None:
    try:
        together = ENCODER.encode([*prompts, "a filler prompt " * 9])
    except InvalidRequest:
        return
    assert torch.isfinite(together.tokens).all()
    for row, prompt in enumerate(prompts):
        alone = ENCODER.encode([prompt])
        torch.testing.assert_close(alone.tokens[0], together.tokens[row], rtol=0, atol=1e-5)
        torch.testing.assert_close(alone.pooled[0], together.pooled[row], rtol=0, atol=1e-5)


def test_many_prompts_keep_their_order() -> None:
    prompts = [f"{'very ' * (number % 7)}big number {number}" for number in range(150)]
    together = ENCODER.encode(prompts)
    for row in (0, 63, 64, 149):
        torch.testing.assert_close(
            ENCODER.encode([prompts[row]]).pooled[0], together.pooled[row], rtol=0, atol=1e-5
        )


def test_long_prompts_are_cut_and_counted() -> None:
    prompt = "apple " * 10_000
    assert ENCODER.count(prompt) == 10_002
    assert ENCODER.dropped(prompt) == 10_002 - MAX_TOKENS
    assert ENCODER.dropped("a red apple") == 0
    cut = ENCODER.encode([prompt, "apple " * (MAX_TOKENS - 2)])
    torch.testing.assert_close(cut.pooled[0], cut.pooled[1])


def test_a_lone_surrogate_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="lone surrogate"):
        ENCODER.encode(["a cat", "\ud83d"])


def flip_a_weight(folder: Path) -> None:
    path = folder / FILES[0]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut_the_weights(folder: Path) -> None:
    path = folder / FILES[0]
    path.write_bytes(path.read_bytes()[:-100])


def swap_two_words(folder: Path) -> None:
    path = folder / FILES[1]
    lines = path.read_text(encoding="utf-8").split("\n")
    lines[500], lines[501] = lines[501], lines[500]
    path.write_text("\n".join(lines), encoding="utf-8")


def store_another_model(folder: Path) -> None:
    save_packed(folder / FILES[0], {"weight": torch.ones(3)}, {"model": "other"})


@pytest.mark.parametrize(
    "damage",
    [
        flip_a_weight,
        cut_the_weights,
        swap_two_words,
        store_another_model,
        lambda folder: (folder / FILES[0]).unlink(),
        lambda folder: (folder / FILES[1]).unlink(),
        lambda folder: (folder / FILES[0]).write_bytes(b""),
    ],
)
def test_damaged_files_are_refused(damage: Callable[[Path], None], tmp_path: Path) -> None:
    for name in FILES:
        shutil.copy(ASSETS / name, tmp_path)
    TextEncoder.load(tmp_path)
    damage(tmp_path)
    with pytest.raises(WeightsError):
        TextEncoder.load(tmp_path)


@pytest.mark.parametrize("config", [{}, {"vocabulary": 4}, "small", {"vocabulary": 4, "wide": 8}])
def test_whole_files_of_another_model_are_refused(config: object, tmp_path: Path) -> None:
    weights, vocabulary = tmp_path / FILES[0], tmp_path / FILES[1]
    vocabulary.write_bytes("\n".join(SPECIAL).encode())
    facts = {"config": config, "vocab_sha256": hashlib.sha256(vocabulary.read_bytes()).hexdigest()}
    save_packed(weights, {"words.weight": torch.ones(4, 8)}, facts)
    save_packed(weights, {"words.weight": torch.ones(4, 8)}, {**facts, "data_sha256": data_sha256(weights)})
    with pytest.raises(WeightsError, match="not a text encoder's"):
        TextEncoder.load(tmp_path)


def test_parts_that_do_not_fit() -> None:
    bert = Bert(BertConfig(vocabulary=5, width=8, layers=1, heads=2, mlp=8, positions=16))
    with pytest.raises(ValueError, match="the encoder has 5 words, the tokenizer 4"):
        TextEncoder(bert, Tokenizer(SPECIAL))
    with pytest.raises(ValueError, match="length 32 is more than the 16 positions"):
        TextEncoder(bert, Tokenizer([*SPECIAL, "fox"]))
