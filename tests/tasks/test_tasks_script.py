"""Prompts over a walk: what holds in which step, sums in guidance, and prompts drawn from patterns."""

from __future__ import annotations

import asyncio
import hashlib
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sfumato
from sfumato.api import Loaded
from sfumato.condition import Cond, Prompt
from sfumato.engine.run import run
from sfumato.errors import InvalidRequest, UnknownName
from sfumato.guidance import guide
from sfumato.guidance.several import composed
from sfumato.process.estimate import Estimate
from sfumato.process.grid import make_grid
from sfumato.process.level import Level
from sfumato.process.prediction import prediction
from sfumato.process.schedule import Flow
from sfumato.tasks.script import Script, read, scripted
from sfumato.tasks.task import make
from sfumato.tasks.text2image import Text2Image
from sfumato.tasks.vary import Vary
from sfumato.tasks.worded import drawn
from sfumato.text.prompt.schedule import Stage

GRID = make_grid("linspace", steps=8, schedule=Flow())
ASKED: dict[str, Any] = {"steps": 4, "seed": 7}


def cond(value: float) -> Cond:
    return Cond(vector=torch.tensor([[value]], dtype=torch.float64))


async def branches(x: Any, at: Level, *conds: Cond) -> tuple[Estimate, ...]:
    """Estimates on the line of x whose noise is what the condition says."""
    found = [(c.vector[0, 0] + 0.1 * c.vector[0, 0] ** 2) * torch.ones_like(x) for c in conds]
    return tuple(Estimate(at, (x - at.sigma * eps) / max(at.alpha, 1e-3), eps) for eps in found)


weights = st.floats(-2, 2).map(lambda w: round(w, 2))


@settings(max_examples=30)
@given(st.lists(weights, min_size=1, max_size=4), st.floats(0, 8))
def test_a_sum_is_guided_as_the_conjunction_of_its_prompts(parts: list[float], scale: float) -> None:
    """What `guidance.composed` says of them (Liu et al. 2022, equation 11), at any scale, 1 and 0 among them."""
    conds = [cond(number + 1) for number in range(len(parts))]
    avoid = cond(-1)
    script = Script(conds=tuple(conds), stages=(Stage(0, 8, tuple(enumerate(parts))),))
    x, at = torch.full((1, 2), 0.5, dtype=torch.float64), GRID[3]
    by = guide("cfg")(
        scripted(branches, avoid, GRID), script, avoid, scale=scale, prediction=prediction("flow"), grid=GRID
    )
    wanted = composed(branches, list(zip(conds, parts, strict=True)), [(avoid, 1.0)], scale)
    found, other = asyncio.run(both(by, wanted, x, at))
    torch.testing.assert_close(found.eps, other.eps, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.x0, other.x0, rtol=1e-9, atol=1e-9)


async def both(one: Any, other: Any, x: Any, at: Level) -> tuple[Estimate, Estimate]:
    return await one(x, at), await other(x, at)


def test_every_evaluation_asks_what_its_step_says() -> None:
    """Also between the grid's levels, on either side of a switch, and for the negative prompt's own stages."""
    script = Script(conds=(cond(1), cond(2)), stages=(Stage(0, 3, ((0, 1.0),)), Stage(3, 8, ((1, 1.0),))))
    avoid = Script(conds=(cond(-1), cond(-2)), stages=(Stage(0, 5, ((0, 1.0),)), Stage(5, 8, ((1, 1.0),))))
    asked: list[list[float]] = []

    async def listening(x: Any, at: Level, *conds: Cond) -> tuple[Estimate, ...]:
        asked.append([float(c.vector[0, 0]) for c in conds])
        return await branches(x, at, *conds)

    answer = scripted(listening, avoid, GRID)
    x = torch.zeros(1, 2, dtype=torch.float64)
    for step in range(8):
        middle = Flow().level((GRID[step].t + GRID[step + 1].t) / 2)
        for at in (GRID[step], middle):
            asyncio.run(answer(x, at, script, avoid))
            assert asked[-1] == [1 if step < 3 else 2, -1 if step < 5 else -2]


