"""``sfumato convert`` from outside."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sfumato.cli.convert import parse_size
from sfumato.cli.main import main
from sfumato.errors import InvalidRequest
from tests.families.originals import write_original


def test_a_folder_in_shards_and_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_original(tmp_path / "one.safetensors", "flux")
    folder, back = tmp_path / "folder", tmp_path / "back.safetensors"
    arguments = [str(tmp_path / "one.safetensors"), str(folder), "--to", "diffusers", "--dtype", "bfloat16"]
    assert main(["convert", *arguments, "--shard-size", "100KB"]) == 0
    out, err = capsys.readouterr()
    assert out.strip() == str(folder)
    assert "T5's tokenizer" in err
    shards = list((folder / "transformer").glob("*-of-*.safetensors"))
    assert len(shards) > 1
    assert all(path.stat().st_size < 140_000 for path in shards)
    assert main(["convert", str(folder), str(back), "--to", "original", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["path"] == str(back)
    assert main(["inspect", str(back), "--json"]) == 0
    assert {kind for one in json.loads(capsys.readouterr().out)["components"] for kind in one["dtypes"]} == {
        "BF16"
    }
    assert main(["convert", *arguments]) == 2  # it exists
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "size"), [("5GB", 5 * 10**9), ("1.5 GiB", 3 * 2**29), ("700", 700), ("2mb", 2 * 10**6)]
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "5 TBs", "-1GB", "0", "1e9"])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(InvalidRequest, match="5GB"):
        parse_size(text)
