"""A1111's prompt editing: ``[from:to:when]`` and ``[a|b]``, by the grammar that its parser publishes.

::

    template  := (group | text | "[" | "]" | "(" | ")" | ":")*      a bracket that closes no group is text
    group     := "(" inner [":" inner] ")" | "[" inner "]"          text, for the weights to read
               | "[" [inner ":"] inner ":" number "]"               a switch
               | "[" inner ("|" inner)+ "]"                         a cycle
    inner     := (group | text)*                                    text has no "|"; any character after "\\"

Text outside this grammar, such as ``|`` outside a cycle or a backslash at the end, has no schedule at all: A1111 reads
it as plain text, and so does this.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from sfumato.errors import InvalidRequest
from sfumato.text.prompt.parts import Cycle, Switch, Template, number, shown

DEEPEST = 64
"""How deep switches and cycles may be inside one another."""

_NUMBER = re.compile(r"\s*+([+-]?(?:[0-9]++(?:\.[0-9]*+)?|\.[0-9]++)(?:[eE][+-]?[0-9]++)?)\s*+")
_MARKS = re.compile(r"\\.|\\|[\[\]():|]")
_PAIR = {")": "(", "]": "["}


@dataclass
class _Open:
    """A bracket that is not closed yet: where, and what stands directly in it."""

    at: int
    mark: str
    colons: list[int] = field(default_factory=list)
    pipes: list[int] = field(default_factory=list)


def parse_template(text: str) -> Template:
    """``text`` as a template, in linear time; InvalidRequest where schedules are nested deeper than DEEPEST."""
    groups = _groups(text)
    if not groups:
        return (text,) if text else ()
    return _build(text, groups)


def _groups(text: str) -> dict[int, tuple[int, list[int]]]:
    """Switches and cycles by where they open: where they close, and their separators. Empty if there is none."""
    found: dict[int, tuple[int, list[int]]] = {}
    opened: list[_Open] = []
    for match in _MARKS.finditer(text):
        mark, at = match.group(), match.start()
        if mark[0] == "\\":
            if len(mark) == 1:  # nothing follows, or the end of a line: A1111's grammar has no such text
                return {}
        elif mark in "([":
            opened.append(_Open(at, mark))
        elif mark == ":":
            if opened:
                opened[-1].colons.append(at)
        elif mark == "|":
            if not opened:
                return {}
            opened[-1].pipes.append(at)
        elif opened:
            inner = opened[-1]
            separators = _separators(text, inner, at) if inner.mark == _PAIR[mark] else None
            if separators is None:  # this bracket and all around it are text, and text has no "|"
                if any(group.pipes for group in opened):
                    return {}
                opened.clear()
                continue
            opened.pop()
            if separators:
                found[inner.at] = (at, separators)
    if any(group.pipes for group in opened):
        return {}
    return found


def _separators(text: str, group: _Open, close: int) -> list[int] | None:
    """What divides ``group``: a switch's colons, a cycle's pipes, nothing in an emphasis; None if it is no group."""
    colons, pipes = group.colons, group.pipes
    if group.mark == "(":
        return [] if not pipes and len(colons) <= 1 else None
    if pipes:
        return None if colons else pipes
    if not colons:
        return []
    if len(colons) <= 2 and _NUMBER.fullmatch(text, colons[-1] + 1, close):
        return colons
    return None


def _build(text: str, groups: dict[int, tuple[int, list[int]]]) -> Template:
    """The template of ``text`` whose schedules are ``groups``."""
    slots: list[list[list[str | Switch | Cycle]]] = [[[]]]
    cuts = dict.fromkeys(groups, "[")
    for close, separators in groups.values():
        cuts[close] = "]"
        cuts |= dict.fromkeys(separators, "|" if text[separators[0]] == "|" else ":")
    opened: list[int] = []
    start = 0
    for at in sorted(cuts):
        if at > start:
            slots[-1][-1].append(text[start:at])
        start = at + 1
        if cuts[at] == "[":
            if len(opened) == DEEPEST:
                raise InvalidRequest(
                    f"schedules are nested more than {DEEPEST} deep at {shown(text[at:])}; use fewer brackets"
                )
            opened.append(at)
            slots.append([[]])
        elif cuts[at] != "]":
            slots[-1].append([])
        else:
            _, separators = groups[opened.pop()]
            inside = [tuple(slot) for slot in slots.pop()]
            if text[separators[0]] == "|":
                slots[-1][-1].append(Cycle(tuple(inside)))
            else:
                told = _NUMBER.fullmatch(text, separators[-1] + 1, at)
                assert told is not None
                before = inside[0] if len(separators) == 2 else ()
                when = told.group(1)
                slots[-1][-1].append(Switch(before, inside[-2], float(when), "." in when))
    if start < len(text):
        slots[-1][-1].append(text[start:])
    return tuple(slots[0][0])


def write_template(template: Template) -> str:
    """The text that ``parse_template`` reads as ``template``."""
    return "".join(map(_write, template))


def _write(piece: str | Switch | Cycle) -> str:
    if isinstance(piece, str):
        return piece
    if isinstance(piece, Cycle):
        return "[" + "|".join(map(write_template, piece.options)) + "]"
    when = number(piece.when)
    if piece.relative and "." not in when:
        when += ".0"
    return f"[{write_template(piece.before)}:{write_template(piece.after)}:{when}]"


def render(template: Template, step: int, steps: int) -> str:
    """The text of ``template`` at ``step`` (0 is the first) of ``steps``."""
    texts: list[str] = []
    for piece in template:
        if isinstance(piece, str):
            texts.append(piece)
        elif isinstance(piece, Cycle):
            texts.append(render(piece.options[step % len(piece.options)], step, steps))
        else:
            texts.append(render(piece.before if step < piece.step(steps) else piece.after, step, steps))
    return "".join(texts)


def changes(template: Template, steps: int) -> set[int]:
    """The steps, 1 to ``steps - 1``, before which ``template`` may change."""
    found: set[int] = set()
    for piece in template:
        if isinstance(piece, Cycle):
            return set(range(1, steps))
        if isinstance(piece, Switch):
            found |= {piece.step(steps)} | changes(piece.before, steps) | changes(piece.after, steps)
    return found & set(range(1, steps))
