"""``sfumato inspect`` of pictures: our recipe, another program's text, neither."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin

from sfumato.cli.main import main
from sfumato.picture.png import save_png
from sfumato.picture.recipe import Recipe

RECIPE = Recipe(
    "text2image", "emoji", "ab" * 32, {"prompt": "ein Kätzchen", "seed": 7, "negative": None}, {"torch": "2"}
)


def said(capsys: pytest.CaptureFixture[str], *asked: str) -> tuple[int, str]:
    code = main(["inspect", *asked])
    return code, capsys.readouterr().out


def test_the_recipe_of_a_picture_of_ours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = save_png(tmp_path / "cat.png", Image.new("RGB", (8, 8)), RECIPE)
    code, text = said(capsys, str(path))
    assert code == 0
    assert "text2image by emoji (abababababab...)" in text
    assert "prompt  ein Kätzchen" in text
    assert "negative" not in text
    code, text = said(capsys, str(path), "--json")
    assert Recipe.from_json(json.dumps(json.loads(text)["recipe"])) == RECIPE


def test_the_text_of_another_program(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = PngImagePlugin.PngInfo()
    texts.add_text(
        "parameters", "a cat\nNegative prompt: dog\nSteps: 20, Sampler: Euler a, Seed: 3, Size: 64x64"
    )
    Image.new("RGB", (8, 8)).save(tmp_path / "other.png", pnginfo=texts)
    code, text = said(capsys, str(tmp_path / "other.png"), "--json")
    told = json.loads(text)["infotext"]
    assert code == 0
    assert (told["prompt"], told["negative"], told["fields"]["Sampler"]) == ("a cat", "dog", "Euler a")
    code, text = said(capsys, str(tmp_path / "other.png"))
    assert (code, "Euler a" in text) == (0, True)


def test_a_picture_without_either_and_a_file_that_is_not_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "plain.png")
    assert said(capsys, str(tmp_path / "plain.png")) == (5, "")
    assert said(capsys, str(tmp_path / "none.webp")) == (2, "")
