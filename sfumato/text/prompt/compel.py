r"""compel's prompts: ``word++``, ``(two words)1.3``, ``word--``, ``("a", "b").and(1, 0.5)``, ``("a", "b").blend()``.

A plus is 1.1 and a minus 0.9, to the power of how many there are; weights inside one another multiply. ``.and`` sets
the states of its texts one after the other, ``.blend`` takes their weighted mean. ``withLora(name, 0.8)`` names an
adapter. ``.swap`` is refused: it edits attention maps, which is no condition. ``\(`` ``\)`` ``\"`` are what they show.
"""

from __future__ import annotations

import math
import re

from sfumato.errors import InvalidRequest
from sfumato.text.prompt.compel_grammar import SPACE, Grammar, Node, quoted
from sfumato.text.prompt.parts import (
    Adapter,
    Parsed,
    Scheduled,
    Section,
    Span,
    Words,
    checked,
    shown,
)

NAME = "compel"
_SWAP = re.compile(r"\.swap\s*\(")
_COMMA = re.compile(r",(\S)")
_SHOWN = re.compile(r'\\++([()"])')  # however many backslashes: compel unescapes a text more than once
_CALL = re.compile(r"\.(and|add|blend)[ \t\n\r]*+\(([^()]*+)\)")
_OPENS = re.compile(r"[ \t\n\r]*+\.(and|add|blend)[ \t\n\r]*+\(")
_QUOTE = re.compile(r'"(?:\\"|[^"\n\r])*"')
_OTHER_SPACE = re.compile(r"[\x0b\x0c]")

Fragments = list[tuple[str, float]]


def parse(text: str, *, compose: bool = True) -> Parsed:
    """``text`` as one part; ``compose`` changes nothing. InvalidRequest for what compel refuses, and for ``.swap``."""
    _, adapters = _read(text)
    return Parsed(NAME, (Scheduled((text,) if text else ()),), adapters)


def read(text: str) -> tuple[Words, ...]:
    """The texts of ``text``: several if they are blended, each with its share."""
    return _read(text)[0]


def _read(text: str) -> tuple[tuple[Words, ...], tuple[Adapter, ...]]:
    if _SWAP.search(text):
        raise InvalidRequest(
            "compel's .swap edits attention maps and is not read here; write the prompt without it"
        )
    grammar = Grammar(_COMMA.sub(r", \1", _OTHER_SPACE.sub(" ", text)))
    adapters: list[Adapter] = []
    start = _skip_adapters(grammar, 0)
    called = _call(grammar, grammar.skip[0], adapters) or _call(grammar, start, adapters, only="blend")
    if called is None:
        fragments = _fragments(grammar, 0, len(grammar.text), adapters, free=True)
        return (Words((_section(fragments),)),), tuple(adapters)
    name, texts, weights, end = called
    if name != "blend" and not _is_space(grammar.text[end:]):
        raise InvalidRequest(
            f"after .{name}(...) compel reads no further, and {shown(grammar.text[end:])} follows"
        )
    _fragments(grammar, 0, start, adapters, free=True)
    if name == "blend":
        if grammar.skip[_skip_adapters(grammar, end)] != len(grammar.text):
            raise InvalidRequest(f"after .blend(...) {shown(grammar.text[end:])} follows, which is not read")
        _fragments(grammar, end, len(grammar.text), adapters, free=True)
        words = [Words((_section(found),), share) for found, share in zip(texts, weights, strict=True)]
        return tuple(words), tuple(adapters)
    sections = [_section(found, weight) for found, weight in zip(texts, weights, strict=True) if found]
    return (Words(tuple(sections) or (Section(()),)),), tuple(adapters)


def _is_space(text: str) -> bool:
    return not text.strip(SPACE)


def _skip_adapters(grammar: Grammar, at: int) -> int:
    """The place after the adapters that ``at`` begins with."""
    at = grammar.skip[at]
    while at < len(grammar.text) and (node := grammar.nodes[at]) is not None and node.kind == "adapter":
        at = grammar.skip[node.end]
    return at


