"""What tasks share: validation that names every fault, and results that know their recipe."""

from __future__ import annotations

import dataclasses
import difflib
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from sfumato.errors import InvalidRequest

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a task made: uint8 pictures (H, W, 3), and the arguments that make each one again, alone."""

    pixels: tuple[NDArray[np.uint8], ...]
    arguments: tuple[dict[str, Any], ...]
    notes: tuple[str, ...] = ()


def make(task: type[T], **values: Any) -> T:
    """``task(**values)``; every fault is told in one InvalidRequest: field, value, what is allowed."""
    known = [f.name for f in dataclasses.fields(task)]  # type: ignore[arg-type]
    faults = []
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"allowed: {', '.join(known)}"
            faults.append(f"unknown argument {name!r}; {hint}")
    try:
        made = task(**{name: value for name, value in values.items() if name in known})
        if not faults:
            return made
    except ValidationError as error:
        faults += [_sentence(fault) for fault in error.errors()]
    raise InvalidRequest("; ".join(faults))


def _sentence(fault: Any) -> str:
    """One fault of pydantic's as a sentence in our words."""
    name = ".".join(str(part) for part in fault["loc"]) or "argument"
    value = repr(fault.get("input"))
    value = value if len(value) <= 60 else value[:57] + "..."
    if fault["type"] == "value_error":
        return str(fault["ctx"]["error"])
    if fault["type"] == "missing":
        return f"{name} is missing: it has no default"
    if fault["type"] == "string_unicode":
        return f"{name} is not valid Unicode text; give it as UTF-8"
    if fault["type"] in ("too_short", "too_long"):
        said = fault["ctx"]
        least = fault["type"] == "too_short"
        bound = (
            f"at least {said['min_length']} are needed"
            if least
            else f"at most {said['max_length']} are allowed"
        )
        return f"{name}: {said['actual_length']} given, and {bound}"
    message = str(fault["msg"])
    return f"{name} = {value} is not allowed: {message[:1].lower()}{message[1:]}"
