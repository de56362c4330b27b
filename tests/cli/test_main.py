"""The command line from outside: what a person types, what they read, what their script gets."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest
from PIL import Image

from sfumato.cli.generate import file_name, targets
from sfumato.cli.main import COMMANDS, cli, main
from sfumato.errors import InvalidRequest
from sfumato.picture.png import read_recipe


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(list(arguments))
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = told(capsys, name, "--help")
    assert code == 0
    assert "Usage: sfumato " + name in out


@pytest.mark.parametrize("name", ["generate", "edit", "animate"])
def test_help_has_every_option_once_in_its_section(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    shown = capsys.readouterr().out
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    options = [
        param for param in command.get_params(click.Context(command)) if isinstance(param, click.Option)
    ]
    begins = re.findall(r"^  (?:-\w, )?(--[\w-]+)", shown, re.MULTILINE)
    assert sorted(begins) == sorted(max(option.opts, key=len) for option in options)
    heads = [line for line in shown.splitlines() if line.endswith(":") and not line.startswith(" ")]
    again = ["Made again:"] if name == "generate" else []
    assert heads == ["Options:", "Prompt:", "Sampling:", "Adapters:", "Model:", *again, "Output:"]


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = told(capsys, "--help")
    assert code == 0
    for name, (_, line) in COMMANDS.items():
        assert name in out
        assert line.split()[0] in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["generat"], ["'generat'", "'generate'"]),
        (["generate", "a cat", "--sampler", "dpmp_2m"], ["sampler", "'dpmp_2m'", "'dpmpp_2m'"]),
        (["generate", "a cat", "--grid", "karas"], ["grid", "'karas'", "'karras'"]),
        (["generate", "a cat", "--model", "emojy"], ["model", "'emojy'", "'emoji'"]),
        (["generate", "a cat", "--dtype", "bfloat"], ["dtype", "'bfloat16'"]),
        (["generate", "a cat", "--steps", "0"], ["steps", "0", "1"]),
        (["generate", "a cat", "--steps", "many"], ["steps", "many"]),
        (["generate", "a cat", "--count", "-3"], ["count", "-3"]),
        (["generate", "a cat", "--guidance", "nan"], ["guidance", "finite"]),
        (["generate", "a cat", "--seed", "-1"], ["seed", "-1"]),
        (["generate", "a cat", "--size", "100x100"], ["100x100", "128"]),
        (["generate", "a cat", "--size", "big"], ["'big'", "128x128"]),
        (["generate", ""], ["empty"]),
        (["generate", "   "], ["empty"]),
        (["generate", "word " * 10_000], ["prompt", "4000"]),
        (["generate", "bad \udcff byte"], ["Unicode", "UTF-8"]),
        (["generate"], ["prompt", "--like"]),
        (["generate", "a cat", "-o", "cat.jpg"], ["cat.jpg", ".png"]),
        (["generate", "a cat", "--stepz", "3"], ["--stepz"]),
        (["convert", "here", "there"], ["--to", "original"]),
        (["animate", "a cat"], ["prompts", "at least 2"]),
    ],
)
def test_a_users_mistake_is_one_sentence(
    arguments: list[str],
    words: list[str],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = told(capsys, *arguments)
    assert code == 2
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    for word in words:
        assert word in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("target", "why"),
    [("missing/cat.png", "not a folder"), ("file/cat.png", "not a folder"), ("folder.png", "is a folder")],
)
def test_an_unwritable_output_is_refused_before_any_work(
    target: str, why: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.png").mkdir()
    monkeypatch.setattr("sfumato.api.load", lambda *_, **__: pytest.fail("work was begun"))
    code, _, err = told(capsys, "generate", "a cat", "-o", str(tmp_path / target))
    assert code == 7
    assert why in err
    assert Path(target).name in err


def test_generate_writes_a_picture_that_can_be_made_again(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "cat.png"
    code, text, _ = told(capsys, "generate", "a cat", "-o", str(out), "--steps", "2", "--seed", "5", "--json")
    assert code == 0
    (row,) = json.loads(text)["pictures"]
    assert row["arguments"]["seed"] == 5
    assert row["file"] == str(out)
    assert read_recipe(out).arguments["prompt"] == "a cat"
    again = tmp_path / "again.png"
    assert told(capsys, "generate", "--like", str(out), "-o", str(again))[0] == 0
    assert out.read_bytes() == again.read_bytes()
    code, _, err = told(capsys, "generate", "a dog", "-o", str(out))
    assert code == 2
    assert "--force" in err


def test_several_pictures_come_with_a_sheet_and_each_is_made_again_alone(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "cat.png"
    code, text, _ = told(capsys, "generate", "a cat", "-o", str(out), "--steps", "3", "--count", "3")
    assert code == 0
    names = [tmp_path / f"cat-{k}.png" for k in (1, 2, 3)]
    assert text.split() == [*map(str, names), str(tmp_path / "cat-sheet.png")]
    seeds = [read_recipe(n).arguments["seed"] for n in names]
    assert seeds == [0, 1, 2]
    again = tmp_path / "again.png"
    assert told(capsys, "generate", "--like", str(names[1]), "-o", str(again))[0] == 0
    assert np.array_equal(np.asarray(Image.open(names[1])), np.asarray(Image.open(again)))


def test_a_picture_without_recipe_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "plain.png")
    code, _, err = told(
        capsys, "generate", "--like", str(tmp_path / "plain.png"), "-o", str(tmp_path / "x.png")
    )
    assert code in (2, 5)
    assert "recipe" in err


def test_models_and_samplers_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    _, text, _ = told(capsys, "samplers", "--json")
    names = {row["name"] for row in json.loads(text)}
    assert {"ddim", "ddpm", "dpmpp_2m", "euler", "heun"} <= names
    _, text, _ = told(capsys, "models", "--json")
    (emoji,) = json.loads(text)
    assert emoji["bytes"] < 40 * 2**20
    assert len(emoji["hash"]) == 64


def test_file_names() -> None:
    assert file_name("A rocket, 3D style!") == "a-rocket-3d-style.png"
    assert file_name("日本") == "picture.png"
    assert [p.name for p in targets(Path("x.png"), 10)][:2] == ["x-01.png", "x-02.png"]
    with pytest.raises(InvalidRequest, match="PNG"):
        targets(Path("x.gif"), 1)


def test_closed_pipes_and_module_start() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sfumato", "samplers"], capture_output=True, text=True, check=True
    )
    assert "dpmpp_2m" in done.stdout


def test_a_start_does_not_load_the_compiler(tmp_path: Path) -> None:
    """torch._dynamo takes two seconds to import, and nothing that makes a picture needs it."""
    code = (
        "import sys; from sfumato.cli.main import main; "
        f"assert main(['generate', 'a cat', '--steps', '1', '-o', {str(tmp_path / 'cat.png')!r}]) == 0; "
        "assert 'torch._dynamo' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
