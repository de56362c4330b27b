r"""A1111's prompts: weights by brackets, ``BREAK``, ``AND`` with weights, schedules, ``<lora:name:0.8>``.

A prompt is read in A1111's order: adapters are taken out, ``AND`` cuts parts, each part is a template
(``templates``), and what a template says at a step has its brackets read. ``(x)`` is 1.1, ``[x]`` 1 / 1.1,
``(x:1.3)`` 1.3; brackets inside one another multiply. ``\(`` is a bracket to see, and so are ``\)``, ``\[``, ``\]``;
``\\`` is a backslash, and any other backslash vanishes. A bracket that is not closed reaches to the end; one that was
not opened is text.
"""

from __future__ import annotations

import re
from dataclasses import replace

from sfumato.errors import InvalidRequest
from sfumato.text.prompt.parts import (
    Adapter,
    Parsed,
    Scheduled,
    Section,
    Span,
    Words,
    checked,
    merged,
    number,
    shown,
)
from sfumato.text.prompt.templates import parse_template, write_template

NAME = "a1111"
_ADAPTER = re.compile(r"<(\w+):([^<>]+)>")
_AND = re.compile(r"\bAND\b")
_BREAK = re.compile(r"\bBREAK\b")
_WEIGHT = re.compile(r"[-+]?(?:\d+\.?|\d*\.\d+)")
_TOKENS = re.compile(r":\s*+([+-]?(?:\d++(?:\.\d*+)?|\.\d++))\s*+\)|\\[()\[\]\\]|[\\()\[\]:]|[^\\()\[\]:]+")
_ESCAPED = re.compile(r"[\\()\[\]]")


def parse(text: str, *, compose: bool = True) -> Parsed:
    """``text`` as A1111 reads it; without ``compose`` as a negative prompt, in which AND is a word.

    InvalidRequest for an adapter whose strength is no number, and for schedules nested too deep.
    """
    rest, adapters = take_adapters(text)
    cut = _AND.split(rest) if compose else [rest]
    parts = [_weighted(piece) if compose else (rest, 1.0) for piece in cut]
    return Parsed(NAME, tuple(Scheduled(parse_template(told), weight) for told, weight in parts), adapters)


def take_adapters(text: str) -> tuple[str, tuple[Adapter, ...]]:
    """``text`` without its ``<kind:name:strength>``, and these.

    As A1111 has it, the strengths are the text encoder's and the denoiser's, the second as the first where it is
    left out, 1 where both are; they may be named, ``te=`` and ``unet=``.
    """
    adapters: list[Adapter] = []

    def found(match: re.Match[str]) -> str:
        kind, (name, *rest) = match[1], match[2].split(":")
        named = dict(item.split("=", 1) for item in rest if "=" in item)
        told = [item for item in rest if "=" not in item]
        if len(told) > 2:
            raise InvalidRequest(
                f"{shown(match[0])} has {len(told)} strengths; write <{kind}:name:text:denoiser>"
            )
        on_text = _strength(named.pop("te", told[0] if told else "1"), match[0])
        other = named.pop("unet", told[1] if len(told) > 1 else None)
        on_denoiser = on_text if other is None else _strength(other, match[0])
        adapters.append(Adapter(kind, name, on_text, on_denoiser, tuple(named.items())))
        return ""

    return _ADAPTER.sub(found, text), tuple(adapters)


def _strength(text: str, whole: str) -> float:
    try:
        strength = float(text)
    except ValueError as error:
        raise InvalidRequest(f"the strength {shown(text)} in {shown(whole)} is no number") from error
    return checked(strength, whole)


def _weighted(piece: str) -> tuple[str, float]:
    """A part's text and its weight, which is a number after the last colon."""
    text = piece.rstrip()
    before, colon, told = text.rpartition(":")
    told = told.strip()
    if colon and _WEIGHT.fullmatch(told):
        return before.rstrip(), checked(float(told), piece)
    return text, 1.0


