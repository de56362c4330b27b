"""Every recipe from the command line to exported weights, on tiny data and, where it must be, a tiny network."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from sfumato.cli.main import main
from sfumato.cli.train import changed
from sfumato.errors import InvalidRequest, UnknownName
from sfumato.families import emoji as family
from sfumato.nn.autoencoder import AutoencoderConfig
from sfumato.nn.efficientnet import efficientnet_lite0
from sfumato.recipes import emoji, emoji_codec, labelled
from sfumato.recipes.recipe import RECIPES, recipe
from sfumato.train.checkpoint import checkpoints, load_checkpoint
from sfumato.weights.packed import load_packed
from tests.train.killing import same as same_end
from tests.train.killing import write_idx

TINY = Path(__file__).parent.parent / "assets" / "emoji-tiny.tar"
Tell = Callable[..., tuple[int, str, str]]


@pytest.fixture
def tell(capsys: pytest.CaptureFixture[str]) -> Tell:
    def call(*arguments: object) -> tuple[int, str, str]:
        code = main(["train", *map(str, arguments)])
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture(autouse=True)
def small_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """The network of digits with fewer channels."""
    monkeypatch.setattr(labelled, "network", partial(labelled.network, widths=(16, 16)))


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_idx(tmp_path_factory.mktemp("squares"))


@pytest.fixture
def few(tmp_path: Path) -> Path:
    """Twelve pictures of the train split and four of val, with the tar they lie in."""
    rows = [json.loads(line) for line in TINY.with_suffix(".jsonl").read_text("utf-8").splitlines()]
    chosen = [r for r in rows if r["split"] == "train"][:12] + [r for r in rows if r["split"] == "val"][:4]
    path = tmp_path / "few" / "few.tar"
    path.parent.mkdir()
    path.write_bytes(TINY.read_bytes())
    path.with_suffix(".jsonl").write_text("".join(json.dumps(row) + "\n" for row in chosen), "utf-8")
    return path


def short(steps: int, batch: int = 4) -> tuple[str, ...]:
    return ("--set", f"steps={steps}", "--set", f"batch={batch}", "--dtype", "float32", "--device", "cpu")


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text("utf-8").splitlines()]


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_every_recipe_of_the_table_is_there_under_its_name(name: str) -> None:
    made = recipe(name)
    assert made.name == name
    assert len(made.summary) > 20
    assert changed(made.hyper, (), made.hyper.seed) == made.hyper


def test_digits_end_to_end(squares: Path, tmp_path: Path, tell: Tell) -> None:
    out, kept = tmp_path / "run", tmp_path / "kept"
    code, text, _ = tell("digits", "--data", squares, "--out", out, *short(2), "--json", "--export", kept)
    assert code == 0
    told = json.loads(text.splitlines()[-1])
    assert (told["step"], told["of"], told["files"]) == (2, 2, [str(kept / "digits.safetensors")])
    assert len(told["score"]) == 10
    rows = lines(out)
    assert [row["step"] for row in rows] == [1, 2]
    assert all(len(row["bins"]) == 10 and row["loss"] > 0 for row in rows)
    assert "score" not in rows[0]
    assert rows[1]["score"] == told["score"]
    assert [load_checkpoint(path).step for path in checkpoints(out)] == [2]
    with Image.open(out / "sheet-0000002.png") as sheet:
        assert min(sheet.size) > 12
    tensors, facts = load_packed(kept / "digits.safetensors")
    assert facts["classes"] == ["class 0", "class 1", "class 2"]
    assert (facts["step"], facts["seen"], facts["score"]) == (2, 8, told["score"])
    weights = {n.removeprefix("average."): t for n, t in load_checkpoint(checkpoints(out)[0]).tensors.items()}
    for name, value in tensors.items():
        scale = float(weights[name].abs().max())
        assert torch.allclose(value, weights[name], rtol=1e-3, atol=0.6 * scale / 127 + 6e-8), name

    # A run is not overwritten, and goes on only as itself.
    code, _, err = tell("digits", "--data", squares, "--out", out, *short(3))
    assert code == 2
    assert err.splitlines()[-1].startswith("error: ")
    assert "add --resume" in err
    other = write_idx(tmp_path / "other", count=60)
    code, _, err = tell("digits", "--data", other, "--out", out, *short(3), "--resume")
    assert code == 2
    assert "other data" in err
    assert [load_checkpoint(path).step for path in checkpoints(out)] == [2]
    code, text, err = tell("digits", "--data", squares, "--out", out, *short(3), "--resume")
    assert code == 0
    assert "going on from step 2" in err
    assert [row["step"] for row in lines(out)] == [1, 2, 3]
    # There is nothing left to do: nothing is done, and that is no error.
    code, text, _ = tell("digits", "--data", squares, "--out", out, *short(3), "--resume", "--json")
    assert (code, json.loads(text)["score"]) == (0, None)
    assert [row["step"] for row in lines(out)] == [1, 2, 3]

    # If the newest checkpoint is lost, the one before is taken, and said so.
    newest = checkpoints(out)[-1]
    newest.write_bytes(newest.read_bytes()[:1000])
    code, _, err = tell("digits", "--data", squares, "--out", out, *short(3), "--resume")
    assert code == 0
    words = " ".join(err.split())
    assert "is damaged" in words
    assert "going on from step 2" in words
    assert [row["step"] for row in lines(out)] == [1, 2, 3, 3]
    assert [load_checkpoint(path).step for path in checkpoints(out)] == [2, 3]


def test_a_data_set_too_small_to_hold_anything_out_still_trains(tmp_path: Path, tell: Tell) -> None:
    data = write_idx(tmp_path / "data", count=10)
    code, text, _ = tell("digits", "--data", data, "--out", tmp_path / "run", *short(1), "--json")
    assert code == 0
    assert None not in json.loads(text.splitlines()[-1])["score"]


def refused(tell: Tell, out: Path, *arguments: object) -> str:
    code, text, err = tell(*arguments, "--out", out)
    assert code == 2
    assert text == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert not out.exists()
    return err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("steps=0", ["steps=0", "1 and above"]),
        ("batch=-4", ["batch=-4", "1 and above"]),
        ("steps=many", ["steps=many", "int"]),
        ("steps", ["steps", "int"]),
        ("step=3", ["'step'", "'steps'"]),
        ("warm-up=3", ["'warm-up'", "'warmup'"]),
        ("betas=1", ["'betas'"]),
        ("rate=nan", ["rate", "nan"]),
        ("rate=-1", ["rate", "-1"]),
        ("average=1.5", ["average", "1.5", "0 to 1"]),
        ("cooldown=2", ["cooldown", "0 to 1"]),
        ("clip=0", ["clip"]),
        ("seed=-1", ["seed", "-1"]),
        ("seed=99999999999999999999", ["seed"]),
    ],
)
def test_numbers_that_do_not_fit_are_refused_before_any_work(
    change: str, words: list[str], tell: Tell, tmp_path: Path
) -> None:
    err = refused(tell, tmp_path / "run", "digits", "--data", tmp_path, "--set", change)
    assert [word for word in words if word not in err] == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["digit"], ["recipe", "'digit'", "'digits'"]),
        (["emoji-codek"], ["'emoji-codec'"]),
        (["digits", "--dtype", "float23"], ["'float32'"]),
        (["digits", "--device", "cpu0"], ["'cpu'"]),
        (["digits", "--minutes", "0"], ["--minutes", "above 0"]),
        (["digits", "--minutes", "nan"], ["--minutes", "above 0"]),
        (["digits", "--seed", "-1"], ["seed"]),
        (["digits"], ["holds no pictures", "IDX"]),
    ],
)
def test_a_users_mistake_is_one_sentence(
    arguments: list[str], words: list[str], tell: Tell, tmp_path: Path
) -> None:
    err = refused(tell, tmp_path / "run", *arguments, "--data", tmp_path)
    assert [word for word in words if word not in err] == []


def test_all_changes_are_made_and_no_others() -> None:
    before = recipe("emoji").hyper
    made = changed(before, ("rate=2e-4", "steps=10", "warmup=3"), 5)
    assert made == dataclasses.replace(before, rate=2e-4, steps=10, warmup=3, seed=5)
    with pytest.raises(UnknownName):
        changed(before, ("rates=1",), 0)
    with pytest.raises(InvalidRequest):
        changed(before, ("rate=fast",), 0)


def test_emoji_end_to_end(few: Path, tmp_path: Path, tell: Tell, monkeypatch: pytest.MonkeyPatch) -> None:
    small = dataclasses.replace(
        family.NETWORK, widths=(16,), attention=("text",), middle="none", clock=16, head=16, groups=4
    )
    monkeypatch.setattr(family, "NETWORK", small)
    monkeypatch.setattr(family, "DEFAULTS", dataclasses.replace(family.DEFAULTS, steps=1))
    monkeypatch.setattr(emoji, "VARIANTS", 1)
    monkeypatch.setattr(emoji, "SHOWN", emoji.SHOWN[:1])
    out, kept = tmp_path / "run", tmp_path / "kept"
    code, text, err = tell(
        "emoji", "--data", few, "--out", out, *short(2), "--fresh", "--json", "--export", kept
    )
    assert (code, err) == (0, "")
    told = json.loads(text.splitlines()[-1])
    assert told["step"] == 2
    assert len(told["score"]) == 10
    assert {Path(name).name for name in told["files"]} == {*family.DENOISER_FILES, "manifest.json"}
    tensors: dict[str, torch.Tensor] = {}
    for name in family.DENOISER_FILES:
        part, facts = load_packed(kept / name)
        assert not tensors.keys() & part.keys()
        tensors |= part
        assert (facts["examples"], facts["seen"], facts["seen_before"]) == (12, 8, 0)
    family.assign(family.denoiser(), tensors, "kept")
    with Image.open(out / "sheet-0000002.png") as sheet:
        assert min(sheet.size) >= 128
    # The stored examples are found again, not made again.
    monkeypatch.setattr(emoji, "make_pool", lambda *_: pytest.fail("made again"))
    code, _, err = tell("emoji", "--data", few, "--out", out, *short(3), "--fresh", "--resume")
    assert code == 0
    assert "going on from step 2" in err
    assert [row["step"] for row in lines(out)] == [1, 2, 3]
    # Weights of another network in the tree are told, not a traceback.
    code, _, err = tell("emoji", "--data", few, "--out", out, *short(3), "--resume")
    assert code == 5
    assert "are not those of this model" in err


def test_emoji_codec_end_to_end(
    few: Path, tmp_path: Path, tell: Tell, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = AutoencoderConfig(latent=4, encoder=(8, 8, 8), decoder=(8, 8, 8), decoder_blocks=1, groups=4)
    monkeypatch.setattr(family, "CODEC", small)
    monkeypatch.setattr(emoji_codec, "load_lite0", lambda: efficientnet_lite0().eval().requires_grad_(False))
    out, kept = tmp_path / "run", tmp_path / "kept"
    code, text, _ = tell(
        "emoji-codec", "--data", few, "--out", out, *short(2, 2), "--fresh", "--json", "--export", kept
    )
    assert code == 0
    told = json.loads(text.splitlines()[-1])
    assert len(told["score"]) == 2
    assert {"absolute", "edges", "kl", "perceptual"} < lines(out)[-1].keys()
    _, facts = load_packed(kept / family.CODEC_FILE)
    for key in ("mean", "std"):
        values = facts[key]
        assert isinstance(values, list)
        assert len(values) == 4
    assert facts["pictures"] == 12
    assert (out / "sheet-0000002.png").exists()


def test_another_seed_trains_other_weights_and_the_same_the_same(
    squares: Path, tmp_path: Path, tell: Tell
) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert tell("digits", "--data", squares, "--out", tmp_path / name, *short(1), "--seed", seed)[0] == 0
    assert same_end(tmp_path / "a", tmp_path / "b", 1)
    assert not same_end(tmp_path / "a", tmp_path / "c", 1)