def test_a_door_beside_x_is_opened_for_every_condition() -> None:
    script = Script(conds=(cond(1), cond(2)), stages=(Stage(0, 8, ((0, 1.0), (1, 0.5))),))
    beside = torch.ones(1, 3, 2, 2)
    for one, _ in replace(script, channels=beside).at(0):
        assert one.channels is beside
        assert one.vector is not None


def test_texts_apart_are_cut_where_either_changes() -> None:
    prompt = Prompt(text="a [b:c:2] AND d :0.5", dialect="a1111")
    told = read(prompt, {"text_2": "x[y:z:3]"}, 4)
    assert [(s.begin, s.end, [w for _, w in s.parts]) for s in told.stages] == [
        (0, 2, [1.0, 0.5]),
        (2, 3, [1.0, 0.5]),
        (3, 4, [1.0, 0.5]),
    ]
    texts = [
        (p.text.strip(), dict(p.apart)["text_2"].words[0].sections[0].spans[0].text) for p in told.prompts
    ]
    assert texts == [("a b", "xy"), ("d", "xy"), ("a c", "xy"), ("a c", "xz"), ("d", "xz")]
    assert not told.steady
    assert read(Prompt(text="a AND b", dialect="a1111", negative=True), {}, 4).steady


@pytest.fixture(scope="module")
def emoji() -> Loaded:
    return sfumato.load("emoji", dtype="float32")


def made(model: Loaded, prompt: str, **more: Any) -> str:
    pixels = model(prompt, **{**ASKED, **more}).images[0].pixels
    return hashlib.sha256(pixels.tobytes()).hexdigest()


def test_plain_prompts_are_what_they_are_in_the_built_in_model(emoji: Loaded) -> None:
    """Marks are text in the default dialect; a text without any is the same bits in every dialect."""
    marked = "a (red:1.5) rocket [by day:at night:0.5] AND a cat"
    assert made(emoji, marked, steps=1) == made(emoji, marked, steps=1, dialect="plain")
    assert made(emoji, marked, steps=1) != made(emoji, marked, steps=1, dialect="a1111")
    bare = {made(emoji, "a red rocket", steps=1, dialect=d) for d in ("plain", "a1111", "comfyui", "compel")}
    assert bare == {made(emoji, "a red rocket", steps=1)}


def test_a_switch_walks_with_one_prompt_and_then_the_other(emoji: Loaded) -> None:
    """The walk of a switch is put together from walks of its two prompts, step by step."""
    seen: dict[str, list[torch.Tensor]] = {}

    def walk(prompt: str, name: str) -> None:
        def listen(ask: Any, reply: Any) -> None:
            if ask.verb == "denoise":
                seen.setdefault(name, []).append(ask.arguments[2][0].vector)

        run(Text2Image(prompt=prompt, dialect="a1111", **ASKED)(emoji.model), listen)

    for name, prompt in {"a": "a cat", "b": "a dog", "ab": "a [cat:dog:2]", "a|b": "a [cat|dog]"}.items():
        walk(prompt, name)
    for name, order in {"ab": "aabb", "a|b": "abab"}.items():
        for step, source in enumerate(order):
            assert torch.equal(seen[name][step], seen[source][step])


