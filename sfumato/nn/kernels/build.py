"""Compiles a kernel's C++ source once per machine into a private cache, and loads it."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path

import torch

_log = logging.getLogger(__name__)

# No -ffast-math: it would let the compiler drop NaNs, and linking with it makes the whole process flush
# denormals. The sources say themselves what may be reordered.
_FLAGS = (
    "-std=c++20",
    "-O2",  # the sources write their vectors out: -O3 is no faster and compiles twice as long
    "-march=native",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fno-exceptions",
    "-fno-rtti",
    "-fPIC",
    "-fopenmp",
    "-fvisibility=default",
    "-w",
)


def cache_folder() -> Path:
    """Where compiled kernels lie: ``$SFUMATO_CACHE/kernels``, else ``~/.cache/sfumato/kernels``."""
    base = os.environ.get("SFUMATO_CACHE")
    return (Path(base) if base else Path.home() / ".cache" / "sfumato") / "kernels"


@functools.cache
def load(name: str) -> ctypes.CDLL | None:
    """Compile ``<name>.cpp`` beside this file if the cache lacks it, and load it.

    None without a compiler, with ``SFUMATO_KERNELS=0`` in the environment, or when anything fails; it never
    raises. The answer is kept for the life of the process.
    """
    if os.environ.get("SFUMATO_KERNELS") == "0":
        return None
    try:
        return ctypes.CDLL(str(_library(name)))
    except Exception as error:  # whatever is wrong, the plain torch path serves
        _log.debug("kernel %s is not available: %s", name, error)
        return None


def _library(name: str) -> Path:
    """The compiled kernel's path; compiles it if it is not there."""
    compiler = shutil.which("g++")
    if compiler is None:
        raise FileNotFoundError("no g++")
    source = Path(__file__).with_name(f"{name}.cpp")
    flags = list(_FLAGS)
    if platform.machine() == "x86_64":
        flags.append("-mprefer-vector-width=512")
    runtime = _openmp()
    key = hashlib.sha256(source.read_bytes())
    for part in (*flags, compiler, runtime, _cpu()):
        key.update(b"\0" + part.encode())
    folder = cache_folder()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    state = folder.stat()
    if state.st_uid != os.getuid() or stat.S_IMODE(state.st_mode) & 0o022:
        raise PermissionError("others can write to the kernel cache")  # and would run code as us
    path = folder / f"{name}-{key.hexdigest()[:24]}.so"
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=folder) as work:
            made, linked = Path(work) / "kernel.o", Path(work) / "kernel.so"
            _call([compiler, *flags, "-c", str(source), "-o", str(made)])
            _call([compiler, "-shared", str(made), runtime, "-o", str(linked)])
            os.replace(linked, path)
    return path


def _openmp() -> str:
    """What to link for OpenMP: torch's own copy if it ships one, so that the process has one thread pool."""
    own = sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*"))
    beside = sorted((Path(torch.__file__).parent.parent / "torch.libs").glob("libgomp*.so*"))
    return str((own + beside)[0]) if own or beside else "-lgomp"


def _cpu() -> str:
    """What ``-march=native`` depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    wanted = ("model name", "flags", "Features", "CPU part")
    return "\n".join([platform.machine(), *sorted({line for line in lines if line.startswith(wanted)})])


def _call(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
