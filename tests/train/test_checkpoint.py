"""Checkpoints: whole or absent, two kept, damage told and survived."""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path

import pytest
import torch

from sfumato.errors import OutputError, WeightsError
from sfumato.train.checkpoint import (
    KEEP,
    Checkpoint,
    checkpoints,
    load_checkpoint,
    newest,
    save_checkpoint,
)


def point(step: int) -> Checkpoint:
    make = torch.Generator().manual_seed(step)
    kernel = torch.randn(4, 3, 3, 3, generator=make).contiguous(memory_format=torch.channels_last)
    return Checkpoint(
        step=step,
        tensors={"weight.a": kernel, "weight.b": torch.randn(7, generator=make), "empty": torch.zeros(0)},
        facts={"data": "é", "hyper": {"rate": 1e-3, "betas": [0.9, 0.99]}},
    )


def quiet(text: str) -> None:
    raise AssertionError(text)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path / "new" / "run", point(12))
    back = load_checkpoint(path)
    assert (back.step, back.facts) == (12, point(12).facts)
    assert back.tensors.keys() == point(12).tensors.keys()
    for name, value in point(12).tensors.items():
        assert torch.equal(back.tensors[name], value)
    assert path.name == "step-000000012.safetensors"


def test_two_are_kept_in_the_order_of_their_steps(tmp_path: Path) -> None:
    assert newest(tmp_path, quiet) is None
    assert newest(tmp_path / "missing", quiet) is None
    for step in (9, 10, 99, 100, 100_000):
        save_checkpoint(tmp_path, point(step))
        last = newest(tmp_path, quiet)
        assert last is not None
        assert last.step == step
    assert KEEP == 2
    assert [p.name for p in checkpoints(tmp_path)] == [
        "step-000000100.safetensors",
        "step-000100000.safetensors",
    ]
    assert len(names(tmp_path)) == 2


def test_what_a_killed_writer_left_is_removed_and_other_files_are_not(tmp_path: Path) -> None:
    (tmp_path / ".step-000000003.safetensors.abcd1234.part").write_bytes(b"half")
    (tmp_path / "log.jsonl").write_text("{}")
    (tmp_path / "pool-1.safetensors").write_text("")
    assert checkpoints(tmp_path) == []
    save_checkpoint(tmp_path, point(4))
    assert names(tmp_path) == ["log.jsonl", "pool-1.safetensors", "step-000000004.safetensors"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_checkpoints_that_were_there(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (1, 2):
        save_checkpoint(tmp_path, point(step))
    before = names(tmp_path)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(OutputError, match="disk is full"):
            save_checkpoint(tmp_path, point(3))
    assert names(tmp_path) == before
    last = newest(tmp_path, quiet)
    assert last is not None
    assert last.step == 2


def test_every_truncation_is_told_by_name(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, point(5))
    data = path.read_bytes()
    chance = random.Random(0)
    for size in {0, 1, 8, len(data) - 1, *(chance.randrange(len(data)) for _ in range(60))}:
        path.write_bytes(data[:size])
        with pytest.raises(WeightsError) as caught:
            load_checkpoint(path)
        assert str(path) in str(caught.value)


def test_headers_of_others_are_told(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "step-000000001.safetensors"
    for told in (
        "{}",
        "[]",
        "3",
        "x",
        '{"step": 1}',
        '{"step": "1", "facts": {}}',
        '{"step": 1, "facts": []}',
    ):
        save_file({"a": torch.zeros(2)}, path, {"sfumato": told})
        with pytest.raises(WeightsError, match="step-000000001"):
            load_checkpoint(path)
    save_file({"a": torch.zeros(2)}, path)
    with pytest.raises(WeightsError, match="step-000000001"):
        load_checkpoint(path)


def test_a_damaged_newest_is_set_aside_and_the_one_before_is_taken(tmp_path: Path) -> None:
    for step in (50, 100):
        last = save_checkpoint(tmp_path, point(step))
    data = last.read_bytes()
    last.write_bytes(data[: len(data) // 2])
    told: list[str] = []
    found = newest(tmp_path, told.append)
    assert found is not None
    assert found.step == 50
    (line,) = told
    assert str(last) in line
    assert "step-000000100.damaged" in line
    assert (tmp_path / "step-000000100.damaged").read_bytes() == data[: len(data) // 2]
    # It counts no more: the next ones are kept two by two again.
    for step in (51, 52, 53):
        save_checkpoint(tmp_path, point(step))
    assert [load_checkpoint(p).step for p in checkpoints(tmp_path)] == [52, 53]


def test_if_all_are_damaged_that_is_an_error_that_names_a_file(tmp_path: Path) -> None:
    for step in (50, 100):
        save_checkpoint(tmp_path, point(step)).write_bytes(b"lost")
    told: list[str] = []
    with pytest.raises(WeightsError, match="step-000000050"):
        newest(tmp_path, told.append)
    assert len(told) == 1
