"""k-diffusion's sampling functions, loaded without the packages that only its training needs.

``sampling`` is its module. Its functions take ``model(x, sigma)`` returning x0, ``x``, ``sigmas`` and, where they draw
noise, ``noise_sampler(sigma, sigma_next)``; ``sigma`` is a vector with one value a row.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import torch  # noqa: F401  (before the stubs: torch looks around among all modules while it is imported)


def _stub(name: str) -> types.ModuleType:
    module = types.ModuleType(name)

    def attribute(wanted: str) -> types.ModuleType:
        if wanted.startswith("__"):
            raise AttributeError(wanted)
        return _stub(f"{name}.{wanted}")

    module.__getattr__ = attribute  # type: ignore[method-assign]
    return module


def _load() -> Any:
    found = importlib.util.find_spec("k_diffusion")
    assert found is not None, "install the tests' packages with `make test`"
    assert found.origin is not None
    names = ("torchvision", "torchvision.transforms", "torchdiffeq", "torchsde")
    package = types.ModuleType("k_diffusion")
    package.__path__ = [str(Path(found.origin).parent)]
    before = {name: sys.modules.get(name) for name in names}
    sys.modules.update({name: _stub(name) for name in names if before[name] is None})
    sys.modules["k_diffusion"] = package
    try:
        return importlib.import_module("k_diffusion.sampling")
    finally:
        for name in names:
            if before[name] is None:
                del sys.modules[name]


sampling = _load()
