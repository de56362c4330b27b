"""Style, compose and tile from outside: files that follow their recipes, and what is refused in a sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sfumato.cli.main import main
from sfumato.picture.png import read_recipe


def made(*arguments: str) -> Path:
    assert main([*arguments, "--steps", "2"]) == 0
    return Path(arguments[arguments.index("-o") + 1])


def test_files_are_made_again_from_their_recipes(tmp_path: Path) -> None:
    colours = np.full((60, 90, 3), 255, np.uint8)
    colours[:, :40] = (255, 0, 0)
    chart, again = str(tmp_path / "map.png"), str(tmp_path / "again.png")
    Image.fromarray(colours).save(chart)
    outs = [str(tmp_path / f"{name}.png") for name in ("areas", "style", "tile")]
    left, right = "color(#ff0000): a red apple", "outside(color(red)): a tree: green"
    first = made("compose", "white", "--map", chart, "--regions", left, "--regions", right, "-o", outs[0])
    assert read_recipe(first).arguments["regions"] == [left, right]
    made(
        "style",
        chart,
        "a cat",
        "--content",
        outs[0],
        "--layers",
        "[0, 1]",
        "--path",
        "inverted",
        "-o",
        outs[1],
    )
    made("tile", "stars", "--axes", "down", "--guide", "pag(layers=up)", "-o", outs[2])
    parents = (("--map", chart), ("--image", chart, "--content", outs[0]), ())
    for out, more in zip(outs, parents, strict=True):
        assert main(["generate", "--like", out, *more, "-o", again, "--force"]) == 0
        assert Path(again).read_bytes() == Path(out).read_bytes()


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["compose", "white"], "--regions"),
        (["compose", "white", "--regions", "a cat"], "AREA: sentence"),
        (["compose", "white", "--regions", "rect(0, 0, 9, 9): a", "--by", "words"], "estimates"),
        (["tile", "stars", "--axes", "left"], "across"),
        (["style", "none.png", "a cat"], "none.png"),
        (["generate", "a cat", "--guide", "pag(layers=9)"], "4 attention layers"),
        (["generate", "a cat", "--guide", "seg(blur=0)"], "0.01 and above"),
    ],
)
def test_mistakes_are_told_in_a_sentence(
    arguments: list[str],
    word: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert word in said
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []
