"""Command-line options made from the fields of a task: one definition for library, command line and docs."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable
from typing import Any

import click


def options_of(task: type[Any], skip: tuple[str, ...] = ()) -> Callable[[Any], Any]:
    """A decorator that gives a command one option for each field of the dataclass ``task``.

    The option's name, type and help are the field's; values left out are not passed on at all, so that the
    task's own defaults hold. Limits are the task's to check: it names what is allowed.
    """
    hints = typing.get_type_hints(task)

    def decorate(function: Any) -> Any:
        for field in reversed(dataclasses.fields(task)):
            if field.name in skip:
                continue
            function = click.option(
                f"--{field.name.replace('_', '-')}",
                field.name,
                type=plain_type(hints[field.name]),
                default=None,
                help=help_of(field),
                metavar=plain_type(hints[field.name]).__name__.upper(),
            )(function)
        return function

    return decorate


def plain_type(hint: Any) -> type[Any]:
    """The plain type inside ``Annotated[...]`` and ``... | None``."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return plain_type(next(a for a in typing.get_args(hint) if a is not type(None)))
    if typing.get_origin(hint) is typing.Annotated:
        return plain_type(typing.get_args(hint)[0])
    assert isinstance(hint, type), hint
    return hint


def help_of(field: dataclasses.Field[Any]) -> str:
    """A field's description and its default."""
    info = field.default
    description = getattr(info, "description", None) or ""
    value = getattr(info, "default", info)
    if value is None:
        return f"{description} (default: the model's)"
    if value == "":
        return description
    return f"{description} (default: {value})"


def given(values: dict[str, Any]) -> dict[str, Any]:
    """The options that were given on the command line."""
    return {name: value for name, value in values.items() if value is not None}
