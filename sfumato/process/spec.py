"""A choice with options as text: ``"karras(rho=5)"``, so that every front passes options without fields of its own.

A choice is a name, or a name with options in brackets: ``name(key=value, ...)``. Values are numbers, ``true`` and
``false``, words, or lists of numbers in square brackets.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

from sfumato.errors import InvalidRequest, UnknownName

Value = bool | int | float | str | list[float]

_CALL = re.compile(r"\s*([^\s()=,]+)\s*(?:\((.*)\))?\s*", re.DOTALL)
_PART = re.compile(r"\s*([A-Za-z_]\w*)\s*=\s*(\[[^\]]*\]|[^,\[\]]+?)\s*(?:,|$)")


def parse(text: str, kind: str = "choice") -> tuple[str, dict[str, Value]]:
    """The name and the options of ``text``; InvalidRequest says what a ``kind`` should look like."""
    whole = _CALL.fullmatch(text)
    if whole is None:
        raise InvalidRequest(f"{kind} = {_short(text)} is not a name or name(option=value, ...)")
    name, inside = whole.groups()
    options: dict[str, Value] = {}
    rest = (inside or "").strip()
    while rest:
        part = _PART.match(rest)
        if part is None:
            raise InvalidRequest(
                f"{kind} = {_short(text)}: options are written option=value, with commas between"
            )
        key, value = part.groups()
        if key in options:
            raise InvalidRequest(f"{kind} = {_short(text)} gives {key} twice")
        options[key] = _value(value)
        rest = rest[part.end() :].strip()
    return name, options


def write(name: str, options: Mapping[str, Value]) -> str:
    """The text that ``parse`` reads as ``name`` and ``options``."""
    inside = ", ".join(f"{key}={_text(value)}" for key, value in options.items())
    return f"{name}({inside})" if inside else name


def options_of(function: Callable[..., Any]) -> dict[str, Any]:
    """The options that ``function`` takes, and their defaults: what has a default or goes by keyword only."""
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY or p.default is not p.empty}


def check_options(name: str, function: Callable[..., Any], options: Mapping[str, Value]) -> None:
    """Refuse options that ``function`` does not take, or of another type than its defaults."""
    known = options_of(function)
    for key, value in options.items():
        if key not in known:
            if not known:
                raise InvalidRequest(f"{name!r} takes no options, and {key} was given")
            raise UnknownName(f"option of {name!r}", key, known)
        default = known[key]
        fits = (
            isinstance(value, (int, float)) and not isinstance(value, bool)
            if isinstance(default, float)
            else isinstance(value, (list, tuple))
            if isinstance(default, (list, tuple))
            else default is None or default is inspect.Parameter.empty or type(value) is type(default)
        )
        if not fits:
            wanted = {float: "a number", int: "a whole number", bool: "true or false", str: "a word"}
            raise InvalidRequest(
                f"{key} = {_text(value)} does not suit {name!r}: it takes "
                f"{wanted.get(type(default), 'a list of numbers')}, such as {_text(default)}"
            )


def _value(text: str) -> Value:
    if text.startswith("["):
        numbers = [part for part in re.split(r"[\s,]+", text[1:-1].strip()) if part]
        return [_number(part) for part in numbers]
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            number = kind(text)
        except ValueError:
            continue
        return number if isinstance(number, int) else _number(text)
    return text.strip("\"'")


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise InvalidRequest(f"{_short(text)} is not a number") from None
    if number != number or number in (float("inf"), float("-inf")):
        raise InvalidRequest(f"{_short(text)} is not a finite number")
    return number


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_text, value))}]"
    return repr(value) if isinstance(value, float) else str(value)


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
