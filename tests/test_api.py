"""The library's front door, and what the built-in model's files must be."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import sfumato
from sfumato.api import Loaded
from sfumato.errors import InvalidRequest, UnknownName, WeightsError
from sfumato.families import emoji
from sfumato.families.table import ASSETS, read_manifest
from sfumato.picture.png import read_infotext, read_recipe


@pytest.fixture(scope="module")
def model() -> Loaded:
    return sfumato.load("emoji", dtype="float32")


def test_all_public_names_are_there_and_sorted() -> None:
    assert sfumato.__all__ == sorted(sfumato.__all__)
    for name in sfumato.__all__:
        assert getattr(sfumato, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = sfumato.nonsense


def test_the_example_of_the_readme(model: Loaded, tmp_path: Path) -> None:
    picture = model("a rocket, 3d style", steps=2, seed=7).images[0]
    path = picture.save(tmp_path / "rocket.png")
    assert picture.pixels.shape == (128, 128, 3)
    recipe = read_recipe(path)
    assert recipe.arguments["seed"] == 7
    assert recipe.model_hash == model.model.hash
    text = read_infotext(path)
    assert text is not None
    assert text.startswith("a rocket, 3d style\n")


def test_a_picture_depends_on_its_own_seed_alone(model: Loaded) -> None:
    together = model("a cat", steps=3, count=3, seed=10)
    for k, picture in enumerate(together.images):
        alone = model("a cat", steps=3, seed=10 + k).images[0]
        assert np.array_equal(picture.pixels, alone.pixels)


def test_prompt_seed_and_negative_each_change_the_picture(model: Loaded) -> None:
    base = model("a cat", steps=2).images[0].pixels
    for options in ({"seed": 1}, {"negative": "red"}, {"guidance": 1.0}, {"steps": 3}, {"sampler": "heun"}):
        assert not np.array_equal(base, model("a cat", **{"steps": 2, **options}).images[0].pixels)
    assert not np.array_equal(base, model("a house", steps=2).images[0].pixels)


def test_progress_and_previews(model: Loaded) -> None:
    seen = []
    model("a cat", steps=4, progress=lambda done, preview: seen.append((done, preview().shape)))
    assert seen == [(k, (128, 128, 3)) for k in (1, 2, 3, 4)]


def test_a_long_prompt_is_noted(model: Loaded) -> None:
    assert model("cat " * 100, steps=1).notes
    assert not model("cat", steps=1).notes


def test_all_faults_are_told_at_once(model: Loaded) -> None:
    with pytest.raises(InvalidRequest) as caught:
        model("a cat", steps=0, count=0)
    assert "steps" in str(caught.value)
    assert "count" in str(caught.value)
    with pytest.raises(InvalidRequest, match="did you mean 'steps'"):
        model("a cat", step=3)
    with pytest.raises(UnknownName, match="emoji"):
        sfumato.load("emojis")


def test_the_weights_are_small_enough() -> None:
    sizes = [p.stat().st_size for p in ASSETS.iterdir()]
    assert sum(sizes) <= 40 * 2**20
    assert max(sizes) <= 15 * 2**20


@pytest.mark.parametrize("name", sorted(read_manifest()["files"]))
@pytest.mark.parametrize("damage", ["truncated", "altered", "missing"])
def test_damaged_weights_are_refused(name: str, damage: str, tmp_path: Path) -> None:
    folder = tmp_path / "emoji"
    shutil.copytree(ASSETS, folder)
    path = folder / name
    if damage == "missing":
        path.unlink()
    else:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(bytes(data[: len(data) // 2]) if damage == "truncated" else bytes(data))
    with pytest.raises(WeightsError) as caught:
        emoji.load(folder)
    assert name in str(caught.value)


def test_bfloat16_is_near_float32(model: Loaded) -> None:
    half = sfumato.load("emoji", dtype="bfloat16")
    assert half.model.hash == model.model.hash
    x = torch.randn(2, 8, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        one, other = model.model.codec.decode(x), half.model.codec.decode(x)
    assert float((one - other).norm() / one.norm()) < 3e-2
