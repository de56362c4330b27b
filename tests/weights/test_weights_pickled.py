"""Pickled checkpoints: read only with permission, in a child; nothing that they name is called."""

from __future__ import annotations

import os
import pickle
import sys
import types
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from sfumato.errors import WeightsError
from sfumato.weights import pickled
from sfumato.weights.source import open_source


class Runs:
    """Unpickles by running a command."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self.canary}",)


def lightning() -> object:
    """An object of the class that Lightning leaves in checkpoints, which is not installed here."""
    name = "pytorch_lightning.callbacks.model_checkpoint"
    module = types.ModuleType(name)
    kind = type("ModelCheckpoint", (), {"__module__": name})
    module.ModelCheckpoint = kind  # type: ignore[attr-defined]
    for above in ("pytorch_lightning", "pytorch_lightning.callbacks"):
        sys.modules[above] = types.ModuleType(above)
    sys.modules[name] = module
    made = kind()
    made.best = 3
    return made


def test_without_permission_the_sentence_says_how(tmp_path: Path) -> None:
    for suffix in ("ckpt", "pt", "pth", "bin"):
        path = tmp_path / f"x.{suffix}"
        torch.save({"a": torch.zeros(3)}, path)
        with pytest.raises(WeightsError, match=r"--allow-pickle \(in Python: allow_pickle=True\)"):
            open_source(path)
        path.rename(tmp_path / f"pytorch_model.{suffix}")
        with pytest.raises(WeightsError, match="--allow-pickle"):
            open_source(tmp_path)
        (tmp_path / f"pytorch_model.{suffix}").unlink()


def test_a_checkpoint_of_lightning_opens_and_its_copy_is_removed(tmp_path: Path) -> None:
    shared = torch.arange(12.0).view(3, 4)
    state = OrderedDict(a=shared.T, b=shared, c=torch.ones(2, dtype=torch.bfloat16), n=torch.tensor(7))
    made = {"state_dict": state, "callbacks": {0: lightning()}, "loss": np.float64(0.1), "epoch": 3}
    try:
        torch.save(made, tmp_path / "x.ckpt")
    finally:
        for name in [name for name in sys.modules if name.startswith("pytorch_lightning")]:
            del sys.modules[name]
    with open_source(tmp_path / "x.ckpt", allow_pickle=True) as source:
        assert source.path == tmp_path / "x.ckpt"
        assert {name: source.read(name).tolist() for name in state} == {
            k: v.tolist() for k, v in state.items()
        }
        assert source["c"].dtype == "BF16"
        (copy,) = source.files
        inner = source.under("")
    assert not copy.exists()
    assert not copy.parent.exists()
    with pytest.raises(WeightsError, match="No such file"):
        inner.read("a")


def test_code_is_not_run(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    torch.save({"a": torch.zeros(3), "b": Runs(canary)}, tmp_path / "x.pt")
    with pytest.raises(WeightsError, match=r"it names (posix|nt)\.system, which was not called") as caught:
        open_source(tmp_path / "x.pt", allow_pickle=True)
    assert "weights_only" not in str(caught.value)
    assert not canary.exists()
    # The same file by the unpickler that people used does run it, so the canary sings.
    with zipfile.ZipFile(tmp_path / "x.pt") as file, pytest.raises(pickle.UnpicklingError):
        pickle.loads(file.read("x/data.pkl"))
    pickle.loads(pickle.dumps(Runs(canary)))
    assert canary.exists()


def test_a_tensor_that_claims_more_than_the_file_holds_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1).as_strided((10**6, 10**6), (0, 0))}, tmp_path / "x.pt")
    with pytest.raises(WeightsError, match=r"claim 4,000,000,000,000 bytes"):
        pickled.convert(tmp_path / "x.pt", tmp_path / "x.safetensors")
    assert not (tmp_path / "x.safetensors").exists()


def test_a_zip_that_unpacks_to_a_thousandfold_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(2**24)}, tmp_path / "big.pt")
    with (
        zipfile.ZipFile(tmp_path / "big.pt") as plain,
        zipfile.ZipFile(tmp_path / "x.pt", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for item in plain.infolist():
            bomb.writestr(item.filename, plain.read(item))
    (tmp_path / "big.pt").unlink()
    assert (tmp_path / "x.pt").stat().st_size < 2**18
    with pytest.raises(
        RuntimeError, match="resize storage"
    ):  # storages are mapped, and these bytes are packed
        pickled.convert(tmp_path / "x.pt", tmp_path / "x.safetensors")
    assert not (tmp_path / "x.safetensors").exists()


def test_the_child_is_bounded_in_memory(tmp_path: Path) -> None:
    # Before zip files, a checkpoint told the size of a storage, which was allocated before it was read.
    torch.save({"a": torch.zeros(3)}, tmp_path / "x.pt", _use_new_zipfile_serialization=False)
    data = (tmp_path / "x.pt").read_bytes()
    marked = b"cpu", b"K\x03"  # the storage's place, then its size as one byte
    at = data.index(marked[1], data.index(marked[0]))
    (tmp_path / "x.pt").write_bytes(data[:at] + b"\x8a\x08" + (2**36).to_bytes(8, "little") + data[at + 2 :])
    with pytest.raises(WeightsError, match="needs more memory than a file of its size can"):
        open_source(tmp_path / "x.pt", allow_pickle=True)


def test_an_old_torch_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"a": torch.zeros(3)}, tmp_path / "x.pt")
    monkeypatch.setattr(torch, "__version__", "2.9.1+cpu")
    with pytest.raises(WeightsError, match=r"needs torch 2\.10 or later; 2\.9\.1"):
        open_source(tmp_path / "x.pt", allow_pickle=True)


def test_a_child_that_hangs_or_dies_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"a": torch.zeros(3)}, tmp_path / "x.pt")
    monkeypatch.setattr(pickled, "SECONDS", 0.2)
    for code, why in [
        ("import time; time.sleep(60)", "takes too long"),
        ("import os; os.abort()", "ended without a word"),
        ("print('noise')", "its reader failed"),
    ]:
        monkeypatch.setattr(pickled, "CHILD", code)
        with pytest.raises(WeightsError, match=why):
            open_source(tmp_path / "x.pt", allow_pickle=True)


def test_the_sentence_on_a_failure_is_short_and_gives_no_bad_advice() -> None:
    advice = (
        "Weights only load failed. In PyTorch 2.6, we changed the default value of `weights_only`\nUse False."
    )
    assert "\n" not in pickled.why(RuntimeError(advice))
    assert pickled.why(pickle.UnpicklingError(f"{advice} Unsupported global: GLOBAL os.system was not")) == (
        "it holds more than tensors: it names os.system, which was not called"
    )
