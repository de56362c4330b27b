"""Pickled checkpoints (.ckpt, .pt, .pth, .bin, .pkl), read in a process of their own and handed on as safetensors.

A pickle is a program, and reading one has run code and broken memory even where only tensors were allowed
(CVE-2025-32434 before torch 2.6, CVE-2026-24747 before 2.10). So it takes a permission, torch 2.10, and a child
process with limits on memory, time and what it writes; the child loads tensors only and calls nothing that the
file names. What it found lies in a temporary safetensors file, which passes the same checks as any other.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import weakref
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sfumato.errors import SfumatoError, WeightsError
from sfumato.weights import persisted
from sfumato.weights.header import MAX_TENSORS, dtype_name
from sfumato.weights.save import save_tensors

TORCH = (2, 10)
SPARE = 2**30  # bytes of memory beside the file's own, for what torch itself takes
SECONDS = 60  # and one more for every SPEED bytes
SPEED = 20_000_000
GROWTH = 4  # times the file's size: more than this, and the file claims tensors that it does not hold
CHILD = "import sys, json; sys.path[:] = json.loads(sys.argv[1]); from sfumato.weights.pickled import child; child()"
# Lightning writes these beside the tensors. They are not called: a stand-in takes their place.
STAND_INS = (
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
    "_codecs.encode",
)


class Copy:
    """A temporary safetensors file at ``path``, removed by ``close`` or when nobody holds it any more."""

    def __init__(self, folder: Path, path: Path) -> None:
        """``path`` lies in ``folder``, which is removed whole."""
        self.path = path
        self._remove = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)

    def close(self) -> None:
        """Remove the file now."""
        self._remove()


class StandIn:
    """Takes the place of an object in a pickle that is not a tensor; whatever made it is not called."""

    def __new__(cls, *args: object, **options: object) -> StandIn:
        """Ignore what it would be made of."""
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        """Ignore what it would hold."""


def unpickle(path: Path, *, allow: bool) -> Copy:
    """The tensors of the pickled checkpoint ``path`` as a temporary safetensors file.

    A mapping under ``state_dict`` is taken if there is one, else all tensors, with names joined by dots. Raises
    WeightsError without ``allow``, with a torch before 2.10, if the file holds more than tensors, or if reading it
    takes more memory or time than such a file can need.
    """
    if not allow:
        raise WeightsError(
            f"{path} is a pickled checkpoint, and reading one can run code; prefer a .safetensors file, or if "
            "you trust where it came from, allow it with --allow-pickle (in Python: allow_pickle=True)"
        )
    if torch_version() < TORCH:
        raise WeightsError(
            f"reading {path} needs torch 2.10 or later; {torch.__version__} is not safe for it"
        )
    size = path.stat().st_size
    folder = Path(tempfile.mkdtemp(prefix="sfumato-"))
    copy = Copy(folder, folder / "weights.safetensors")
    command = [sys.executable, "-I", "-c", CHILD, json.dumps(sys.path), str(path.resolve()), str(copy.path)]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=SECONDS + size / SPEED,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"},
        )
        told = json.loads(done.stdout.splitlines()[-1]) if done.stdout.strip() else {}
    except subprocess.TimeoutExpired:
        told = {"error": "reading it takes too long"}
    except (OSError, ValueError) as error:
        told = {"error": f"its reader failed ({error})"}
    if not copy.path.is_file() or told != {}:
        copy.close()
        why = told.get("error", "its reader ended without a word: too little memory, or the file is damaged")
        raise WeightsError(f"cannot read the pickled checkpoint {path}: {why}")
    return copy


def torch_version() -> tuple[int, ...]:
    """Major and minor version of torch."""
    return tuple(int(part) for part in torch.__version__.split(".")[:2])


def child() -> None:
    """What the child process runs: read the file named by its arguments, write tensors, tell an error as JSON."""
    source, target = Path(sys.argv[2]), Path(sys.argv[3])
    try:
        torch.set_num_threads(1)
        _limit(source.stat().st_size)
        convert(source, target)
    except MemoryError:
        print(json.dumps({"error": "it needs more memory than a file of its size can"}))
    except SfumatoError as error:
        print(json.dumps({"error": str(error)}))
    except Exception as error:
        print(json.dumps({"error": why(error)}))


def why(error: Exception) -> str:
    """One sentence on an error of ``torch.load``, without its advice on how to run the code after all."""
    text = str(error)
    if found := re.search(r"(?:GLOBAL|class|function|Unsupported\s+\w+) ([\w.]+\.\w+)", text):
        return f"it holds more than tensors: it names {found[1]}, which was not called"
    if "not enough memory" in text or "Cannot allocate" in text or "DefaultCPUAllocator" in text:
        return "it needs more memory than a file of its size can"
    first = text.strip().splitlines()[0][:200] if text.strip() else ""
    return f"it is damaged or no checkpoint of torch ({type(error).__name__}: {first})"


def convert(source: Path, target: Path) -> None:
    """Read the tensors of ``source`` and write them to ``target``; only the child calls this, under its limits."""
    size = source.stat().st_size
    loaded, told = _loaded(source)
    if isinstance(loaded, Mapping) and isinstance(loaded.get("state_dict"), Mapping):
        loaded = loaded["state_dict"]
    tensors: dict[str, Tensor] = {}
    for name, tensor in _flat("", loaded, 0):
        if tensor.layout != torch.strided or tensor.device.type != "cpu" or dtype_name(tensor.dtype) is None:
            raise WeightsError(
                f"its tensor {name} is {tensor.dtype}, {tensor.layout}; only plain ones are read"
            )
        if name in tensors or len(tensors) >= MAX_TENSORS:
            raise WeightsError(f"it has two tensors {name!r}, or more than {MAX_TENSORS:,}")
        tensors[name] = tensor.detach()
    if not tensors:
        raise WeightsError("it holds no tensors")
    if (total := sum(t.numel() * t.itemsize for t in tensors.values())) > GROWTH * size:
        raise WeightsError(f"its tensors claim {total:,} bytes, many more than the file has")
    save_tensors(target, tensors, metadata=told)


def _loaded(source: Path) -> tuple[Any, dict[str, str]]:
    """What the pickle ``source`` holds, tensors and mappings of them, and what it tells besides."""
    stand_ins: list[Any] = [(StandIn, name) for name in STAND_INS]
    torch.serialization.add_safe_globals(stand_ins)
    zipped = zipfile.is_zipfile(source)
    if source.name.endswith(persisted.SUFFIX) and not zipped:
        return persisted.read(source)
    return torch.load(source, map_location="cpu", weights_only=True, mmap=zipped or None), {}


def _limit(size: int) -> None:
    """Bound this process for a file of ``size`` bytes; on systems without such limits only time is bounded."""
    with contextlib.suppress(ImportError):
        import resource

        bounds = {
            resource.RLIMIT_CPU: SECONDS + size // SPEED,
            resource.RLIMIT_FSIZE: GROWTH * size + 2**24,
            resource.RLIMIT_CORE: 0,
        }
        with contextlib.suppress(OSError), open("/proc/self/statm") as file:
            now = int(file.read().split()[0]) * resource.getpagesize()
            bounds[resource.RLIMIT_AS] = now + 2 * size + SPARE
        for kind, bound in bounds.items():
            hard = resource.getrlimit(kind)[1]
            bound = bound if hard == resource.RLIM_INFINITY else min(bound, hard)
            resource.setrlimit(kind, (bound, bound))


def _flat(prefix: str, value: object, depth: int) -> Iterator[tuple[str, Tensor]]:
    """Every tensor in nested mappings under ``value``, with its names joined by dots."""
    if isinstance(value, Tensor):
        yield prefix, value
    elif isinstance(value, Mapping) and depth < 8:
        for key, inner in value.items():
            yield from _flat(f"{prefix}.{key}" if prefix else str(key), inner, depth + 1)
