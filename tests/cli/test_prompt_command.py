"""The command ``sfumato prompt``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from sfumato.cli.main import main
from sfumato.condition import Prompt
from tests.peers.further import further
from tests.peers.pipelines import PIPELINES, peer
from tests.peers.tiny import t5_tokenizer


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["prompt", *arguments]) == 0
    return capsys.readouterr().out


def test_it_shows_weights_rows_and_schedule(capsys: pytest.CaptureFixture[str]) -> None:
    shown = told(capsys, "a (red:1.3) house [by day:at night:0.5] AND sky :0.4 <lora:ink:0.7>")
    assert shown.splitlines() == [
        "adapter lora ink: 0.7, on text 0.7",
        "steps 0 to 9 of 20: 1 x (0) + 0.4 x (1)",
        "steps 10 to 19 of 20: 1 x (2) + 0.4 x (1)",
        "(0) row 1, 5 of 75 tokens: a red:1.3 house by day",
        "(1) row 1, 1 of 75 tokens: sky",
        "(2) row 1, 5 of 75 tokens: a red:1.3 house at night",
    ]


def test_the_weight_of_a_whole_prompt_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    said, row = told(capsys, "a wide view, 16:9").splitlines()
    assert said.startswith("the whole prompt weighs 9,")
    assert row == "(0) row 1, 6 of 75 tokens: a wide view , 1 6"


def test_json_has_all_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(
        told(capsys, "embedding:x (猫:1.5)", "--dialect", "comfyui", "--model", "sdxl", "--json")
    )
    assert found["embeddings"] == ["x"]
    assert list(found["encoders"]) == ["text", "text_2"]
    (row,) = found["encoders"]["text"][0][0]["sections"][0]["rows"]
    assert row[0]["token"] == "embedding:x</w>"
    assert {token["weight"] for token in row[1:]} == {1.5}
    assert found["stages"] == [{"begin": 0, "end": 20, "parts": [{"condition": 0, "weight": 1.0}]}]


def test_what_a_plain_prompt_drops(capsys: pytest.CaptureFixture[str]) -> None:
    assert "5 more tokens are not read" in told(capsys, "cat " * 80, "--dialect", "plain")
    assert "row 2, 5 of 75" in told(capsys, "cat " * 80)


def test_the_built_in_models_encoder(capsys: pytest.CaptureFixture[str]) -> None:
    """One row of its own pieces; what does not fit is counted, as by the model."""
    shown = told(capsys, "a (palm:1.5) BREAK xylophonist", "--model", "emoji")
    assert shown.splitlines() == ["(0) row 1, 8 of 30 tokens: a palm:1.5 x- y- lo- ph- oni- st"]
    assert "50 more tokens are not read" in told(capsys, "cat " * 80, "--model", "emoji")


def test_t5_reads_its_own_row(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Cut into T5's own pieces, weighted; in small letters where the family reads them so; CLIP's rows first."""
    t5_tokenizer().save_pretrained(tmp_path)
    words = ("--tokens", str(tmp_path))
    shown = told(capsys, "a (red:1.5) cat <lora:x:1>", "-m", "flux", *words).splitlines()
    assert shown[1] == "(0) row 1, 3 of 75 tokens: a red:1.5 cat"
    assert shown[2] == "T5 (0) row 1, 3 of 511 tokens: a red:1.5 cat"
    small = told(capsys, "  A (Red:1.5) CAT ", "-m", "pixart", *words)
    assert small == "T5 (0) row 1, 3 of 119 tokens: a red:1.5 cat\n"
    assert "181 more tokens are not read" in told(capsys, "cat " * 300, "-m", "pixart", *words)
    assert told(capsys, "a cat", "-m", "chroma") == (
        "the vocabulary of T5 comes with a checkpoint: give it with --tokens to see what it reads\n"
    )


def test_a_checkpoint_tells_how_its_prompts_are_read(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    case = further("pixart sigma", tmp_path / "sigma")
    shown = told(capsys, "A (red:1.5) cat", "-m", str(case.peer.folder))
    assert shown == "T5 (0) row 1, 3 of 299 tokens: a red:1.5 cat\n"
    dit = further("dit", tmp_path / "dit")
    assert main(["prompt", "9", "-m", str(dit.peer.folder)]) == 2
    assert "reads no sentences" in capsys.readouterr().err
    aura = further("aura", tmp_path / "aura")
    assert main(["prompt", "9", "-m", str(aura.peer.folder)]) == 2
    assert "(AuraFlow) comes through diffusers, whose AuraFlowPipeline reads" in capsys.readouterr().err


def test_what_is_there_comes_before_what_is_known(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    further("pixart sigma", tmp_path / "sigma").peer.folder.rename(tmp_path / "flux")
    monkeypatch.chdir(tmp_path)
    assert told(capsys, "a cat", "-m", "flux").startswith("T5 (0) row 1, 2 of 299")


def test_the_refiner_has_the_second_encoder_alone(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = peer(PIPELINES["refiner"], tmp_path).folder
    for model in ("sdxl-refiner", str(folder)):
        found = json.loads(told(capsys, "a cat", "-m", model, "--json"))
        assert (found["model"], list(found["encoders"])) == ("sdxl-refiner", ["text_2"])
    assert told(capsys, "a cat", "-m", str(folder)) == "(0) row 1, 2 of 75 tokens: a cat\n"


@pytest.mark.parametrize("name", ["lumina", "z-image turbo", "sana"])
def test_a_language_model_sees_what_is_written_around_a_prompt(
    name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The tokens whose states the model's own conditions are made of: as many, and the text's own at their end."""
    case = further(name, tmp_path)
    text = "a (red:1.5) cat"
    found = json.loads(told(capsys, text, "-m", str(case.peer.folder), "--json"))
    (row,) = found["encoders"]["language"][0][0]["sections"][0]["rows"]
    cond = case.model(torch.float32).conditioner([Prompt(text=text)])
    assert cond.mask is not None
    assert len(row) == int(cond.mask.sum())
    assert {token["weight"] for token in row} == {1.0}
    shown = told(capsys, text, "-m", str(case.peer.folder))
    assert f"{len(row)} of {found['room']['language']} tokens" in shown
    assert shown.endswith("a language model reads the prompt as it is written, marks included\n")


def test_wildcards(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "pet.txt").write_text("cat\ndog\n")
    lists = ("--wildcards", str(tmp_path))
    assert told(capsys, "a {red|blue} __pet__", *lists, "--all", "9").split("\n")[:4] == [
        "a red cat", "a red dog", "a blue cat", "a blue dog",
    ]  # fmt: skip
    first = told(capsys, "a {red|blue} __pet__", *lists, "--seed", "4")
    assert first == told(capsys, "a {red|blue} __pet__", *lists, "--seed", "4")
    assert "{" not in first


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("x", "--dialect", "a111"), "a1111"),
        (("x", "--model", "sd9"), "sd1"),
        (("x", "--steps", "0"), "1 to 1000"),
        (("x", "--wildcards", "no-such-folder"), "no-such-folder"),
        (("a {b", "--seed", "1"), "not closed"),
    ],
)
def test_errors_are_one_line(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], word: str
) -> None:
    assert main(["prompt", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert word in line


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--model", "no/such/folder"), "no/such/folder"),
        (("--model", "flux", "--tokens", "no-such-folder"), "no-such-folder, which does not exist: "),
    ],
)
def test_files_that_are_not_there(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], word: str
) -> None:
    assert main(["prompt", "x", *arguments]) == 5
    (line,) = capsys.readouterr().err.splitlines()
    assert word in line