def test_weights_of_the_built_in_encoder(emoji: Loaded) -> None:
    """States times weights; the vector is the mean of the weighted states, of length sqrt(D)."""
    condition = emoji.model.conditioner

    def told(text: str) -> Cond:
        (prompt,) = read(Prompt(text=text, dialect="a1111"), {}, 1).prompts
        return condition([prompt])

    plain, heavy = told("a red cat"), told("a (red:1.5) cat")
    count = int(plain.mask.sum())
    weights = torch.ones(count)
    weights[2] = 1.5  # after [CLS] and "a"
    states = plain.tokens[0, :count] * weights[:, None]
    torch.testing.assert_close(heavy.tokens[0, :count], states)
    mean = states.sum(0)
    torch.testing.assert_close(heavy.vector[0], mean / mean.norm() * math.sqrt(len(mean)))
    assert torch.equal(heavy.mask, plain.mask)
    (blend,) = read(Prompt(text='("a cat", "a dog").blend(1, 3)', dialect="compel"), {}, 1).prompts
    found, cat, dog = condition([blend]), told("a cat"), told("a dog")
    torch.testing.assert_close(found.tokens, 0.25 * cat.tokens + 0.75 * dog.tokens)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"dialect": "a111"}, "a1111"),
        ({"clip_skip": 1}, "clip_skip is for models with CLIP"),
        ({"padding": "masked"}, "padding is for models with CLIP or T5"),
        ({"prompt_2": "x"}, "'text_2' is for models with CLIP"),
        ({"prompt": "embedding:x", "dialect": "comfyui"}, "the embedding 'x': say in which folder"),
        ({"prompt": "a <lora:ink:1>", "dialect": "a1111"}, "the adapter 'ink': say in which folder"),
        ({"prompt": "a <hypernet:ink:1>", "dialect": "a1111"}, "<hypernet:ink> is not read"),
        ({"prompt": "(" * 3000 + "a" + ")" * 900, "dialect": "a1111"}, "finite"),
        ({"prompt": "a.swap(b)", "dialect": "compel"}, "attention maps"),
    ],
)
def test_what_the_built_in_model_refuses(emoji: Loaded, fields: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidRequest, match=told):
        emoji(**{"prompt": "a cat", **ASKED, **fields})


def test_an_adapter_that_does_not_act_is_not_passed_over(emoji: Loaded) -> None:
    with pytest.raises(InvalidRequest, match="'ink', which does not act here"):
        run(Text2Image(prompt="a <lora:ink:1>", dialect="a1111", **ASKED)(emoji.model))


@pytest.mark.parametrize("fields", [{}, {"noise": "torch"}])
def test_prompts_drawn_from_patterns_are_pictures_of_their_own(
    emoji: Loaded, fields: dict[str, Any], tmp_path: Any
) -> None:
    (tmp_path / "style.txt").write_text("3d style\nflat style\n")
    asked = {**ASKED, "steps": 1, **fields}
    task = make(Text2Image, prompt="a {cat|dog|rocket}, __style__", count=2, **asked)
    pictures = emoji.draw(task, 4, tmp_path).images
    texts = [str(p.recipe.arguments["prompt"]) for p in pictures]
    assert texts[0] != texts[1]
    for number, (picture, text) in enumerate(zip(pictures, texts, strict=True)):
        assert "{" not in text
        assert picture.recipe.extra["drawn"] == {
            "prompt": "a {cat|dog|rocket}, __style__",
            "draw": 4 + number,
        }
        alone = emoji.run(make(Text2Image, **picture.recipe.arguments)).images[0]
        assert np.array_equal(alone.pixels, picture.pixels)
    assert [one.prompt for one, _, _ in drawn(task, 4, tmp_path)] == texts
    picture.save(tmp_path / "a.png")
    copy = sfumato.remake(tmp_path / "a.png").images[0]
    assert np.array_equal(copy.pixels, picture.pixels)
    assert copy.recipe == picture.recipe


def test_what_cannot_be_drawn_is_told(tmp_path: Any) -> None:
    with pytest.raises(InvalidRequest, match="no folder of lists"):
        drawn(make(Text2Image, prompt="a __x__"), 1)
    with pytest.raises(UnknownName, match="list"):
        drawn(make(Text2Image, prompt="a __x__"), 1, tmp_path)
    with pytest.raises(InvalidRequest, match="not closed"):
        drawn(make(Vary, prompt="a {b"), 1)


def test_the_source_of_a_style_is_one_prompt(emoji: Loaded) -> None:
    picture = np.zeros((128, 128, 3), np.uint8)
    with pytest.raises(InvalidRequest, match="source takes one prompt for the whole walk"):
        emoji.task("style", prompt="a cat", source="[a|b]", image=picture, dialect="a1111", steps=2)
