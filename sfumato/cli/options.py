"""Command-line options made from the fields of a task: one definition for library, command line and docs."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable
from typing import Any

import click

OF_MODEL = ("steps", "sampler", "grid", "guidance", "guide")
"""The fields whose default is the model's."""


def options_of(task: type[Any], skip: tuple[str, ...] = ()) -> Callable[[Any], Any]:
    """A decorator that gives a command one option for each field of the dataclass ``task``.

    The option's name, type and help are the field's; values left out are not passed on at all, so that the
    task's own defaults hold. Limits are the task's to check: it names what is allowed.
    """
    hints = typing.get_type_hints(task, include_extras=True)

    def decorate(function: Any) -> Any:
        for field in reversed(dataclasses.fields(task)):
            if field.name in skip:
                continue
            inner = each_type(hints[field.name])
            kind = plain_type(hints[field.name] if inner is None else inner)
            function = _option(field, kind, several=inner is not None)(function)
        return function

    return decorate


def _option(field: dataclasses.Field[Any], kind: type[Any], *, several: bool) -> Callable[[Any], Any]:
    """The option of one field; pictures and masks are named by text, which others read.

    One of ``several`` values is given again for each.
    """
    name = f"--{field.name.replace('_', '-')}"
    plain = kind in (bool, int, float, str)
    shown: dict[str, Any] = (
        {"is_flag": True, "flag_value": True}
        if kind is bool
        else {"metavar": kind.__name__.upper() if plain else "FILE"}
    )
    return click.option(
        name,
        field.name,
        type=kind if plain else str,
        help=help_of(field),
        multiple=several,
        # An explicit default of None would count as given.
        **({"required": True} if is_required(field) else {"default": None}),
        **shown,
    )


def is_required(field: dataclasses.Field[Any]) -> bool:
    """Whether a field has no default."""
    required = getattr(field.default, "is_required", None)
    return bool(required()) if required is not None else field.default is dataclasses.MISSING


def each_type(hint: Any) -> Any:
    """The type of the values of a field that is a ``tuple[..., ...]``; None of any other field."""
    if typing.get_origin(hint) is typing.Annotated:
        return each_type(typing.get_args(hint)[0])
    return typing.get_args(hint)[0] if typing.get_origin(hint) is tuple else None


def plain_type(hint: Any) -> type[Any]:
    """The plain type inside ``Annotated[...]``, ``... | None`` and ``Literal[...]``."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return plain_type(next(a for a in typing.get_args(hint) if a is not type(None)))
    if typing.get_origin(hint) is typing.Annotated:
        return plain_type(typing.get_args(hint)[0])
    if typing.get_origin(hint) is typing.Literal:
        return type(typing.get_args(hint)[0])
    assert isinstance(hint, type), hint
    return hint


def help_of(field: dataclasses.Field[Any]) -> str:
    """A field's description and its default, where it has one that says something."""
    info = field.default
    description = getattr(info, "description", None) or ""
    value = getattr(info, "default", info)
    if value is None and field.name in OF_MODEL:
        return f"{description} (default: the model's)"
    if value is None or value is False or value in ("", ()) or is_required(field):
        return description
    return f"{description} (default: {value})"


def given(values: dict[str, Any]) -> dict[str, Any]:
    """The options that were given on the command line."""
    return {name: value for name, value in values.items() if value is not None and value != ()}
