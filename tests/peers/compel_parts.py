"""compel's parser and encoder, without the wrappers of its package, whose import loads diffusers' pipelines."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from pathlib import Path
from typing import Any


def _load(*names: str) -> list[Any]:
    found = importlib.util.find_spec("compel")
    assert found is not None, "install the tests' packages with `make test`"
    assert found.origin is not None
    package = types.ModuleType("compel")
    package.__path__ = [str(Path(found.origin).parent)]
    sys.modules["compel"] = package
    return [importlib.import_module(f"compel.{name}") for name in names]


parser, encoder = _load("prompt_parser", "compel")
