"""Single functions of diffusers' pipelines, without importing a pipeline, which takes seconds."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any


def function(path: str, name: str) -> Callable[..., Any]:
    """The function ``name`` of the file ``path`` under diffusers; it may use nothing else of its module."""
    found = importlib.util.find_spec("diffusers")
    assert found is not None, "install the tests' packages with `make test`"
    assert found.origin is not None
    tree = ast.parse((Path(found.origin).parent / path).read_text("utf-8"))
    (node,) = (n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == name)
    scope: dict[str, Any] = {}
    exec(compile(ast.Module([node], type_ignores=[]), path, "exec"), scope)
    made: Callable[..., Any] = scope[name]
    return made


calculate_shift = function("pipelines/flux/pipeline_flux.py", "calculate_shift")
linear_quadratic_schedule = function("pipelines/mochi/pipeline_mochi.py", "linear_quadratic_schedule")
