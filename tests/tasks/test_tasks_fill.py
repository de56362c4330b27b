"""How holes are filled: options of masks, close-ups, steps walked several times, models that were trained to fill."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sfumato.engine.engine import Engine
from sfumato.engine.run import run
from sfumato.errors import InvalidRequest
from sfumato.families.gaussian import mixture
from sfumato.noise import Stream
from sfumato.picture.mask import grown
from sfumato.process.level import Level
from sfumato.tasks import fill
from sfumato.tasks.control import Control
from sfumato.tasks.hole import box_around, feathered, scaled_hole
from sfumato.tasks.inpaint import Inpaint
from sfumato.tasks.instruct import Instruct
from sfumato.tasks.outpaint import Outpaint
from sfumato.tasks.repeat import raised
from sfumato.tasks.task import make
from tests.tasks.test_tasks_parts import filling
from tests.tasks.toys import SIDE, alike, corner, done, picture, toy


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 20), st.integers(0, 2**16))
def test_a_box_holds_the_hole_and_what_is_around_it(width: int, height: int, around: int, seed: int) -> None:
    hole = np.zeros((height, width), np.float32)
    rng = np.random.default_rng(seed)
    for _ in range(2):
        hole[rng.integers(height), rng.integers(width)] = 1
    left, top, across, down = box_around(hole, around)
    assert 0 <= left <= left + across <= width
    assert 0 <= top <= top + down <= height
    wide = grown(hole, around)
    wide[top : top + down, left : left + across] = 0
    assert not wide.any()
    assert across in (down, width) or down == height


def test_hard_masks_stay_hard_when_scaled() -> None:
    hole = corner(8, 8).astype(np.float32)
    assert set(np.unique(scaled_hole(hole, "5x5"))) == {0, 1}
    soft = scaled_hole(0.5 * hole, "4x4")
    assert soft.max() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(
    ("fields", "open_"),
    [
        ({}, [0.0, 0.2, 0.6, 1.0]),
        ({"threshold": 0.5}, [0, 0, 1, 1]),
        ({"threshold": 0.7, "grow": 1}, [0, 0, 1, 1]),
        ({"threshold": 0.5, "grow": -1}, [0, 0, 0, 1]),
        ({"invert": True, "threshold": 0.5}, [1, 1, 0, 0]),
    ],
)
def test_options_of_masks_act_in_order(fields: dict[str, Any], open_: list[float]) -> None:
    """Columns of rising grey; where the hole is 0 pixels are kept, elsewhere they change or are blended."""
    mask = np.tile(np.array([0.0, 0.2, 0.6, 1.0], np.float32), (SIDE, 1))
    image = picture()
    made = done(Inpaint, image=image, mask=mask, prompt="left", **fields).pixels[0]
    for column, value in enumerate(open_):
        assert np.array_equal(made[:, column], image[:, column]) == (value == 0)


@settings(max_examples=15, deadline=None)
@given(st.integers(5, 40), st.integers(5, 40), st.integers(0, 9), st.integers(0, 2**16))
def test_a_close_up_changes_nothing_outside_the_hole(width: int, height: int, around: int, seed: int) -> None:
    """Pictures larger than the model makes: the hole and its surroundings are brought to the model's size."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((height, width), bool)
    top, left = rng.integers(height - 2), rng.integers(width - 2)
    mask[top : top + 3, left : left + 2] = True
    image = picture(width, height, seed)
    made = done(Inpaint, image=image, mask=mask, prompt="left", steps=2, repeat=1, around=around).pixels[0]
    assert made.shape == image.shape
    assert np.array_equal(made[~mask], image[~mask])
    assert not np.array_equal(made[mask], image[mask])


def test_a_close_up_of_the_models_size_is_the_whole() -> None:
    """Where the box is a square of the model's own size nothing is scaled, and the hole sees just that part."""
    image, mask = picture(9, 7), np.zeros((7, 9), bool)
    mask[2:4, 3:5] = True
    fields = {"prompt": "left", "steps": 4}
    made = done(Inpaint, image=image, mask=mask, around=1, **fields).pixels[0]
    part = done(Inpaint, image=image[1:5, 2:6], mask=mask[1:5, 2:6], **fields).pixels[0]
    assert np.array_equal(made[1:5, 2:6], part)


def test_pictures_of_a_close_up_are_made_again() -> None:
    model, image, mask = toy(), picture(11, 9), corner(11, 9)
    made = done(Inpaint, model, image=image, mask=mask, prompt="left", around=2, count=2, feather=1.0)
    assert made.arguments[0]["repeat"] == 4
    alike(Inpaint, made, model, image=image, mask=mask)


