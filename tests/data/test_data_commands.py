from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from sfumato.cli.data import app
from sfumato.cli.main import main
from sfumato.data import commands
from sfumato.errors import DataError, InvalidRequest


def invoke(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_describe_counts(tiny_path: Path) -> None:
    report = commands.describe(tiny_path)
    for key in ("splits", "styles", "groups", "licences", "sizes", "attributions"):
        assert sum(report[key].values()) == report["pictures"], key
    assert report["sizes"] == {"64x64": report["pictures"]}
    assert len(report["sha256"]) == 64


def test_check_names_what_is_damaged(
    tiny_path: Path, tiny_rows: list[dict[str, Any]], copy_of_tiny: Callable[..., Path]
) -> None:
    assert commands.check(tiny_path)["damaged"] == []
    data = bytearray(tiny_path.read_bytes())
    data[tiny_rows[4]["offset"] + 8] ^= 0xFF
    seen: list[tuple[int, int]] = []
    path = copy_of_tiny(tar=bytes(data))
    report = commands.check(path, lambda done, of: seen.append((done, of)))
    assert len(report["damaged"]) == 1
    assert tiny_rows[4]["id"] in report["damaged"][0]
    assert seen[-1] == (len(tiny_rows), len(tiny_rows))
    result = invoke("check", path, "--json")
    assert isinstance(result.exception, DataError)
    assert json.loads(result.stdout)["damaged"] == report["damaged"]


def test_sheets_are_fixed_by_their_seed(tiny_path: Path) -> None:
    one, same, other = (commands.sheet(tiny_path, 10, seed) for seed in (1, 1, 2))
    assert one.tobytes() == same.tobytes()
    assert one.tobytes() != other.tobytes()
    with pytest.raises(InvalidRequest, match="from 1 to"):
        commands.sheet(tiny_path, 0)


def test_a_sheet_shows_no_more_than_there_is(tmp_path: Path) -> None:
    Image.new("RGB", (30, 10), "red").save(tmp_path / "wide.png")
    page = np.asarray(commands.sheet(tmp_path, 24))
    assert page.shape[1] < 2 * commands.CELL
    assert ((page[..., 0] > 200) & (page[..., 1] < 60)).any()


def test_the_command_line_shows_checks_and_draws(tiny_path: Path, tmp_path: Path) -> None:
    shown = invoke("show", tiny_path)
    assert shown.exit_code == 0
    assert "Apache-2.0" in shown.stdout
    assert json.loads(invoke("show", tiny_path, "--json").stdout) == commands.describe(tiny_path)
    assert invoke("check", tiny_path).exit_code == 0
    out = tmp_path / "s.webp"
    size = json.loads(invoke("sheet", tiny_path, "-o", out, "-n", 4, "--json").stdout)
    with Image.open(out) as image:
        assert image.size == (size["width"], size["height"])
    assert isinstance(invoke("sheet", tiny_path, "-o", tmp_path / "s.txt").exception, InvalidRequest)
    assert not (tmp_path / "s.txt").exists()


def test_wrong_arguments_are_one_line_and_exit_code_2(
    tiny_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    absent = str(tmp_path / "absent.tar")
    for arguments, reason in (
        (["show", absent], "does not exist"),
        (["sheet", str(tiny_path), "-n", "0", "-o", str(tmp_path / "s.png")], "from 1 to"),
        (["sheet", str(tiny_path), "-n", "x"], "not a valid integer"),
        (["build", str(tmp_path), "--workers", "0"], "--workers"),
        (["build", str(tmp_path), "--set", "nonsense"], "nonsense"),
        (["show"], "PATH"),
        (["draw"], "draw"),
    ):
        assert main(["data", *arguments]) == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.count("\n") == 1
        assert said.err.startswith("error: ")
        assert reason in said.err


def test_a_group_alone_prints_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data"]) == 2
    assert capsys.readouterr().err.startswith("Usage: sfumato data")


def test_help_needs_no_heavy_imports() -> None:
    code = "import sys, sfumato.cli.data; print([m for m in ('torch', 'numpy', 'PIL') if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
    for name in ("show", "check", "sheet", "build"):
        assert invoke(name, "--help").exit_code == 0
