"""The library's front door, and what the built-in model's files must be."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import sfumato
from sfumato.errors import InvalidRequest, UnknownName, WeightsError
from sfumato.families import emoji
from sfumato.families.table import ASSETS, read_manifest
from sfumato.loaded import Loaded, Picture
from sfumato.picture.png import read_infotext, read_recipe
from sfumato.picture.recipe import Recipe


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
    """To the bit where every picture has calls of its own; pictures that share calls are rounded otherwise."""
    task = sfumato.Text2Image(prompt="a cat", steps=3, count=3, seed=10)
    together, shared = model.run(task, rows=0), model.run(task)
    for k, (picture, other) in enumerate(zip(together.images, shared.images, strict=True)):
        alone = model("a cat", steps=3, seed=10 + k).images[0]
        assert np.array_equal(picture.pixels, alone.pixels)
        assert np.abs(other.pixels.astype(int) - alone.pixels).max() <= 2


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


def test_pictures_that_share_calls_are_made_again_one_by_one() -> None:
    """Several pictures go through the network together; each recipe knows the size of the calls and gives its bits."""
    from sfumato.loaded import rows_for
    from sfumato.tasks.text2image import Text2Image

    assert [rows_for(Text2Image(prompt="x", count=n)) for n in (1, 2, 3, 4, 5, 8, 100)] == [
        0,
        4,
        8,
        8,
        16,
        16,
        16,
    ]
    model = sfumato.load("emoji")
    made = model("a tree", steps=2, count=3, seed=4)
    assert {p.recipe.versions["rows"] for p in made.images} == {"8"}
    for picture in made.images:
        again = model.run(Text2Image(**picture.recipe.arguments), rows=8).images[0]
        assert np.array_equal(again.pixels, picture.pixels)
    alone = model("a tree", steps=2, seed=4).images[0]
    assert "rows" not in alone.recipe.versions


def test_a_saved_picture_of_several_is_remade_bit_for_bit(tmp_path) -> None:
    model = sfumato.load("emoji")
    second = model("a tree", steps=2, count=2, seed=4).images[1]
    second.save(tmp_path / "second.png")
    again = sfumato.remake(tmp_path / "second.png")
    assert np.array_equal(again.images[0].pixels, second.pixels)
    assert again.images[0].recipe.versions["rows"] == "4"


@pytest.mark.parametrize("option", ["family", "predicts", "tokens", "variant"])
def test_options_of_checkpoints_are_refused_with_the_built_in_model(option: str) -> None:
    with pytest.raises(InvalidRequest, match=f"{option} is for checkpoints"):
        sfumato.load("emoji", **{option: "sdxl"})


def test_a_picture_is_shown_without_its_pixels() -> None:
    recipe = Recipe(task="text2image", model="m", model_hash="0" * 64, arguments={}, versions={})
    shown = repr(Picture(pixels=np.full((4, 4, 3), 7, np.uint8), recipe=recipe))
    assert "text2image" in shown
    assert "pixels" not in shown