def test_noise_that_leads_back_up_is_that_of_the_process() -> None:
    """x = a x0 + s eps, carried up, has the upper level's mean and variance."""
    fresh = Stream([1], (200_000,)).start()
    x0 = torch.full_like(fresh, 0.7)
    low, high = Level(0.3, 0.8, 0.6), Level(0.7, 0.28, 0.96)
    x = low.alpha * x0 + low.sigma * Stream([2], (200_000,)).start()
    up = raised(x, low, high, fresh)
    assert float(up.mean()) == pytest.approx(high.alpha * 0.7, abs=4 * high.sigma / 200_000**0.5)
    assert float(up.var()) == pytest.approx(high.sigma**2, rel=4 * (2 / 200_000) ** 0.5)


def test_steps_walked_again_bring_both_sides_of_an_edge_together() -> None:
    """Two pixels in a row are nearly equal; the known one is told, and what is drawn for the other comes nearer to it.

    The mean of the free pixel, given the known one, is exactly r v; what the constraint alone misses of it falls.
    """
    cov, std, value = 0.9, 0.3, 0.6
    pair = std**2 * torch.tensor([[1.0, cov], [cov, 1.0]], dtype=torch.float64)
    covs = torch.kron(torch.eye(3, dtype=torch.float64), pair)[None]
    model = mixture(torch.zeros(1, 3, 1, 2, dtype=torch.float64), covs, torch.ones(1), names=["all"])
    image = np.full((1, 2, 3), round(255 * (value + 1) / 2), np.uint8)
    mask = np.array([[False, True]])
    fields = {"image": image, "mask": mask, "prompt": "all", "count": 100, "steps": 12, "guidance": 1}
    off = []
    for repeat in (1, 4, 16):
        task = make(Inpaint, repeat=repeat, sampler="ddpm", **fields)
        made = Engine(model, max_rows=100, share=100).submit(task).result()
        free = np.array([p[0, 1] for p in made.pixels]) / 127.5 - 1
        off.append(abs(float(free.mean()) - cov * value))
    assert off[0] - off[1] > 4 * float(free.std()) * (2 / free.size) ** 0.5
    assert off[1] > off[2]


def test_a_margin_is_blended_with_the_picture_and_not_with_what_filled_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    holes: list[np.ndarray] = []

    def seen(hole: np.ndarray, std: float) -> np.ndarray:
        holes.append(feathered(hole, std))
        return holes[-1]

    monkeypatch.setattr(fill, "feathered", seen)
    done(Outpaint, filling(4), image=picture(24, 32), right=8, prompt="x", feather=2.0, steps=1)
    for hole in holes:
        assert hole[:, 24:].min() > 0.95
        assert hole[:, 12:24].max() > 0.9
        assert hole[:, :12].max() == 0


@pytest.mark.parametrize("task", [Inpaint, Outpaint])
def test_models_that_were_not_trained_to_fill_must_hold_the_picture(task: type[Any]) -> None:
    more = {"mask": corner()} if task is Inpaint else {"left": 1}
    image = picture() if task is Inpaint else picture(3, 4)
    with pytest.raises(InvalidRequest, match=r"FLUX\.1 Fill.*use keep = 'held'"):
        run(make(task, image=image, prompt="left", keep="free", **more)(toy()))
    made = run(make(Inpaint, image=picture(32, 32), mask=corner(32, 32), prompt="x", keep="free")(filling(9)))
    assert made.arguments[0]["repeat"] == 1


def test_a_model_that_reads_a_picture_is_named_where_one_is_needed() -> None:
    for task, words in (
        (Instruct, "InstructPix2Pix or FLUX.1 Kontext or FLUX.2, or the task image2image"),
        (Control, "FLUX.1 Canny or Depth or Stable Diffusion 2 Depth, or the task image2image"),
    ):
        with pytest.raises(InvalidRequest, match=words):
            run(make(task, image=picture(), prompt="left")(toy()))
    with pytest.raises(InvalidRequest, match="use the task inpaint or outpaint"):
        run(make(Instruct, image=picture(32, 32), prompt="x")(filling(9)))


@pytest.mark.parametrize("fields", [{}, {"repeat": 2}, {"strength": 0.5}, {"sampler": "heun", "repeat": 3}])
def test_the_evaluations_that_are_told_are_those_that_are_asked(fields: dict) -> None:
    asked = []
    task = make(Inpaint, image=picture(), mask=corner(), prompt="left", steps=6, guidance=1.0, **fields)
    model = toy()
    run(task(model), lambda ask, reply: asked.append(ask) if ask.verb == "denoise" else None)
    # The last step of a sampler of two evaluations takes one.
    assert task.evaluations(model) - len(asked) == (1 if "sampler" in fields else 0)
