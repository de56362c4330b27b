"""Pickles of NVIDIA's persistent classes: their tensors are read, and nothing that they name is called."""

from __future__ import annotations

import contextlib
import os
import pickle
import tempfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sfumato.errors import WeightsError
from sfumato.weights import persisted
from sfumato.weights.pickled import _loaded, convert
from sfumato.weights.source import open_source
from tests.peers import persistent


def test_tensors_and_what_is_told_are_read_and_nothing_is_run(tmp_path: Path) -> None:
    path = tmp_path / "edm.pkl"
    wanted = persistent.state(path)
    persistent.write(path, wanted, img_channels=3)
    with pytest.raises(WeightsError, match="allow-pickle"):
        open_source(path)
    convert(path, tmp_path / "edm.safetensors")  # what the child process does, in this one
    source = open_source(tmp_path / "edm.safetensors")
    assert source.entries.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert torch.equal(source.read(name), tensor), name
        assert source.read(name).dtype == tensor.dtype
    told = {name: value for name, value in source.metadata.items() if name.startswith("edm.")}
    assert told["edm.class"] == "EDMPrecond"
    assert (told["edm.sigma_data"], told["edm.img_channels"], told["edm.use_fp16"]) == ("0.5", "3", "false")


def test_tensors_that_are_views_of_one_storage(tmp_path: Path) -> None:
    whole = torch.arange(24.0).view(4, 6)
    tensors = {"a": whole[1:3, ::2], "b": whole.T, "c": whole[:0]}
    persistent.write(tmp_path / "views.pkl", tensors)
    found, _ = persisted.read(tmp_path / "views.pkl")
    for name, tensor in tensors.items():
        assert torch.equal(found[name], tensor), name


def whole() -> bytes:
    """A pickle of a small network."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "edm.pkl"
        persistent.write(path, persistent.state(path))
        return path.read_bytes()


WHOLE = whole()


class Call:
    """Pickled, it asks for a call."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self.what = (function, arguments, *([state] if state is not None else []))

    def __reduce__(self) -> Any:
        return self.what


def made(size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0, **more: Any) -> Call:
    """A tensor of one storage of four values, as a pickle asks for it."""
    storage = torch.arange(4.0).untyped_storage()
    typed = torch.storage.TypedStorage(wrap_storage=storage, dtype=torch.float32, _internal=True)
    return Call(torch._utils._rebuild_tensor_v2, typed, offset, size, stride, False, OrderedDict(), **more)


def network(tensor: Any) -> Call:
    """A network of a persistent class with one parameter."""
    state = {"_parameters": {"weight": tensor}, "_buffers": {}, "_modules": {}}
    return Call(print, {"class_name": "EDMPrecond", "state": state})


HOSTILE: dict[str, tuple[Any, str]] = {
    "a call in place of the network": (Call(os.system, "touch touched"), "no network"),
    "more values than there are": (network(made((5,), (1,))), "more values than the file has"),
    "a far offset": (network(made((1,), (1,), 9)), "more values than the file has"),
    "a huge stride": (network(made((2,), (2**40,))), "more values than the file has"),
    "a negative size": (network(made((-1,), (1,))), "not known"),
    "no numbers": (network(made(("x",), (1,))), "not known"),  # type: ignore[arg-type]
    "sizes and strides apart": (network(made((2, 2), (1,))), "not known"),
    "a mapping of tensors": ({"weight": torch.zeros(2)}, "no network"),
    "nothing": (None, "no network"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles_are_refused_and_run_nothing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    thing, words = HOSTILE[name]
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "edm.pkl"
    path.write_bytes(pickle.dumps({"ema": thing}))
    with pytest.raises((WeightsError, ValueError), match=words):
        assert persisted.read(path)[0], "no tensors"
    assert [*tmp_path.iterdir()] == [path]


def test_a_state_that_is_set_on_a_tensor_is_ignored(tmp_path: Path) -> None:
    tensor = made((4,), (1,), state=(1, 2, 3, 4))
    (tmp_path / "edm.pkl").write_bytes(pickle.dumps({"ema": network(tensor)}))
    assert torch.equal(persisted.read(tmp_path / "edm.pkl")[0]["weight"], torch.arange(4.0))


def test_a_call_for_a_parameter_gives_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "edm.pkl").write_bytes(pickle.dumps({"ema": network(Call(os.system, "touch touched"))}))
    assert persisted.read(tmp_path / "edm.pkl")[0] == {}
    with pytest.raises(WeightsError, match="holds no tensors"):
        convert(tmp_path / "edm.pkl", tmp_path / "edm.safetensors")
    assert not (tmp_path / "touched").exists()


@given(st.integers(0, 10**6), st.integers(0, 255))
@settings(max_examples=200, derandomize=True, deadline=None)
def test_changed_and_truncated_pickles_raise_and_run_nothing(at: int, byte: int) -> None:
    data = bytearray(WHOLE)
    data[at % len(data)] = byte
    for changed in (bytes(data), bytes(data[: at % len(data)])):
        with tempfile.TemporaryDirectory() as folder, contextlib.suppress(Exception):
            path = Path(folder) / "edm.pkl"
            path.write_bytes(changed)
            persisted.read(path)


def test_pickles_of_torch_under_that_name_are_read_as_such(tmp_path: Path) -> None:
    torch.save({"a.weight": torch.ones(2)}, tmp_path / "other.pkl")
    found, told = _loaded(tmp_path / "other.pkl")
    assert torch.equal(found["a.weight"], torch.ones(2))
    assert told == {}
