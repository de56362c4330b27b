"""Files of embedded prompts that are wrong, hostile, or cannot be written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from sfumato.cli.main import main
from sfumato.condition import Prompt
from sfumato.errors import WeightsError
from sfumato.text.embedded import MARK, open_embedded

GOOD = {"prompt_embeds": torch.zeros(1, 7, 4)}


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({}, "holds no embedded prompts: it has no tensor 'prompt_embeds'"),
        ({"weight": torch.zeros(3)}, "no tensor 'prompt_embeds', .*but 'weight'"),
        ({**GOOD, "extra": torch.zeros(1)}, "1 tensors that are no embedded prompts: 'extra'"),
        ({"prompt_embeds": torch.zeros(2, 7, 4)}, r"shape \(2, 7, 4\) .*is \(1, L, D\)"),
        ({"prompt_embeds": torch.zeros(4)}, r"shape \(4,\)"),
        ({"prompt_embeds": torch.zeros(1, 0, 4)}, "which no text encoder makes"),
        ({"prompt_embeds": torch.zeros(1, 7, 4, dtype=torch.int32)}, "floating-point numbers"),
        ({**GOOD, "pooled_prompt_embeds": torch.zeros(1, 2, 4)}, r"pooled_prompt_embeds .*is \(1, D\)"),
        ({**GOOD, "prompt_attention_mask": torch.ones(1, 6)}, "is for 6 tokens, and there are 7"),
    ],
)
def test_files_that_hold_no_prompts_are_refused_by_their_header(
    tmp_path: Path, tensors: Any, said: str
) -> None:
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(WeightsError, match=said):
        open_embedded(tmp_path / "x.safetensors")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(tmp_path: Path, bad: float) -> None:
    save_file({"prompt_embeds": torch.full((1, 7, 4), bad)}, tmp_path / "x.safetensors")
    file = open_embedded(tmp_path / "x.safetensors")
    with pytest.raises(WeightsError, match="prompt_embeds holds NaN or infinity"):
        file.find(Prompt(text="x").wording)
    save_file({**GOOD, "prompt_attention_mask": torch.full((1, 7), 2)}, tmp_path / "x.safetensors")
    with pytest.raises(WeightsError, match=r"prompt_attention_mask .* has values beside 0 and 1"):
        open_embedded(tmp_path / "x.safetensors").find(Prompt(text="x").wording)


def test_hostile_files_are_one_sentence_and_no_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    huge = tmp_path / "huge.safetensors"
    huge.write_bytes((2**62).to_bytes(8, "little") + b"{}")
    deep = tmp_path / "deep.safetensors"
    save_file(GOOD, deep, {MARK: "[" * 100_000})
    bomb = tmp_path / "bomb.safetensors"
    save_file(GOOD, bomb, {MARK: "[" + "1," * 8_500_000 + "1]"})
    for path in (huge, deep, bomb, tmp_path, tmp_path / "none.safetensors", Path(__file__)):
        assert main(["generate", "a", "--embedded", str(path), "-o", str(tmp_path / "x.png")]) == 5
        told = capsys.readouterr().err
        assert told.startswith("error: ")
        assert len(told.splitlines()) == 1
        assert len(told) < 600
    assert not (tmp_path / "x.png").exists()


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(name=st.sampled_from(["version", "family", "encoders", "asked", "rows"]), value=VALUES)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_headers_of_any_shape_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, name: str, value: Any
) -> None:
    row = {"wording": Prompt(text="a").wording, "at": ""}
    good = {"version": 1, "family": "sd1", "encoders": {}, "asked": [{"prompt": "a"}], "rows": [row]}
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    save_file(GOOD, path, {MARK: json.dumps({**good, name: value})})
    try:
        family = open_embedded(path).family
    except WeightsError:
        return
    assert family == ("sd1" if name != "family" else value)


def test_what_cannot_be_embedded_or_written_is_told_before_anything_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "a.safetensors")
    (tmp_path / "there.safetensors").write_bytes(b"")
    for arguments, said in (
        (["-o", out], "give prompts"),
        (["a", "-o", str(tmp_path / "a.png")], "are .safetensors files"),
        (["a", "-o", str(tmp_path / "there.safetensors")], "exists"),
        (["a", "-o", out, "--refiner", "x"], "--refiner is not for embedded prompts"),
        (["a", "-o", out, "--dialect", "b"], "unknown dialect 'b'"),
        (["--from", str(tmp_path / "none.txt"), "-o", out], "cannot read the prompts"),
    ):
        assert main(["embed", *arguments]) == 2
        assert said in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["there.safetensors"]
