"""``--look`` from the command line on a tiny FLUX.1 with Redux: files, recipes that are followed, what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import sfumato
from sfumato.cli.main import main
from sfumato.errors import InvalidRequest
from sfumato.picture.png import read_recipe
from tests.families.test_looks_walk import flux, prior
from tests.peers.pipelines import Peer

__all__ = ["flux", "prior"]


@pytest.fixture
def pictures(tmp_path: Path) -> tuple[Path, Path]:
    """Two files."""
    names = tmp_path / "one.png", tmp_path / "two.png"
    for seed, name in enumerate(names):
        pixels = np.random.default_rng(seed).integers(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(name)
    return names


def test_a_recipe_with_pictures_is_followed_to_the_bit(
    flux: Peer, prior: Peer, pictures: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = pictures
    told = ["--model", str(flux.folder), "--part", str(prior.folder), "--dtype", "float32"]
    ask = ["--steps", "1", "--size", "64x64", "--seed", "5", *told]
    first, again = tmp_path / "first.png", tmp_path / "again.png"
    assert main(["generate", "--look", f"{one}:0.5", "--look", str(two), *ask, "-o", str(first)]) == 0
    recipe = read_recipe(first)
    assert recipe.arguments["prompt"] == ""
    assert recipe.arguments["look"] == [0.5, 1.0]
    assert len(recipe.arguments["parents"]["look"]) == 2  # type: ignore[index, call-overload, arg-type]
    like = ["generate", "--like", str(first), "-o", str(again), *told]
    assert main([*like, "--look", str(one), "--look", str(two)]) == 0
    assert again.read_bytes() == first.read_bytes()
    capsys.readouterr()
    for looks, fault in (
        ([], "was made from pictures that its recipe knows by their hashes alone; give them: --look"),
        ([one], "was made from 2 pictures of look, and 1 are given"),
        ([two, one], "look is not the picture that"),
    ):
        given = [word for name in looks for word in ("--look", str(name))]
        assert main([*like, *given, "--force"]) == 2
        assert fault in " ".join(capsys.readouterr().err.split())
    plain, other = tmp_path / "plain.png", tmp_path / "other.png"
    assert main(["generate", "a red cat", *ask, "-o", str(plain)]) == 0
    assert main(["generate", "a red cat", "--look", str(one), *ask, "-o", str(other)]) == 0
    assert not np.array_equal(np.asarray(Image.open(plain)), np.asarray(Image.open(other)))
    assert main(["generate", *ask, "-o", str(tmp_path / "n.png")]) == 2


def test_pictures_go_with_every_task_of_the_model(
    flux: Peer, prior: Peer, pictures: tuple[Path, Path], tmp_path: Path
) -> None:
    one, two = pictures
    pipe = sfumato.load(str(flux.folder), parts=[prior.folder], dtype="float32")
    ask = {"steps": 1, "look": [str(one)], "size": "64x64"}
    made = {
        "prompt": pipe("a cat", **ask),
        "edit": pipe.edit(two, "", strength=1.0, **ask),
        "inpaint": pipe.inpaint(two, "", mask="rect(0, 0, 50%, 100%)", **ask),
        "compose": pipe.compose("a cat", "rect(0, 0, 50%, 100%): a dog", by="attention", **ask),
        "style": pipe.style(two, "a cat", **ask),
        "unconditional": pipe.task("unconditional", **ask),
        "interpolate": pipe.interpolate("a cat", prompt_to="a dog", count=3, **ask),
    }
    for name, images in made.items():
        recipe = images.images[0].recipe
        assert recipe.arguments["look"] == [1.0], name
        assert "look" in recipe.arguments["parents"], name  # type: ignore[operator]
    images = made["edit"].images[0]
    path = images.save(tmp_path / "edit.png")
    loading = {"parts": [prior.folder]}
    again = sfumato.remake(path, str(flux.folder), loading, image=two, look=[one])
    assert np.array_equal(again.images[0].pixels, images.pixels)
    with pytest.raises(InvalidRequest, match="give them: --image, --look"):
        sfumato.remake(path, str(flux.folder), loading)
    plain = pipe("a cat", steps=1, size="64x64").images[0].save(tmp_path / "plain.png")
    with pytest.raises(InvalidRequest, match="made without look: leave it out"):
        sfumato.remake(plain, str(flux.folder), loading, look=[one])


def test_pictures_go_with_embedded_prompts(
    flux: Peer, prior: Peer, pictures: tuple[Path, Path], tmp_path: Path
) -> None:
    where, parts = str(flux.folder), [prior.folder]
    whole = sfumato.load(where, parts=parts, dtype="float32")
    file = whole.embed(tmp_path / "cat.safetensors", "a red cat").path
    bare = sfumato.load(where, parts=parts, dtype="float32", encoders=False)
    ask = {"prompt": "a red cat", "look": [pictures[0]], "steps": 1, "size": "64x64"}
    made = bare.task("text2image", **ask, embedded=file).images[0]
    assert np.array_equal(made.pixels, whole.task("text2image", **ask).images[0].pixels)
    path = made.save(tmp_path / "cat.png")
    again = sfumato.remake(path, where, {"parts": parts}, look=[pictures[0]], embedded=file)
    assert np.array_equal(again.images[0].pixels, made.pixels)
