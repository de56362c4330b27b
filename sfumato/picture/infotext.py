"""The ``parameters`` text that AUTOMATIC1111's web UI writes into pictures, written and read.

::

    text   := prompt [ "\\nNegative prompt: " negative ] "\\n" item { ", " item }
    item   := key ": " value
    value  := text without "," ":" and line breaks | JSON string

The text is for other programs. It cannot hold everything: a prompt line that starts with ``Negative prompt:``
is read back as the negative prompt. That is why pictures of sfumato also carry the whole Recipe.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field

from sfumato.picture.recipe import JSON, Recipe

_NEGATIVE = "Negative prompt:"
_MAX_ITEMS_LINE = 2**16
_ITEM = re.compile(r'\s*(\w[\w \-/]{1,63}):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
_FROM_ARGUMENTS = (
    ("Steps", "steps"),
    ("Sampler", "sampler"),
    ("Schedule type", "grid"),
    ("CFG scale", "guidance"),
    ("Seed", "seed"),
    ("Size", "size"),
    ("Denoising strength", "strength"),
)


@dataclass(frozen=True)
class Infotext:
    """A ``parameters`` text taken apart; ``fields`` holds its values as text ("CFG scale": "7.0")."""

    prompt: str = ""
    negative: str = ""
    fields: dict[str, str] = field(default_factory=dict)


def write_infotext(recipe: Recipe) -> str:
    """The ``parameters`` text for ``recipe``.

    It takes prompt, negative, steps, sampler, grid, guidance, seed, size ("WxH", a number, or a list of width
    and height) and strength from the arguments; those that are missing or null are left out.
    """
    arguments = recipe.arguments
    items = {label: _plain(arguments.get(name)) for label, name in _FROM_ARGUMENTS}
    items["Size"] = _size(arguments.get("size"))
    items["Model hash"] = recipe.model_hash[:10]
    items["Model"] = recipe.model
    items["RNG"] = "CPU"
    items["Version"] = f"sfumato {recipe.versions.get('sfumato', 'unknown')}"
    negative = _plain(arguments.get("negative")) or ""
    text = _plain(arguments.get("prompt")) or ""
    if negative:
        text += f"\n{_NEGATIVE} {negative}"
    line = ", ".join(f"{key}: {_quoted(value)}" for key, value in items.items() if value is not None)
    return f"{text}\n{line}".strip().replace("\0", "")


def parse_infotext(text: str) -> Infotext:
    """Take a ``parameters`` text apart. Any text will do: what is not understood is part of the prompt.

    The last line is a line of parameters only if at least three can be read from it.
    """
    lines = text.strip().split("\n")
    found = _items(lines[-1])
    if len(found) >= 3:
        lines.pop()
    else:
        found = {}
    prompt: list[str] = []
    negative: list[str] = []
    for line in lines:
        if negative:
            negative.append(line)
        elif line.startswith(_NEGATIVE):
            negative.append(line.removeprefix(_NEGATIVE))
        else:
            prompt.append(line)
    return Infotext("\n".join(prompt).strip(), "\n".join(negative).strip(), found)


def _items(line: str) -> dict[str, str]:
    """The parameters in ``line``, in one pass from left to right; what is between them is skipped."""
    found: dict[str, str] = {}
    position = 0
    line = line[:_MAX_ITEMS_LINE]
    while position < len(line):
        match = _ITEM.match(line, position)
        if match:
            found[match[1]] = _unquoted(match[2])
            position = match.end()
        else:
            comma = line.find(",", position)
            position = comma + 1 if comma >= 0 else len(line)
    return found


def _plain(value: JSON | None) -> str | None:
    """A JSON value as the text of an item."""
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)


def _size(value: JSON | None) -> str | None:
    if isinstance(value, int):
        return f"{value}x{value}"
    if isinstance(value, list) and len(value) == 2:
        return f"{value[0]}x{value[1]}"
    return _plain(value)


def _quoted(value: str) -> str:
    """``value`` as it stands, or as a JSON string where it would be misread."""
    misread = any(mark in value for mark in ',:\n"') or value != value.strip() or not value
    return json.dumps(value, ensure_ascii=False) if misread else value


def _unquoted(value: str) -> str:
    if not value.startswith('"'):
        return value.strip()
    try:
        return str(json.loads(value))
    except ValueError:
        return value.strip()
