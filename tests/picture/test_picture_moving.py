"""Moving pictures: every frame, how long it stands, and the recipe, read back by Pillow and by us."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sfumato.errors import DataError, InvalidRequest
from sfumato.picture.moving import KINDS, save_moving
from sfumato.picture.png import read_recipe
from sfumato.picture.recipe import Recipe

RECIPE = Recipe(
    "animate", "emoji", "ab" * 32, {"prompts": ["ein Kätzchen 日", 'a "dog"'], "count": 3}, {"a": "1"}
)
FRAMES = [np.random.default_rng(k).integers(0, 256, (9, 12, 3), dtype=np.uint8) for k in range(3)]


@pytest.mark.parametrize("ending", KINDS)
@pytest.mark.parametrize("once", [False, True])
def test_frames_times_and_recipe_come_back(ending: str, once: bool, tmp_path: Path) -> None:
    path = save_moving(tmp_path / f"walk{ending}", FRAMES, RECIPE, fps=10, once=once)
    assert read_recipe(path) == RECIPE
    with Image.open(path) as image:
        assert image.n_frames == 3
        # A GIF that is shown once has no count of repeats at all.
        assert image.info.get("loop") == ((None if ending == ".gif" else 1) if once else 0)
        for number, frame in enumerate(FRAMES):
            image.seek(number)
            image.load()
            assert image.info["duration"] == 100
            found = np.asarray(image.convert("RGB"))
            assert np.array_equal(found, frame)  # in a GIF too: 108 pixels have no more than 256 colours


def test_colours_of_a_gif_are_near_where_there_are_too_many(tmp_path: Path) -> None:
    ramp = np.linspace(0, 255, 64).astype(np.uint8)
    frame = np.stack([*np.meshgrid(ramp, ramp), np.full((64, 64), 128, np.uint8)], axis=-1)
    path = save_moving(tmp_path / "ramp.gif", [frame, 255 - frame], RECIPE)
    with Image.open(path) as image:
        for number, wanted in enumerate((frame, 255 - frame)):
            image.seek(number)
            apart = np.asarray(image.convert("RGB")).astype(int) - wanted
            assert np.sqrt((apart**2).mean()) < 12


@pytest.mark.parametrize("name", ["walk.mp4", "walk", "walk.jpg"])
def test_other_endings_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"\.png, \.webp, \.gif"):
        save_moving(tmp_path / name, FRAMES, RECIPE)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ending", [".webp", ".gif"])
def test_files_of_others_hold_no_recipe(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"other{ending}"
    Image.fromarray(FRAMES[0]).save(path, comment="made by hand")
    with pytest.raises(DataError, match=r"no recipe|no PNG"):
        read_recipe(path)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(DataError):
        read_recipe(path)
