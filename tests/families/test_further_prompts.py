"""Weights, blends and texts of their own in families that read prompts by T5 alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from sfumato.condition import Cond, Prompt
from sfumato.errors import InvalidRequest
from sfumato.model import Model
from sfumato.tasks.script import read
from sfumato.tasks.text2image import Text2Image
from sfumato.text.prompt.dialects import parse, parts_at
from sfumato.text.prompt.single import lowered
from tests.families.test_published import far, walked
from tests.peers.further import further
from tests.peers.pipelines import Case

PROMPT = "a red cat at night"
ENCODED = {
    "pixart alpha": 6,
    "chroma": 7,
}  # five words and the end; Chroma's transformer sees one token of padding


@pytest.fixture(scope="module", params=ENCODED)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """The case of a name, built once."""
    return further(request.param, tmp_path_factory.mktemp("further"))


def told(model: Model, text: str, dialect: str = "a1111", **apart: str) -> Cond:
    """The condition of a prompt that is one."""
    (one,) = read(Prompt(text=text, dialect=dialect), apart, 1).prompts
    return model.conditioner([replace(one, width=32, height=48)])


def states(cond: Cond) -> Any:
    """The tokens, which are there."""
    assert cond.tokens is not None
    return cond.tokens


def test_a_text_without_marks_is_the_same_in_every_dialect(case: Case) -> None:
    model = case.model(torch.float32)
    plain = model.conditioner([Prompt(text=PROMPT, width=32, height=48)])
    assert plain.mask is not None
    assert int(plain.mask.sum()) == ENCODED[case.name]
    for dialect in ("plain", "a1111", "comfyui", "compel"):
        same = told(model, PROMPT, dialect)
        assert same.named().keys() == plain.named().keys()
        for name, value in plain.named().items():
            assert torch.equal(value, same.named()[name]), (dialect, name)


def test_a_weight_moves_its_own_token_on_the_line_from_the_empty_prompt(case: Case) -> None:
    model = case.model(torch.float64)
    plain, empty = states(told(model, PROMPT)), states(told(model, ""))
    for weight in (0.0, 0.5, 1.5):
        found = told(model, f"a (red:{weight}) cat at night")
        line = empty[0, 1] + weight * (plain[0, 1] - empty[0, 1])
        torch.testing.assert_close(states(found)[0, 1], line)
        others = [0, *range(2, plain.shape[1])]
        assert torch.equal(states(found)[0, others], plain[0, others])
        assert torch.equal(found.mask, told(model, PROMPT).mask)  # type: ignore[arg-type]


def test_a_blend_is_the_mean_of_its_texts(case: Case) -> None:
    model = case.model(torch.float64)
    first, second = told(model, PROMPT), told(model, "the moon")
    both = told(model, f'("{PROMPT}", "the moon").blend(1, 3)', "compel")
    torch.testing.assert_close(states(both), states(first) / 4 + 3 * states(second) / 4)
    assert torch.equal(both.mask, first.mask | second.mask)  # type: ignore[arg-type,operator]


def test_a_prompt_of_parts_is_walked_and_what_no_encoder_reads_is_refused(case: Case) -> None:
    model = case.model(torch.float32)
    task = Text2Image(
        prompt="a (red:1.3) cat AND the moon :0.5", dialect="a1111", steps=2, size="64x64", seed=1
    )
    plain, same = (f"a {red} cat AND the moon :0.5" for red in ("red", "(red:1)"))
    marked, unmarked, again = (
        walked(model, replace(task, prompt=text))[0] for text in (task.prompt, plain, same)
    )
    assert far(marked, unmarked) > 1e-4
    assert torch.equal(unmarked, again)
    with pytest.raises(
        InvalidRequest, match=r"the encoder 'text_2'.*not for this model, which reads prompts by text_3"
    ):
        told(model, PROMPT, text_2="x")
    with pytest.raises(
        InvalidRequest, match="clip_skip is about CLIP's states, and this model reads prompts by T5"
    ):
        model.conditioner([Prompt(text=PROMPT, skip=1)])


def test_padding_is_masked_and_nothing_else(case: Case) -> None:
    model = case.model(torch.float32)
    same = model.conditioner([Prompt(text=PROMPT, padding="masked", width=32, height=48)])
    assert torch.equal(states(same), states(told(model, PROMPT)))
    with pytest.raises(
        InvalidRequest, match="padding = 'seen': this model was trained with T5's padding masked"
    ):
        model.conditioner([Prompt(text=PROMPT, padding="seen")])


def test_what_is_not_read_of_a_long_prompt_is_counted_without_its_marks(case: Case) -> None:
    room = {"pixart alpha": 119, "chroma": 511}[case.name]
    notes = case.model(torch.float32).notes(Prompt(text="(red:1.2) cat " * 300, dialect="a1111"))
    assert notes[-1] == f"the prompt is long: T5 does not read its last {600 - room} tokens"


@pytest.mark.parametrize("text", ["  A (Red:1.5) CAT ", "(  Red:1.5) cat", " A ", "", "(a:2)  BREAK  (B:3)"])
def test_small_letters_without_blanks_around_are_those_of_the_whole_text(text: str) -> None:
    (part,) = parts_at(parse(text, "a1111"), 0, 1)
    (words,) = part.words
    small = lowered(words)
    spans = [span for section in small.sections for span in section.spans]
    before = [span for section in words.sections for span in section.spans]
    assert "".join(span.text for span in spans) == "".join(span.text for span in before).lower().strip()
    assert [span.weight for span in spans] == [span.weight for span in before]
