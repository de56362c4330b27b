"""The commands that work on pictures, from outside."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import click
import numpy as np
import pytest
from PIL import Image

from sfumato.cli.main import COMMANDS, main
from sfumato.cli.making import LOADING, SHOWING
from sfumato.cli.tasks import FRONTS, front
from sfumato.picture.png import read_recipe
from sfumato.tasks.table import TASKS

SIDE = 128


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(list(arguments))
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    pixels = np.full((70, 100, 3), 255, np.uint8)
    pixels[20:60, 20:80] = (220, 30, 40)
    Image.fromarray(pixels).save(path)
    return path


@pytest.mark.parametrize("name", FRONTS)
def test_options_and_arguments_are_the_fields_of_the_task(name: str) -> None:
    assert COMMANDS[name][0] == f"sfumato.cli.tasks:{name}"
    command = front(name)
    fields = [field.name for field in dataclasses.fields(TASKS[FRONTS[name].task])]
    given = [p.name for p in command.params]
    shared = ("out", "force", "as_json", "model", *SHOWING, *LOADING)
    assert sorted(given) == sorted([*fields, *shared])
    arguments = [p.name for p in command.params if isinstance(p, click.Argument)]
    assert tuple(arguments) == FRONTS[name].arguments
    assert command.help is not None
    assert all(example in command.help for example in FRONTS[name].examples)


def test_an_edited_picture_is_made_again_from_the_same_picture_alone(
    photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, again = tmp_path / "out.png", tmp_path / "again.png"
    code, text, _ = told(
        capsys, "edit", str(photo), "an apple", "-o", str(out), "--steps", "3", "--strength", "0.7", "--json"
    )
    assert code == 0
    (row,) = json.loads(text)["pictures"]
    assert row["task"] == "image2image"
    assert Image.open(out).size == (100, 70)
    like = ("generate", "--like", str(out), "-o", str(again))
    code, _, err = told(capsys, *like)
    assert code == 2
    assert "--image" in err
    pixels = np.array(Image.open(photo))
    pixels[0, 0] = 0
    Image.fromarray(pixels).save(tmp_path / "other.png")
    code, _, err = told(capsys, *like, "--image", str(tmp_path / "other.png"))
    assert code == 2
    assert "is not the picture" in err
    assert not again.exists()
    Image.open(photo).save(tmp_path / "same.bmp")  # another file of the same picture
    assert told(capsys, *like, "--image", str(tmp_path / "same.bmp"))[0] == 0
    assert out.read_bytes() == again.read_bytes()


def test_an_inpainted_picture_is_the_old_one_outside_the_mask(
    photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "hole.png"
    code, _, _ = told(
        capsys,
        *("inpaint", str(photo), "a cat", "--mask", "rect(10, 10, 40, 50)", "--steps", "2", "-o", str(out)),
    )
    assert code == 0
    old, new = (np.array(Image.open(path).convert("RGB")) for path in (photo, out))
    hole = np.zeros((70, 100), bool)
    hole[10:60, 10:50] = True
    assert np.array_equal(old[~hole], new[~hole])
    assert not np.array_equal(old[hole], new[hole])
    assert set(read_recipe(out).arguments["parents"]) == {"image", "mask"}  # type: ignore[arg-type]


def test_several_come_numbered_with_a_sheet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "row.png"
    code, text, _ = told(
        capsys, "interpolate", "a cat", "a dog", "--count", "3", "--steps", "1", "-o", str(out)
    )
    assert code == 0
    assert [Path(line).name for line in text.split()] == [
        "row-1.png",
        "row-2.png",
        "row-3.png",
        "row-sheet.png",
    ]
    assert read_recipe(tmp_path / "row-2.png").arguments["pick"] == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["edit"], "IMAGE"),
        (["edit", "PHOTO"], "PROMPT"),
        (["edit", "PHOTO", " "], "empty"),
        (["edit", "missing.png", "a cat"], "missing.png"),
        (["edit", "PHOTO", "a cat", "--strength", "2"], "strength = 2"),
        (["edit", "PHOTO", "a cat", "-o", "x.jpg"], ".png"),
        (["inpaint", "PHOTO", "a cat"], "--mask"),
        (["inpaint", "PHOTO", "a cat", "--mask", "rect(0,0)"], "rect"),
        (["inpaint", "PHOTO", "a cat", "--mask", "rect(500,500,3,3)"], "black"),
        (["inpaint", "PHOTO", "a cat", "--mask", "PHOTO"], "coloured"),
        (["inpaint", "PHOTO", "a cat", "--mask", "rect(0,0,9,9)", "--soft", "hard"], "'blend'"),
        (["outpaint", "PHOTO", "a cat"], "no margin"),
        (["outpaint", "PHOTO", "a cat", "--left", "64"], "164x70"),
        (["vary"], "nothing to vary"),
        (["upscale"], "nothing to enlarge"),
        (["restore", "PHOTO", "--damage", "blurred"], "'blur'"),
        (["class", "3"], "no classes"),
        (["generate", "a cat", "--image", "PHOTO"], "--like"),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_nothing(
    arguments: list[str],
    words: str,
    photo: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = told(capsys, *(str(photo) if a == "PHOTO" else a for a in arguments))
    assert code == 2
    assert out == ""
    assert words in err
    assert err.count("error:") == 1
    assert list(tmp_path.iterdir()) == [photo]


def test_a_moving_picture_is_made_again_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, again = tmp_path / "walk.webp", tmp_path / "again.webp"
    asked = ("animate", "a cat", "a dog", "--count", "3", "--steps", "2", "--frames", "--fps", "5", "--json")
    code, text, _ = told(capsys, *asked, "-o", str(first))
    assert code == 0
    said = json.loads(text)
    assert said["file"] == str(first)
    assert [Path(name).name for name in said["frames"]] == ["walk-1.png", "walk-2.png", "walk-3.png"]
    code, text, _ = told(capsys, "generate", "--like", str(first), "-o", str(again))
    assert (code, text) == (0, f"{again}\n")
    assert again.read_bytes() == first.read_bytes()
    code, _, _ = told(
        capsys, "generate", "--like", str(tmp_path / "walk-2.png"), "-o", str(tmp_path / "two.png")
    )
    assert code == 0
    assert np.array_equal(Image.open(tmp_path / "two.png"), Image.open(tmp_path / "walk-2.png"))


def test_an_animation_is_refused_before_any_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, error = told(capsys, "animate", "a cat", "a dog", "-o", str(tmp_path / "walk.mp4"))
    assert code == 2
    assert ".webp" in error
    assert not list(tmp_path.iterdir())