def _call(
    grammar: Grammar, at: int, adapters: list[Adapter], only: str = ""
) -> tuple[str, list[Fragments], list[float], int] | None:
    """``(texts).name(weights)`` at ``at``: its name, the texts, a weight for each and its end; None if it is none."""
    text = grammar.text
    if text[at : at + 1] != "(":
        return None
    found: list[tuple[Grammar, int, int, bool]] = []
    at = grammar.skip[at + 1]
    while True:
        member = _member(grammar, at)
        if member is None:
            return None
        at = grammar.skip[member[1]]
        found.append(member[0])
        if text[at : at + 1] != ",":
            break
        at = grammar.skip[at + 1]
    if text[at : at + 1] != ")" or not (opened := _OPENS.match(text, at + 1)) or only not in ("", opened[1]):
        return None
    call = _CALL.match(text, opened.start(1) - 1)
    if call is None:
        raise InvalidRequest(f"{shown(text[opened.start(1) - 1 :])} is not closed: a bracket is missing")
    texts = [_fragments(inside, begin, stop, adapters, free) for inside, begin, stop, free in found]
    return call[1], texts, _weights(call, len(texts)), call.end()


def _member(grammar: Grammar, at: int) -> tuple[tuple[Grammar, int, int, bool], int] | None:
    """A text in the list of a call: where it is to be read, whether freely, and where it ends."""
    node = grammar.target(at)
    if node is not None:
        inside = node.inside or grammar
        begin, stop = (0, len(inside.text)) if node.inside else (node.begin, node.stop)
        return (inside, begin, stop, False), node.end
    quote = _QUOTE.match(grammar.text, at)
    if quote is None:
        return None
    inside = quoted(quote.group())
    return (inside, 0, len(inside.text), True), quote.end()


def _weights(call: re.Match[str], count: int) -> list[float]:
    """The weights in the brackets of ``call``; a blend's sum to 1 unless it says ``no_normalize``."""
    told = [word.strip() for word in call[2].split(",") if word.strip()]
    as_they_are = call[1] == "blend" and told[-1:] == ["no_normalize"]
    if as_they_are:
        told.pop()
    try:
        weights = [checked(float(word), call.group()) for word in told] or [1.0] * count
    except ValueError as error:
        raise InvalidRequest(f"the weights in {shown(call.group())} are not all finite numbers") from error
    if len(weights) != count:
        raise InvalidRequest(f"{shown(call.group())} has {len(weights)} weights for {count} texts")
    if call[1] != "blend" or as_they_are:
        return weights
    total = math.fsum(weights)
    if total == 0:
        raise InvalidRequest(f"the weights of {shown(call.group())} sum to 0; add no_normalize to keep them")
    return [weight / total for weight in weights]


def _fragments(grammar: Grammar, begin: int, stop: int, adapters: list[Adapter], free: bool) -> Fragments:
    """The texts between ``begin`` and ``stop`` with their weights; adapters are added to ``adapters``.

    ``free`` allows any text, as outside brackets.
    """
    found: Fragments = []
    todo: list[tuple[Grammar, int, int, float, bool]] = [(grammar, begin, stop, 1.0, free)]
    while todo:
        where, at, end, scale, anything = todo.pop()
        at = where.skip[at]
        if at >= end:
            continue
        node = where.prompt_node(at) if anything else where.nodes[at]
        assert node is not None
        todo.append((where, node.end, end, scale, anything))
        if node.kind == "adapter":
            weight = checked(node.weight, node.name)
            adapters.append(Adapter("lora", node.name, weight, weight))
        elif node.kind == "group":
            todo.append((where, node.begin, node.stop, scale * node.weight, False))
        elif node.inside is not None:
            todo.append(_quote(node, node.inside, scale, found))
        else:
            text = where.text[node.begin : node.stop]
            found.append((_SHOWN.sub(r"\1", text), scale * node.weight))
    return found


def _quote(
    node: Node, inside: Grammar, scale: float, found: Fragments
) -> tuple[Grammar, int, int, float, bool]:
    """What remains to be read in a quote; an empty one is a text without letters."""
    if _is_space(inside.text):
        found.append(("", scale * node.weight))
    return inside, 0, len(inside.text), scale * node.weight, False


def _section(fragments: Fragments, weight: float = 1.0) -> Section:
    """Neighbours of the same weight as one span, all with spaces between."""
    runs: list[tuple[list[str], float]] = []
    for text, held in fragments:
        if runs and runs[-1][1] == held:
            runs[-1][0].append(text)
        else:
            runs.append(([text], held))
    spans = [Span(" ".join(texts), checked(held, texts[0])) for texts, held in runs]
    led = [Span(" " + span.text, span.weight) for span in spans[1:]]
    return Section((*spans[:1], *led), weight)
