"""Weighted states: invariants and closed forms of each school's rule; compel's stand beside the package's elsewhere."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sfumato.errors import InvalidRequest, UnknownName
from sfumato.text.prompt.chunks import weighted_ids
from sfumato.text.prompt.dialects import DIALECTS
from sfumato.text.prompt.parts import Part, Section, Span, Words
from sfumato.text.prompt.weighting import MOST, RULES, encode_part, encode_weighted
from tests.peers.clip_pair import ENCODE, VOCABULARY, clip_ids, pair


def states(text: str, dialect: str, rule: str | None = None) -> Tensor:
    return encode_part(ENCODE, Part(DIALECTS[dialect].read(text)), VOCABULARY, dialect, rule=rule)[0]


def plain(*texts: str) -> Tensor:
    """Our encoder on whole rows, one text each."""
    return ENCODE(clip_ids(texts), None)[0]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_without_weights_the_states_are_the_encoders(dialect: str) -> None:
    found, pooled = encode_part(ENCODE, Part(DIALECTS[dialect].read("a red cat")), VOCABULARY, dialect)
    wanted, vector = ENCODE(clip_ids(["a red cat"]), None)
    assert torch.equal(found, wanted)
    assert pooled is not None
    assert vector is not None
    assert torch.equal(pooled, vector)


def test_a1111_multiplies_and_keeps_the_mean() -> None:
    (bare,) = plain("a red cat")
    (found,) = states("a (red:1.6) cat", "a1111")
    assert float(found.mean()) == pytest.approx(float(bare.mean()), rel=1e-4)
    ratio = found / bare
    scale = float(ratio[1].mean())
    torch.testing.assert_close(ratio[2], torch.full_like(ratio[2], 1.6 * scale), rtol=1e-4, atol=1e-5)
    for place in (0, 1, 3, 4, 76):
        torch.testing.assert_close(ratio[place], torch.full_like(ratio[place], scale), rtol=1e-4, atol=1e-5)
    (loose,) = states("a (red:1.6) cat", "a1111", rule="a1111_no_norm")
    torch.testing.assert_close(loose[2], bare[2] * 1.6)
    assert torch.equal(loose[[0, 1, 3, 4]], bare[[0, 1, 3, 4]])


def test_a1111_keeps_the_mean_of_each_row_by_itself() -> None:
    found = states("(red:1.6) cat BREAK dog", "a1111")
    torch.testing.assert_close(found[0, 77:], plain("dog")[0])
    torch.testing.assert_close(found[:, :77], states("(red:1.6) cat", "a1111"))


def test_comfyui_moves_away_from_the_empty_prompt() -> None:
    (bare,), (empty,) = plain("a red cat"), plain("")
    (found,) = states("a (red:1.6) (cat:0)", "comfyui")
    torch.testing.assert_close(found[2] - empty[2], 1.6 * (bare[2] - empty[2]), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found[3], empty[3])
    assert torch.equal(found[[0, 1, 4, 5]], bare[[0, 1, 4, 5]])


def test_a_text_of_weight_1_in_brackets_changes_nothing() -> None:
    for dialect in ("a1111", "comfyui"):
        assert torch.equal(states("a (red:1.0) cat", dialect), plain("a red cat"))


def test_long_prompts_are_rows_one_after_the_other_and_pool_the_first() -> None:
    long = "cat " * 75 + "dog"
    found, pooled = encode_part(ENCODE, Part(DIALECTS["a1111"].read(long)), VOCABULARY, "a1111")
    torch.testing.assert_close(found, torch.cat((plain("cat " * 75), plain("dog")), dim=1))
    torch.testing.assert_close(pooled, ENCODE(clip_ids(["cat " * 75]), None)[1])


def test_a_blend_of_a_text_with_itself_is_the_text() -> None:
    words = tuple(Words((Section((Span("a cat"),)),), share) for share in (0.25, 0.75))
    found, pooled = encode_part(ENCODE, Part(words), VOCABULARY, "compel")
    torch.testing.assert_close(found, plain("a cat"))
    torch.testing.assert_close(pooled, ENCODE(clip_ids(["a cat"]), None)[1])


def test_a_section_of_weight_0_is_the_empty_prompt() -> None:
    words = Words((Section((Span("a cat"),)), Section((Span("dog"),), 0.0)))
    found, _ = encode_part(ENCODE, Part((words,)), VOCABULARY, "compel")
    torch.testing.assert_close(found[:, 77:], plain(""))


def test_hidden_tokens_do_not_matter_to_the_others() -> None:
    ids = clip_ids(["a red cat", "a blue cat"])
    keep = torch.ones(2, 77, dtype=torch.bool)
    keep[:, 2] = False
    found, _ = pair()[1](ids, keep=keep)
    torch.testing.assert_close(found[0, [0, 1, *range(3, 77)]], found[1, [0, 1, *range(3, 77)]])
    assert not torch.allclose(found[0, 2], found[1, 2])


def test_a_mask_is_transformers_mask() -> None:
    theirs, ours = pair()
    ids = clip_ids(["a red cat on a mat"])
    keep = torch.ones(1, 77, dtype=torch.bool)
    keep[0, 2:4] = False
    with torch.no_grad():
        wanted = theirs(ids, attention_mask=keep.long()).last_hidden_state
        torch.testing.assert_close(ours(ids, keep=keep)[0], wanted, rtol=1e-4, atol=1e-5)


def test_what_is_refused() -> None:
    with pytest.raises(UnknownName, match="a1111"):
        states("x", "a1111", rule="a1112")
    rows = weighted_ids(DIALECTS["a1111"].read("BREAK " * MOST + "a")[0], VOCABULARY, "a1111")
    with pytest.raises(InvalidRequest, match="at most 64"):
        encode_weighted(ENCODE, rows, VOCABULARY, "a1111")
    assert set(DIALECTS) <= set(RULES)
