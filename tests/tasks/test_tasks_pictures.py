"""Tasks on a picture: what they keep, what they change, what each seed and each end is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sfumato.engine.run import run
from sfumato.errors import InvalidRequest
from sfumato.families.gaussian import mixture
from sfumato.process.schedules import schedule
from sfumato.tasks.image2image import Image2Image
from sfumato.tasks.inpaint import Inpaint
from sfumato.tasks.interpolate import Interpolate
from sfumato.tasks.outpaint import Outpaint
from sfumato.tasks.resample import Resample
from sfumato.tasks.task import make
from sfumato.tasks.text2image import Text2Image
from sfumato.tasks.unconditional import Class2Image, Unconditional
from sfumato.tasks.upscale import Upscale
from sfumato.tasks.vary import Vary
from tests.tasks.toys import SIDE, alike, corner, done, picture, toy

CASES: list[tuple[type[Any], dict[str, Any]]] = [
    (Image2Image, {"image": picture(3, 2), "prompt": "left", "count": 3}),
    (Image2Image, {"image": picture(7, 6), "prompt": "left", "tile": True, "count": 2, "steps": 4}),
    (Inpaint, {"image": picture(), "mask": corner(), "prompt": "left", "count": 3}),
    (Inpaint, {"image": picture(), "mask": corner(), "prompt": "left", "soft": "late", "strength": 0.7}),
    (Outpaint, {"image": picture(3, 3), "left": 1, "top": 1, "prompt": "right", "count": 2}),
    (Vary, {"prompt": "left", "count": 3, "seed": 4}),
    (Vary, {"prompt": "left", "image": picture(3, 4), "count": 2}),
    (Interpolate, {"prompt": "left", "prompt_to": "right", "seed_to": 5, "count": 4}),
    (Interpolate, {"prompt": "left", "image": picture(), "image_to": picture(5, 9, seed=1), "count": 3}),
    (Resample, {"image": picture(), "prompt": "left", "source": "right"}),
    (Upscale, {"image": picture(3, 2), "factor": 2.5, "prompt": "left", "count": 2, "steps": 5}),
    (Upscale, {"prompt": "left", "factor": 2, "space": "latent", "count": 2, "steps": 5}),
    (Unconditional, {"count": 3}),
    (Class2Image, {"label": "right", "count": 2}),
]
PICTURES = ("image", "image_to", "mask")


@pytest.mark.parametrize(("task", "fields"), CASES)
@pytest.mark.parametrize("noise", ["stream", "brownian"])
def test_each_picture_is_made_again_alone(task: type[Any], fields: dict[str, Any], noise: str) -> None:
    model = toy()
    whole = done(task, model, noise=noise, **fields)
    assert len({p.tobytes() for p in whole.pixels}) == len(whole.pixels) == fields.get("count", 1)
    alike(task, whole, model, **{k: v for k, v in fields.items() if k in PICTURES})


def test_strength_0_gives_the_picture_back_and_more_changes_more() -> None:
    image = picture(3, 4)
    assert np.array_equal(done(Image2Image, image=image, prompt="left", strength=0).pixels[0], image)
    apart = []
    for strength in (0.1, 0.4, 1.0):
        made = done(Image2Image, image=image, prompt="left", strength=strength, count=8).pixels
        apart.append(np.mean([(p.astype(float) - image) ** 2 for p in made]))
    assert apart == sorted(apart)


def test_at_full_strength_a_flow_forgets_the_picture() -> None:
    model = toy()
    anew = done(Text2Image, model, prompt="left", seed=3).pixels[0]
    edited = done(Image2Image, model, image=picture(), prompt="left", seed=3, strength=1).pixels[0]
    assert np.array_equal(anew, edited)


@pytest.mark.parametrize("size", ["3", "4x2", "2x4", "1"])
def test_sizes_that_were_asked_for(size: str) -> None:
    made = done(Image2Image, image=picture(8, 4), prompt="left", size=size).pixels[0]
    wanted = {"3": (2, 3), "4x2": (2, 4), "2x4": (4, 2), "1": (1, 1)}[size]
    assert made.shape[:2] == wanted


@settings(max_examples=25, deadline=None)
@given(st.integers(1, SIDE), st.integers(1, SIDE), st.integers(0, 2**16), st.booleans())
def test_outside_a_hard_mask_nothing_changes(width: int, height: int, seed: int, invert: bool) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random((height, width)) < 0.5
    mask[0, 0] = not invert
    image = picture(width, height, seed)
    made = done(Inpaint, image=image, mask=mask, prompt="left", steps=3, invert=invert, seed=seed).pixels[0]
    kept = mask if invert else ~mask
    assert made.shape == image.shape
    assert np.array_equal(made[kept], image[kept])


def test_nothing_sees_what_was_in_a_hole() -> None:
    image, mask = picture(), corner()
    other = image.copy()
    other[mask] = 255 - other[mask]
    for name in ("scaled_linear", "flow"):
        model = toy(schedule=schedule(name), kind="v")
        one, two = (done(Inpaint, model, image=i, mask=mask, prompt="left").pixels[0] for i in (image, other))
        assert np.array_equal(one[mask], two[mask])
        below = [
            done(Inpaint, model, image=i, mask=mask, prompt="left", strength=0.5).pixels[0]
            for i in (image, other)
        ]
        assert not np.array_equal(below[0][mask], below[1][mask])


def test_a_soft_mask_blends_and_a_late_one_frees_by_steps() -> None:
    image = picture()
    half = np.full((SIDE, SIDE), 0.5, np.float32)
    half[0] = 0
    for soft in ("blend", "late"):
        made = done(Inpaint, image=image, mask=half, prompt="left", soft=soft).pixels[0]
        assert np.array_equal(made[0], image[0])
        assert not np.array_equal(made[1:], image[1:])
    whole = np.ones((SIDE, SIDE), bool)
    late = done(Inpaint, image=image, mask=whole, prompt="left", soft="late").pixels[0]
    free = done(Text2Image, prompt="left").pixels[0]
    assert np.array_equal(late, free)


def test_a_white_mask_is_text_to_picture() -> None:
    made = done(Inpaint, image=picture(), mask=np.ones((SIDE, SIDE), bool), prompt="left", seed=2).pixels[0]
    assert np.array_equal(made, done(Text2Image, prompt="left", seed=2).pixels[0])


def test_outpainting_keeps_the_picture_and_its_place() -> None:
    image = picture(2, 3)
    made = done(Outpaint, image=image, prompt="left", left=1, right=1, bottom=1).pixels[0]
    assert made.shape == (4, 4, 3)
    assert np.array_equal(made[:3, 1:3], image)


def test_variations_go_from_one_seed_to_the_other() -> None:
    model = toy()
    first, last = (done(Text2Image, model, prompt="left", seed=s).pixels[0] for s in (7, 9))
    assert np.array_equal(done(Vary, model, prompt="left", seed=7, amount=0).pixels[0], first)
    assert np.array_equal(done(Vary, model, prompt="left", seed=7, variation=9, amount=1).pixels[0], last)
    apart = [
        np.mean(
            [
                (p.astype(float) - first) ** 2
                for p in done(Vary, model, prompt="left", seed=7, amount=a, count=8).pixels
            ]
        )
        for a in (0.05, 0.3, 1.0)
    ]
    assert apart == sorted(apart)


def test_a_picture_that_is_not_varied_comes_back() -> None:
    image = done(Text2Image, prompt="left", seed=5, steps=200).pixels[0]
    made = done(Vary, prompt="left", image=image, amount=0, steps=200, guidance=1).pixels[0]
    assert np.abs(made.astype(int) - image).max() <= 4


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "ddpm"])
def test_the_ends_of_a_row_are_the_pictures_of_the_ends(sampler: str) -> None:
    model = toy()
    row = done(
        Interpolate, model, prompt="left", prompt_to="right", seed=1, seed_to=2, count=3, sampler=sampler
    )
    ends = [
        done(Text2Image, model, prompt=p, seed=s, sampler=sampler).pixels[0]
        for p, s in (("left", 1), ("right", 2))
    ]
    assert np.abs(row.pixels[0].astype(int) - ends[0]).max() <= 1
    assert np.abs(row.pixels[2].astype(int) - ends[1]).max() <= 1


def test_resampling_with_one_prompt_leads_back_and_with_another_elsewhere() -> None:
    image = done(Text2Image, prompt="left", seed=5, steps=60).pixels[0]
    same = {"image": image, "source": "left", "sampler": "ddim", "guidance": 1.0, "refine": 4}
    back = done(Resample, prompt="left", steps=60, **same).pixels[0]
    assert np.abs(back.astype(int) - image).max() <= 2
    other = done(Resample, prompt="right", steps=60, **same).pixels[0]
    assert np.abs(other.astype(int) - image).max() > 20


def test_enlarging_without_strength_is_plain_interpolation() -> None:
    image = np.full((2, 3, 3), 77, np.uint8)
    made = done(Upscale, image=image, factor=3, strength=0).pixels[0]
    assert made.shape == (6, 9, 3)
    assert (made == 77).all()


def test_nothing_and_everything_are_the_whole_mixture() -> None:
    assert np.array_equal(
        done(Class2Image, label="left", seed=3).pixels[0], done(Text2Image, prompt="left", seed=3).pixels[0]
    )
    many = done(Unconditional, count=64, steps=12).pixels
    means = 255 * (toy().denoiser.network.means.view(2, 3, SIDE, SIDE).permute(0, 2, 3, 1) + 1) / 2
    nearest = [int(np.argmin([np.square(p - m.numpy()).sum() for m in means])) for p in many]
    assert 16 < sum(nearest) < 48


def test_samplers_that_choose_their_steps_walk_each_picture_by_itself() -> None:
    model, image = toy(), picture()
    fields = {"image": image, "mask": corner(), "prompt": "left", "sampler": "dpm_adaptive", "count": 2}
    alike(Inpaint, done(Inpaint, model, **fields), model, image=image, mask=corner())


def test_windows_agree_with_the_whole_where_pixels_are_independent() -> None:
    """With independent pixels of one law, what a window sees is what the whole would see."""

    def flat(side: int) -> Any:
        size = 3 * side * side
        return mixture(
            torch.full((1, 3, side, side), 0.2, dtype=torch.float64),
            0.05 * torch.eye(size, dtype=torch.float64)[None],
            torch.ones(1),
            names=["all"],
        )

    image = picture(6, 6)
    fields = {"image": image, "prompt": "all", "steps": 6}
    tiled = done(Image2Image, flat(SIDE), tile=True, **fields).pixels[0]
    whole = done(Image2Image, flat(6), **fields).pixels[0]
    assert np.abs(tiled.astype(int) - whole).max() <= 1


@pytest.mark.parametrize(
    ("task", "fields", "words"),
    [
        (Image2Image, {"image": picture(), "strength": 1.1}, "strength = 1.1"),
        (Image2Image, {"image": picture(), "strength": -0.1}, "strength = -0.1"),
        (Image2Image, {"image": picture(), "strength": float("nan")}, "strength = nan"),
        (Image2Image, {"image": picture(), "strength": 0.01}, "must be 0.05 or more"),
        (Image2Image, {"image": picture(9, 9)}, "9x9 and this model makes at most 4x4.*size = 4.*tile"),
        (Image2Image, {"image": picture(), "size": "0"}, "size = '0'"),
        (Image2Image, {"image": picture(), "size": "big"}, "size = 'big'"),
        (Image2Image, {"image": np.full((4, 4, 3), np.nan)}, "image must be a picture.*float64"),
        (Image2Image, {"image": np.zeros((4, 4, 4), np.uint8)}, r"its shape is \(4, 4, 4\)"),
        (Image2Image, {"image": np.zeros((0, 4, 3), np.uint8)}, "4x0 pixels is empty"),
        (Image2Image, {"image": "photo.png"}, "image must be a picture.*str"),
        (Inpaint, {"image": picture(), "mask": corner(3, 3)}, "mask is 3x3 and the picture 4x4"),
        (Inpaint, {"image": picture(), "mask": np.zeros((4, 4), bool)}, "black everywhere"),
        (Inpaint, {"image": picture(), "mask": np.full((4, 4), np.nan)}, "not from 0"),
        (Inpaint, {"image": picture(), "mask": np.full((4, 4), 1.5)}, "not from 0"),
        (Inpaint, {"image": picture(), "mask": np.zeros((4, 4), np.int64)}, "bools, bytes or floats"),
        (Outpaint, {"image": picture()}, "no margin"),
        (Outpaint, {"image": picture(), "left": 1}, "5x4 and this model makes at most"),
        (Vary, {}, "nothing to vary"),
        (Vary, {"image": picture(), "sampler": "ddpm"}, "draws noise.*ddim"),
        (Interpolate, {"prompt": "left"}, "both ends are the same"),
        (Interpolate, {"prompt": "left", "seed_to": 1, "count": 1}, "count = 1"),
        (Interpolate, {"prompt": "left", "seed_to": 3, "noise": "torch"}, "use 'stream'"),
        (Resample, {"image": picture(), "count": 2}, "would be the same"),
        (Resample, {"image": picture(), "sampler": "euler_ancestral"}, "draws noise"),
        (Upscale, {}, "nothing to enlarge"),
        (Upscale, {"image": picture(), "factor": 1.5, "space": "latent"}, "whole number"),
        (Upscale, {"image": picture(3000, 3000), "factor": 16}, "at most"),
        (Unconditional, {"guidance": 3}, "nothing to guide"),
        (Class2Image, {"label": "up"}, "'up'"),
    ],
)
def test_what_cannot_be_is_told_before_any_work(task: type[Any], fields: dict[str, Any], words: str) -> None:
    prompt = {"prompt": "left"} if task in (Image2Image, Inpaint, Outpaint, Resample) else {}

    def never(*_: Any) -> Any:
        raise AssertionError("work was begun")

    model = toy()
    model.denoiser.forward = never  # type: ignore[method-assign]
    with pytest.raises(InvalidRequest, match=words) as caught:
        run(make(task, **prompt, **fields)(model))
    assert len(str(caught.value)) < 400


def test_one_pixel_is_a_picture() -> None:
    made = done(Image2Image, image=picture(1, 1), prompt="left").pixels[0]
    assert made.shape == (1, 1, 3)
