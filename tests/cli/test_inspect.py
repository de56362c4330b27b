"""``sfumato inspect`` from outside."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sfumato.cli.main import main
from sfumato.weights.save import save_tensors
from tests.families.originals import write_original


def test_a_person_reads_what_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "one.safetensors"
    write_original(path, "sdxl", torch.float16)
    assert main(["inspect", str(path)]) == 0
    shown = capsys.readouterr().out
    for word in ("Stable Diffusion XL, base", "eps (the family's)", "openrail++", "text_2", "F16", "betas"):
        assert word in shown
    assert main(["inspect", str(path), "--json", "--hash"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["family"] == "sdxl"
    assert len(told["files"][0]["sha256"]) == 64
    (unet,) = (one for one in told["components"] if one["place"] == "denoiser")
    assert unet["dtypes"] == {"F16": unet["parameters"]}
    assert unet["bytes"] == 2 * unet["parameters"]


def test_it_needs_no_torch(tmp_path: Path) -> None:
    write_original(tmp_path / "one.safetensors", "sd2")
    code = (
        f"import sys; from sfumato.cli.main import main; "
        f"assert main(['inspect', {str(tmp_path / 'one.safetensors')!r}]) == 0; "
        "print([m for m in ('torch', 'numpy', 'pydantic') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "deviation" in done.stdout


def test_refusals_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_tensors(tmp_path / "one.safetensors", {"a.weight": torch.zeros(2)})
    for path in (tmp_path / "one.safetensors", tmp_path / "none", tmp_path):
        assert main(["inspect", str(path)]) == 5
        out, err = capsys.readouterr()
        assert not out
        assert len(err.splitlines()) == 1
