"""compel's dialect against the package: its fragments, its tokens, its embeddings."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sfumato.errors import InvalidRequest
from sfumato.text.prompt.compel import read
from sfumato.text.prompt.dialects import parse
from sfumato.text.prompt.parts import Adapter, Part, Words
from sfumato.text.prompt.weighting import encode_part
from tests.peers.clip_pair import ENCODE, VOCABULARY, pair, tokenizer
from tests.peers.compel_parts import encoder, parser

PROMPTS = [
    "",
    "a cat",
    "a cat++ on a mat",
    "a cat+++, a dog--",
    "(a fluffy cat)1.3 on a (red mat)0.7",
    "a (big (blue)++ house)1.2, sky",
    "(tall)1.1 (thin)- man-",
    '"a quoted phrase"++ and more',
    "word.attend(1.4) other.attend(--)",
    "a-b semi-final rose-5 up+down",
    "Mr. Smith, (e.g. this)1.2. End.",
    r"an \(escaped\)++ bracket \"so\"",
    "(((deep)+)+)+ (not closed",
    "stray ) and ++ alone - here",
    "cat++dog -- (x)1.5y",
    "(a:1.3) is not compel",
    '("a red cat", "a blue dog").and()',
    '("a red cat", "a blue dog").and(1, 0.5)',
    '("a (red)1.4 cat", dog, (two words)).and(0.5, 1.5, 2)',
    '("a cat", "a dog").blend(1, 3)',
    '("a cat", "a dog--", "an owl++").blend(0.4, -0.2, 1, no_normalize)',
    '("one - two", "three").add(1, 1.2)',
    "withLora(style, 0.6) a cat++ useLora(other)",
    'withLora(style) ("a cat", "a dog").blend(1, 1)',
]
LONG = [
    "a small red house near the river, " * 12,
    "One sentence here. "
    + "words without an end " * 20
    + "the (last)1.3 ones. And (weak words at the end)0.4",
    "commas, " * 30 + "(fading away " + "slowly " * 60 + ")0.5 done",
    '("' + "many words " * 50 + '", "few words").and(1, 0.7)',
    '("' + "many words " * 50 + '", "few words").blend(1, 2)',
]


def theirs(prompt: str) -> tuple[list[tuple[Any, float]], list[tuple[str, float]]]:
    """The package's reading: texts of (text, weight), each with its own weight; and adapters."""
    found = parser.PromptParser().parse_conjunction(prompt)
    adapters = [(lora.model, float(lora.weight)) for lora in found.lora_weights]
    texts: list[tuple[Any, float]] = []
    for text, weight in zip(found.prompts, found.weights, strict=True):
        if isinstance(text, parser.Blend):
            total = sum(text.weights) if text.normalize_weights else 1
            for inner, share in zip(text.prompts, text.weights, strict=True):
                texts.append(([(f.text.strip(), f.weight) for f in inner.children], share / total))
        else:
            texts.append(([(f.text.strip(), f.weight) for f in text.children], weight))
    return texts or [([], 1.0)], adapters


def ours(words: tuple[Words, ...]) -> list[tuple[Any, float]]:
    blend = len(words) > 1
    return [
        (
            [(s.text.strip(), s.weight) for s in section.spans] or [("", 1.0)],
            text.share if blend else section.weight,
        )
        for text in words
        for section in text.sections
    ]


@pytest.mark.parametrize("prompt", [*PROMPTS, *LONG])
def test_fragments_and_weights_are_the_packages(prompt: str) -> None:
    texts, adapters = theirs(prompt)
    found = ours(read(prompt))
    assert [[t for t, _ in spans] for spans, _ in found] == [[t for t, _ in spans] for spans, _ in texts]
    assert [w for _, w in found] == pytest.approx([w for _, w in texts])
    for (mine, _), (other, _) in zip(found, texts, strict=True):
        assert [w for _, w in mine] == pytest.approx([w for _, w in other])
    assert [(a.name, a.denoiser) for a in parse(prompt, "compel").adapters] == adapters


PIECES = [
    "a",
    "cat",
    "b ",
    " ",
    "(",
    ")",
    "(",
    ")",
    '"',
    "+",
    "-",
    "++",
    "--",
    "1.2",
    "0.5",
    ",",
    ", ",
    ".",
    r"\(",
]
PIECES += [
    r"\"",
    ".attend(1.3)",
    "withLora(x,0.4)",
    '("a b", "c")',
    '("a", b, (c d)++)',
    ".and(1,0.5)",
    ".blend(1,2)",
]


# The package's time grows fivefold with each bracket, ours with the length.
@settings(deadline=None, max_examples=60)
@given(st.lists(st.sampled_from(PIECES), max_size=6).map("".join))
def test_random_prompts_are_read_as_the_package_reads_them(prompt: str) -> None:
    try:
        texts, _ = theirs(prompt)
    except Exception:
        # The package fails in many ways where there is nothing to read; we answer, or refuse in a sentence.
        texts = []
    try:
        found = ours(read(prompt))
    except InvalidRequest:
        return
    if texts and "\\\\" not in prompt:
        assert [[t for t, _ in s] for s, _ in found] == [[t for t, _ in s] or [""] for s, _ in texts]


@pytest.mark.parametrize("prompt", [*PROMPTS, *LONG])
def test_embeddings_are_the_packages(prompt: str) -> None:
    other = encoder.Compel(tokenizer=tokenizer(), text_encoder=pair()[0], truncate_long_prompts=False)
    wanted = other(prompt)
    states, _ = encode_part(ENCODE, Part(read(prompt)), VOCABULARY, "compel")
    assert states.shape == wanted.shape
    torch.testing.assert_close(states, wanted, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("prompt", "told"),
    [
        ("a cat.swap(dog)", "attention maps"),
        ('("a", "b").and(1)', "1 weights for 2 texts"),
        ('("a", "b").blend(1, -1)', "sum to 0"),
        ('("a", "b").and(x, 1)', "not all finite numbers"),
        ('("a", "b").and() and more', "reads no further"),
        ('("a", "b").blend(1, 1) and more', "not read"),
        ('("a", "b").and(1, 1', "not closed"),
        ("a" + "+" * 9000, "not a finite number"),
    ],
)
def test_what_is_refused(prompt: str, told: str) -> None:
    with pytest.raises(InvalidRequest, match=told):
        parse(prompt, "compel")


def test_adapters_are_named_with_one_strength() -> None:
    assert parse("x withLora(a-b_1, 0.25)", "compel").adapters == (Adapter("lora", "a-b_1", 0.25, 0.25),)