def read(text: str) -> tuple[Words, ...]:
    """The sections and spans of ``text``, which is what a template says at one step. Linear in its length."""
    tokens = list(_TOKENS.finditer(text))
    closes = _multipliers(tokens)
    weights = {"(": [1.0], "[": [1.0]}
    sections: list[list[Span]] = [[]]
    for place, token in enumerate(tokens):
        told = token.group()
        if place in closes:
            mark, multiplier = closes[place]
            if multiplier is None:
                weights[mark].pop()
            else:
                weights[mark].append(weights[mark][-1] * multiplier)
            continue
        weight = weights["("][-1] * weights["["][-1]
        if told[0] == "\\":
            sections[-1].append(Span(told[1:], weight))
            continue
        first, *others = _BREAK.split(told)
        sections[-1].append(Span(first, weight))
        sections += [[Span(other, weight)] for other in others]
    last = len(sections) - 1
    made = []
    for place, spans in enumerate(sections):
        kept = _trimmed(spans, left=place > 0, right=place < last)
        joined = merged(span for span in kept if span.text)
        for span in joined:
            checked(span.weight, span.text)
        made.append(Section(joined))
    return (Words(tuple(made)),)


def _trimmed(spans: list[Span], *, left: bool, right: bool) -> list[Span]:
    """``spans`` without the blanks beside a BREAK, which make no tokens, whichever brackets they stand in."""
    first, last = 0, len(spans)
    while left and first < last and not spans[first].text.strip():
        first += 1
    while right and first < last and not spans[last - 1].text.strip():
        last -= 1
    kept = spans[first:last]
    if kept and left:
        kept[0] = replace(kept[0], text=kept[0].text.lstrip())
    if kept and right:
        kept[-1] = replace(kept[-1], text=kept[-1].text.rstrip())
    return kept


def _multipliers(tokens: list[re.Match[str]]) -> dict[int, tuple[str, float | None]]:
    """The tokens that open a bracket, with its multiplier, or close one (None); any other is text.

    Round and square brackets are matched apart, as in A1111.
    """
    found: dict[int, tuple[str, float | None]] = {}
    opened: dict[str, list[int]] = {"(": [], "[": []}
    for place, token in enumerate(tokens):
        told = token.group()
        if told in "([":
            opened[told].append(place)
            continue
        mark = "(" if told.endswith(")") and told[0] != "\\" else "[" if told == "]" else ""
        if mark and opened[mark]:
            multiplier = float(token[1]) if token[1] else 1.1 if mark == "(" else 1 / 1.1
            found[opened[mark].pop()] = (mark, multiplier)
            found[place] = (mark, None)
    for mark, places in opened.items():
        found |= dict.fromkeys(places, (mark, 1.1 if mark == "(" else 1 / 1.1))
    return found


def write(parsed: Parsed) -> str:
    """The text that ``parse`` reads as ``parsed``."""
    several = len(parsed.parts) > 1
    texts = []
    for part in parsed.parts:
        text = write_template(part.template)
        if part.weight != 1 or _weighted(text)[1] != 1:
            text += f" :{number(part.weight)}"
        texts.append(text)
    whole = " AND".join(texts) if several else texts[0]
    return whole + "".join(map(_tag, parsed.adapters))


def _tag(adapter: Adapter) -> str:
    options = "".join(f":{key}={value}" for key, value in adapter.options)
    return f"<{adapter.kind}:{adapter.name}:{number(adapter.text)}:{number(adapter.denoiser)}{options}>"


def write_words(words: Words) -> str:
    """The text that ``read`` reads as ``words``, with brackets and the words BREAK and AND escaped."""
    if any(section.weight != 1 for section in words.sections):
        raise InvalidRequest("A1111's prompts have no weights of whole sections")
    return " BREAK ".join("".join(map(_span, section.spans)) for section in words.sections)


def _span(span: Span) -> str:
    text = _ESCAPED.sub(lambda match: "\\" + match[0], span.text)
    text = re.sub(r"\b(BREA|AN)(K|D)\b", r"\1\\\2", text)
    return text if span.weight == 1 else f"({text}:{number(span.weight)})"
