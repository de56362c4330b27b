"""Stored examples: what is stored ragged comes back as if every caption were encoded alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sfumato.condition import Cond
from sfumato.errors import WeightsError
from sfumato.train.pool import Pool, embed, load_pool

WIDTH = 4
CAPTIONS = ["one two three", "dog", "a dog with a long tail", "dog", "x y"]
WEIGHT = torch.tensor([1.0, 0.0, 3.0, 0.5, 5.5])


def states_of(text: str) -> Tensor:
    """One row a word (the empty text has one too), which depends on the word and its place."""
    words = text.split() or [""]
    return torch.tensor(
        [[sum(word.encode()) % 97, len(word), place, 1.0] for place, word in enumerate(words)]
    )


class Words:
    """An encoder that pads with rubbish and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, texts: Sequence[str]) -> Cond:
        self.asked += texts
        rows = [states_of(text) for text in texts]
        length = max(map(len, rows)) + 2
        tokens = torch.full((len(rows), length, WIDTH), 1e4)
        mask = torch.zeros(len(rows), length, dtype=torch.bool)
        for k, row in enumerate(rows):
            tokens[k, : len(row)], mask[k, : len(row)] = row, True
        return Cond(tokens=tokens, mask=mask, vector=torch.stack([row.mean(0) for row in rows]))


def pool(captions: Sequence[str] = CAPTIONS, weight: Tensor = WEIGHT, batch: int = 2) -> Pool:
    states, start, pooled = embed(captions, Words(), batch)
    empty, _, empty_pooled = embed([""], Words())
    return Pool(
        latent=torch.arange(len(captions) * 6.0).view(-1, 1, 2, 3).half(),
        states=states,
        start=start,
        pooled=pooled,
        weight=weight,
        empty_states=empty,
        empty_pooled=empty_pooled[0],
    )


@pytest.mark.parametrize("batch", [1, 2, 256])
def test_states_of_a_batch_are_those_of_each_caption_alone(batch: int) -> None:
    made = pool(batch=batch)
    rows = torch.tensor([2, 0, 4, 3, 1, 2])
    cond = made.conditions(rows, torch.zeros(6, dtype=torch.bool))
    assert cond.tokens is not None
    assert cond.mask is not None
    assert cond.vector is not None
    assert cond.tokens.shape == (6, 6, WIDTH)
    for k, row in enumerate(rows.tolist()):
        wanted = states_of(CAPTIONS[row])
        assert torch.equal(cond.tokens[k, : len(wanted)], wanted)
        assert cond.mask[k].tolist() == [True] * len(wanted) + [False] * (6 - len(wanted))
        assert (cond.tokens[k, len(wanted) :] == 0).all()
        assert torch.allclose(cond.vector[k], wanted.mean(0), rtol=1e-3)
    assert cond.tokens.dtype == cond.vector.dtype == torch.float32


def test_no_padding_is_longer_than_the_longest_row_asked_for() -> None:
    cond = pool().conditions(torch.tensor([1, 4]), torch.zeros(2, dtype=torch.bool))
    assert cond.tokens is not None
    assert cond.tokens.shape[1] == 2


def test_captions_are_encoded_once_each() -> None:
    words = Words()
    embed(CAPTIONS, words, 2)
    assert sorted(words.asked) == sorted(set(CAPTIONS))


def test_dropped_rows_carry_the_empty_prompt_and_others_do_not_change() -> None:
    made, rows = pool(), torch.tensor([0, 1, 2])
    dropped = torch.tensor([False, True, False])
    cond = made.conditions(rows, dropped)
    kept = made.conditions(rows, torch.zeros(3, dtype=torch.bool))
    alone = Words()([""])
    for found in (cond, kept, alone):
        assert found.tokens is not None
        assert found.mask is not None
        assert found.vector is not None
    assert torch.equal(cond.tokens[1][cond.mask[1]], alone.tokens[0][alone.mask[0]])
    assert torch.allclose(cond.vector[1], alone.vector[0], rtol=1e-3)
    for k in (0, 2):
        assert torch.equal(cond.tokens[k], kept.tokens[k])
        assert torch.equal(cond.vector[k], kept.vector[k])
    everything = made.conditions(rows, torch.ones(3, dtype=torch.bool))
    assert everything.tokens is not None
    assert everything.tokens.shape[1] == 1


def test_examples_are_drawn_by_weight() -> None:
    """Chi-square with 3 degrees of freedom: 16.27 is passed by chance once in a thousand seeds."""
    count = 20_000
    drawn = torch.bincount(pool().draw(count, torch.Generator().manual_seed(7)), minlength=5).double()
    assert drawn[1] == 0
    wanted = (WEIGHT.double() / WEIGHT.sum() * count)[[0, 2, 3, 4]]
    assert float(((drawn[[0, 2, 3, 4]] - wanted).square() / wanted).sum()) < 16.27


def test_a_pool_comes_back_from_disk_and_a_damaged_one_is_told(tmp_path: Path) -> None:
    path, made = tmp_path / "pool.safetensors", pool()
    made.save(path)
    back = load_pool(path)
    assert len(back) == len(made) == 5
    for name, value in vars(made).items():
        assert torch.equal(getattr(back, name), value)
    assert torch.equal(back.latents(torch.tensor([4, 0])), made.latent[[4, 0]].float())
    data = path.read_bytes()
    for bad in (b"", data[:-1], data[:100], data.replace(b"pooled", b"looped")):
        path.write_bytes(bad)
        with pytest.raises(WeightsError, match=r"pool\.safetensors .* delete the file"):
            load_pool(path)
