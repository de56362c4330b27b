"""Pictures as part of a prompt, in every task: which prompts have them, what recipes keep, what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydantic import TypeAdapter

from sfumato.condition import Cond, Look, Prompt
from sfumato.engine.engine import Engine
from sfumato.engine.run import run
from sfumato.errors import InvalidRequest
from sfumato.model import Model
from sfumato.picture.recipe import Recipe
from sfumato.remaking import task_of
from sfumato.tasks.given import Raster
from sfumato.tasks.looked import MOST, parted, read_looks
from sfumato.tasks.sampling import plan
from sfumato.tasks.table import TASKS, request
from sfumato.tasks.task import make
from sfumato.tasks.text2image import Text2Image
from tests.tasks.matrix import CELLS
from tests.tasks.toys import picture, toy

SEEN = picture(5, 4, seed=8)
NOT_SEEN = {"instruct", "control", "style"}
"""Tasks that the closed-form model refuses."""
SOURCES = {"resample": "right"}
"""What a task is told of the picture that it begins at, which is not the one that is looked at."""


def seeing() -> tuple[Model, list[Prompt]]:
    """A model that reads pictures with its prompts and does not care, and the prompts that it was asked."""
    plain, asked = toy(), []

    def condition(prompts: Sequence[str | Prompt]) -> Cond:
        asked.extend(prompt for prompt in prompts if isinstance(prompt, Prompt))
        return plain.conditioner(prompts)

    return replace(plain, conditioner=condition, blind=""), asked


@pytest.mark.parametrize("name", sorted(set(CELLS) - NOT_SEEN))
def test_what_is_wanted_is_told_with_the_picture_in_every_task(name: str) -> None:
    model, asked = seeing()
    fields = {**CELLS[name], "steps": 2}
    fields |= {} if name == "unconditional" else {"guidance": 2.0}
    made = run(make(TASKS[name], **fields, look=[(SEEN, 0.5)])(model))
    hash_ = Raster(SEEN).hash
    wanted = [prompt for prompt in asked if not prompt.negative]
    told = [prompt for prompt in wanted if prompt.text != SOURCES.get(name, "nothing")]
    assert told
    assert all(prompt.looks == (Look(SEEN, hash_, 0.5),) for prompt in told)
    assert not any(prompt.looks for prompt in asked if prompt not in told)
    assert all(np.array_equal(prompt.looks[0].pixels, SEEN) for prompt in told)
    for arguments in made.arguments:
        assert arguments["parents"]["look"] == [hash_]
        assert arguments["look"] == [0.5]
    plain = run(make(TASKS[name], **fields)(model))
    assert all(np.array_equal(a, b) for a, b in zip(made.pixels, plain.pixels, strict=True))
    assert all(arguments["look"] == [] for arguments in plain.arguments)
    with pytest.raises(InvalidRequest, match=r"look is not for the model .* FLUX.1 Redux"):
        run(make(TASKS[name], **fields, look=[SEEN])(toy()))


def test_pictures_are_prompt_enough() -> None:
    model, asked = seeing()
    run(make(Text2Image, prompt="", look=[SEEN], steps=1)(replace(model, conditioner=_left(model))))
    assert [prompt.text for prompt in asked if not prompt.negative] == ["left"]
    for name in ("vary", "interpolate"):
        more = {"seed_to": 3} if name == "interpolate" else {}
        run(make(TASKS[name], look=[SEEN], steps=1, **more)(replace(model, conditioner=_left(model))))
    with pytest.raises(InvalidRequest, match=r"^the prompt is empty; say what the picture should show$"):
        make(Text2Image, prompt=" ")


def _left(model: Model) -> Any:
    """The conditioner of ``model`` with the empty prompt of a picture turned to the name of a component."""

    def condition(prompts: Sequence[str | Prompt]) -> Cond:
        return model.conditioner(
            [replace(p, text=p.text or "left") if isinstance(p, Prompt) and p.looks else p for p in prompts]
        )

    return condition


def test_strengths_multiply_tokens_or_attention() -> None:
    for by, attention in (("tokens", False), ("attention", True)):
        model, asked = seeing()
        made = run(make(Text2Image, prompt="left", look=[(SEEN, 0.5)], look_by=by, steps=1)(model))
        assert [prompt.looks[0].attention for prompt in asked if not prompt.negative] == [attention]
        assert made.arguments[0]["look_by"] == by


def test_requests_of_other_pictures_share_no_answer() -> None:
    """The engine encodes a prompt once for all who ask for it: one that is seen with another picture is another."""
    model, asked = seeing()
    others = [[SEEN], [(SEEN, 0.5)], [picture(4, 4, seed=9)], [SEEN], []]
    with Engine(model) as engine:
        made = [engine.submit(make(Text2Image, prompt="left", look=look, steps=1)) for look in others]
        for one in made:
            one.result()
    told = [tuple((look.hash, look.strength) for look in p.looks) for p in asked if not p.negative]
    hashes = Raster(SEEN).hash, Raster(picture(4, 4, seed=9)).hash
    assert set(told) == {((hashes[0], 1.0),), ((hashes[0], 0.5),), ((hashes[1], 1.0),), ()}


def test_pictures_are_written_in_many_ways(tmp_path: Path) -> None:
    name = tmp_path / "cat:0.5.png"
    Image.fromarray(SEEN).save(name)
    Image.fromarray(SEEN).save(tmp_path / "cat:1.png")
    (tmp_path / "cat:1.png").rename(tmp_path / "cat:1")
    for written, strength in (
        (str(name), 1.0),
        (f"{name}:0.25", 0.25),
        (f"{name}:2", 2.0),
        (str(tmp_path / "cat:1"), 1.0),  # a file of this name
        (name, 1.0),
        (name.read_bytes(), 1.0),
        ((str(name), 0.75), 0.75),
        ([Image.fromarray(SEEN), 3], 3.0),
        (SEEN, 1.0),
    ):
        for value in ([written], written) if not isinstance(written, tuple | list) else ([written],):
            task, _ = request("text2image", prompt="x", look=value)
            assert task.look == (Look(SEEN, Raster(SEEN).hash, strength),)
    task, _ = request("text2image", prompt="x", look=[name, (name, 0.5)])
    assert [look.strength for look in task.look] == [1.0, 0.5]
    adapter = TypeAdapter(Text2Image)
    assert adapter.dump_python(task)["look"] == [
        f"sha256:{Raster(SEEN).hash}:1",
        f"sha256:{Raster(SEEN).hash}:0.5",
    ]
    assert parted("C:file.png") == ("C:file.png", 1.0)
    _, notes = read_looks(np.dstack([SEEN, np.full(SEEN.shape[:2], 9, np.uint8)]))
    assert [note[:6] for note in notes] == ["look: "] * len(notes)
    assert notes


@given(name=st.text(min_size=1), strength=st.floats(allow_nan=False, allow_infinity=False))
def test_a_strength_behind_a_name_is_read_as_it_was_written(name: str, strength: float) -> None:
    assert parted(f"/no-such-folder/{name}:{strength!r}") == (f"/no-such-folder/{name}", strength)


@pytest.mark.parametrize(
    ("look", "fault"),
    [
        ([(SEEN, -0.1)], "look: a strength of -0.1 is not allowed; use 0 to 10"),
        ([(SEEN, float("nan"))], "look: a strength of nan is not allowed"),
        ([(SEEN, 11)], "look: a strength of 11 is not allowed"),
        ([SEEN] * (MOST + 1), f"look has {MOST + 1} pictures, and at most {MOST} are allowed"),
        ([0.5], "look must be a picture"),
        (["a.png"], "look must be a picture"),
        ([np.zeros((2, 2, 3))], "look must be a picture: a uint8 array"),
        ([np.zeros((0, 2, 3), np.uint8)], "look of 2x0 pixels is empty"),
    ],
)
def test_what_is_no_picture_is_told(look: Any, fault: str) -> None:
    with pytest.raises(InvalidRequest, match=fault):
        make(Text2Image, prompt="x", look=look)


@pytest.mark.parametrize(
    ("arguments", "pictures", "fault"),
    [
        (
            {"look": [1.0], "parents": {"look": ["a"]}},
            [SEEN],
            "look is not the picture that x.png was made from",
        ),
        (
            {"look": [1.0], "parents": {"look": ["a", "b"]}},
            [SEEN] * 2,
            "was made from 2 pictures of look, and 2",
        ),
        ({"look": 3, "parents": {"look": ["a"]}}, [SEEN], "was made from 1 pictures of look"),
        ({"look": ["x"], "parents": {"look": ["a"]}}, [SEEN], "a picture must be a path, bytes"),
        ({"look": [1.0], "parents": {"look": "a"}}, SEEN, "look is not the picture"),
        ({"look": [1.0]}, None, "a picture must be a path, bytes"),
        ({"look": [1.0], "parents": {"seed": ["a"]}, "seed": [1]}, None, "give them: --seed"),
    ],
)
def test_recipes_that_are_wrong_are_told(arguments: dict[str, Any], pictures: Any, fault: str) -> None:
    recipe = Recipe("text2image", "gaussian", "0" * 64, {"prompt": "left", **arguments})
    with pytest.raises(InvalidRequest, match=fault):
        task_of(recipe, "x.png", {} if pictures is None else {"look": pictures}, request)


def test_a_recipe_whose_parent_is_no_picture_is_refused() -> None:
    arguments = {"prompt": "left", "parents": {"prompt": "0" * 64}}
    recipe = Recipe("text2image", "gaussian", "0" * 64, arguments, {})
    with pytest.raises(InvalidRequest, match=r"the recipe of x\.png is not understood: prompt is no picture"):
        task_of(recipe, "x.png", {"prompt": "left"}, request)


def test_a_picture_that_was_read_is_not_read_again() -> None:
    task = make(Text2Image, prompt="left", look=[(SEEN, 0.5)])
    assert replace(task, seed=2).look[0].pixels is task.look[0].pixels


def test_a_text_is_embedded_once_in_a_request() -> None:
    """Of a composition the negative prompt too, which goes with each of its regions."""
    model, asked = seeing()
    regions = ("rect(0, 0, 50%, 100%): right", "rect(50%, 0, 50%, 100%): left")
    run(make(TASKS["compose"], **{**CELLS["compose"], "regions": regions, "steps": 1})(model))
    texts = [(prompt.text, prompt.negative) for prompt in asked]
    assert len(texts) == len(set(texts))
    assert any(negative for _, negative in texts)


def test_one_text_with_pictures_and_without_is_two_conditions() -> None:
    model, asked = seeing()
    to = plan(make(Text2Image, prompt="left", look=[SEEN], steps=1), model, (5, 4))

    async def both() -> None:
        await to.conditions("left", None)
        await to.conditions("left", None, looks=())

    run(both())
    assert [len(prompt.looks) for prompt in asked if not prompt.negative] == [1, 0]
