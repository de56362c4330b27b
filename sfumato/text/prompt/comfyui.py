r"""ComfyUI's prompts: ``(x:1.2)``, ``(x)`` for 1.1, ``\(`` for a bracket to see, ``embedding:name``.

A number replaces the weight around it, while ``(x)`` multiplies it: in ``((x:1.2))`` x weighs 1.2, in ``((x))`` 1.21.
Square brackets, BREAK, AND and tags of adapters are text. A bracket that does not close is text up to the end, unless
that end is a bracket that closes another, which then counts; after a bracket that was not opened brackets are text
until as many have opened.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from sfumato.errors import InvalidRequest
from sfumato.text.prompt.parts import Parsed, Scheduled, Section, Span, Words, checked, number

NAME = "comfyui"
EMBEDDING = "embedding:"
_ESCAPED = re.compile(r"\\([()])")
_CUT = re.compile(r"[ \n](?=embedding:)")
_LONGEST_NUMBER = 400


def parse(text: str, *, compose: bool = True) -> Parsed:
    """``text`` as one part without a schedule, which is all that ComfyUI's text has; ``compose`` changes nothing."""
    return Parsed(NAME, (Scheduled((text,) if text else ()),))


def read(text: str) -> tuple[Words, ...]:
    """The spans of ``text``; neighbours stay apart even with equal weights, since they are tokenised apart. Linear."""
    scan = _Scan(text)
    spans: list[Span] = []
    inside = [(scan.items(0, len(text)), 1.0)]
    while inside:
        items, weight = inside[-1]
        item = next(items, None)
        if item is None:
            inside.pop()
            continue
        start, end, group = item
        if group:
            stop, inner = scan.weight(start + 1, end - 1, weight)
            inside.append((scan.items(start + 1, stop), inner))
        else:
            told = _ESCAPED.sub(r"\1", text[start:end])
            spans.append(Span(told, checked(weight, told)))
    return (Words((Section(tuple(spans)),)),)


class _Scan:
    """A text with what must be known of its brackets to read it in one pass: their pairs, and what lies before."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.escaped = {match.start(1) for match in _ESCAPED.finditer(text)}
        self.closing: dict[int, int] = {}
        opened: list[int] = []
        # The last colon and the last bracket before each place, -1 where there is none.
        self.colon, self.bracket = [-1], [-1]
        for at, mark in enumerate(text):
            bracket = mark in "()" and at not in self.escaped
            if bracket and mark == "(":
                opened.append(at)
            elif bracket and opened:
                self.closing[opened.pop()] = at
            self.colon.append(at if mark == ":" else self.colon[-1])
            self.bracket.append(at if bracket else self.bracket[-1])

    def is_mark(self, at: int, mark: str) -> bool:
        """Whether a bracket ``mark`` that is not escaped stands at ``at``."""
        return self.text[at] == mark and at not in self.escaped

    def items(self, start: int, end: int) -> Iterator[tuple[int, int, bool]]:
        """The pieces of ``text[start:end]`` in order, and whether each is a group in brackets."""
        at = begun = start
        level = 0  # below 0 after brackets that were not opened
        while at < end:
            if self.is_mark(at, ")"):
                level -= 1
            elif self.is_mark(at, "("):
                if level < 0:
                    level += 1
                else:
                    if begun < at:
                        yield begun, at, False
                    close = self.closing.get(at, end)
                    begun = close + 1 if close < end else end
                    whole = close < end or (end - at >= 2 and self.is_mark(end - 1, ")"))
                    yield at, min(close + 1, end), whole
                    at = begun
                    continue
            at += 1
        if begun < end:
            yield begun, end, False

    def weight(self, start: int, end: int, around: float) -> tuple[int, float]:
        """Where the text of the group ``text[start:end]`` ends, and its weight, inside the weight ``around``."""
        colon = self.colon[end]
        if colon > start and self.bracket[end] < colon and end - colon <= _LONGEST_NUMBER:
            try:
                return colon, float(self.text[colon + 1 : end])
            except ValueError:
                pass
        return end, around * 1.1


def pieces_of(text: str) -> Iterator[tuple[str, str]]:
    """``text`` cut where an embedding is named: the name, if any, and the text after it."""
    for piece in _CUT.split(text):
        if piece.startswith(EMBEDDING):
            name, *rest = piece.removeprefix(EMBEDDING).split() or [""]
            yield name, " ".join(rest)
        else:
            yield "", piece


def write_words(words: Words) -> str:
    """The text that ``read`` reads as ``words``."""
    if len(words.sections) != 1 or words.sections[0].weight != 1:
        raise InvalidRequest(
            "ComfyUI's prompts have no sections (BREAK): encode each by itself and join the states"
        )
    texts: list[str] = []
    loose = False  # whether the text before would run into this one
    for span in words.sections[0].spans:
        if not span.text:
            continue
        text = re.sub(r"[()]", r"\\\g<0>", span.text)
        plain = span.weight == 1 and not loose and not text.endswith("\\")
        texts.append(text if plain else f"({text}:{number(span.weight)})")
        loose = plain
    return "".join(texts)
