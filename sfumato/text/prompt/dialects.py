"""The dialects by name: how each reads a prompt, what a text says in it, and how it is written.

``plain`` has no notation at all: what is written is what the model reads.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from sfumato.errors import InvalidRequest, UnknownName
from sfumato.text.prompt import a1111, comfyui, compel
from sfumato.text.prompt.parts import Parsed, Part, Scheduled, Section, Span, Words, number, shown
from sfumato.text.prompt.templates import render

_MARK = re.compile(r"<(?:lora|lyco):[^<>]*>|\([^()]*:\d+(?:\.\d+)?\)")
_PATTERN = re.compile(r"\{[^{}|]*\|[^{}]*\}|\b__(?!_)[\w*](?:[\w*./-]{0,60})(?<!_)__(?!\w)")
_EMBEDDING = re.compile(r"(?<!\S)embedding:\w[^\s,]*")


class Parse(Protocol):
    """A dialect's parser; without ``compose`` for a negative prompt, which has one part."""

    def __call__(self, text: str, *, compose: bool = True) -> Parsed:
        """``text`` as parts, or InvalidRequest with the reason."""
        ...


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """How prompts of one school are read.

    ``parse`` cuts a prompt into parts; ``read`` gives the weighted texts of what a part says at a step; ``write_words``
    is its inverse, None where there is none.
    """

    name: str
    says: str
    parse: Parse
    read: Callable[[str], tuple[Words, ...]]
    write_words: Callable[[Words], str] | None = None


def parse_plain(text: str, *, compose: bool = True) -> Parsed:
    """``text`` as it is; ``compose`` changes nothing."""
    return Parsed("plain", (Scheduled((text,) if text else ()),))


def read_plain(text: str) -> tuple[Words, ...]:
    """``text`` as one span of weight 1."""
    return (Words((Section((Span(text),) if text else ()),)),)


def unread(text: str, name: str = "plain") -> Iterator[str]:
    """Notes on the first marks of each kind in ``text`` that the dialect ``name`` takes for words, if there are any.

    They are adapters' or weights' marks in a plain text, an embedding's elsewhere than in ComfyUI's dialect, and in all
    of them patterns to draw from.
    """
    plain = (
        "the prompt is read as plain words" if name == "plain" else f"the dialect {name!r} reads words alone"
    )
    if name == "plain" and (found := _MARK.search(text)):
        yield f"{plain}, {shown(found[0])} too; for marks give a dialect, such as 'a1111'"
    if name != comfyui.NAME and (found := _EMBEDDING.search(text)):
        yield f"{plain}, {shown(found[0])} too; the dialect 'comfyui' marks embeddings so, others by their bare names"
    if found := _PATTERN.search(text):
        yield f"{shown(found[0])} is read as it is written; to draw one of several give --draw (Loaded.draw in Python)"


def notes(text: str, name: str) -> list[str]:
    """What a person should know of ``text`` as the dialect ``name`` reads it: ``unread`` and ``weighed``."""
    weight = weighed(parse(text, name))
    return [*unread(text, name), *([weight] if weight else [])]


def weighed(parsed: Parsed) -> str | None:
    """A note on the weight of a whole prompt, which a colon and a number at its end are, where it is not 1."""
    if len(parsed.parts) != 1 or parsed.parts[0].weight == 1:
        return None
    weight = number(parsed.parts[0].weight)
    return (
        f"the whole prompt weighs {weight}, which is the number after its last colon; if that is a colon to see, write "
        f"':\\{weight}'"
    )


def write_plain(words: Words) -> str:
    """The text of ``words``; InvalidRequest if anything in it is weighted or cut."""
    spans = [span for section in words.sections for span in section.spans]
    if len(words.sections) != 1 or words.sections[0].weight != 1 or any(span.weight != 1 for span in spans):
        raise InvalidRequest("a plain prompt has no weights and no sections")
    return "".join(span.text for span in spans)


DIALECTS = {
    dialect.name: dialect
    for dialect in (
        Dialect(
            name="plain",
            says="no notation: the text is what the model reads",
            parse=parse_plain,
            read=read_plain,
            write_words=write_plain,
        ),
        Dialect(
            name="a1111",
            says="(x:1.2) (x) [x], [a:b:0.5], [a|b], BREAK, AND, <lora:name:0.8>",
            parse=a1111.parse,
            read=a1111.read,
            write_words=a1111.write_words,
        ),
        Dialect(
            name="comfyui",
            says="(x:1.2) (x), embedding:name",
            parse=comfyui.parse,
            read=comfyui.read,
            write_words=comfyui.write_words,
        ),
        Dialect(
            name="compel",
            says='word++ (two words)1.2 word--, ("a", "b").and() .blend(), withLora(name, 0.8)',
            parse=compel.parse,
            read=compel.read,
        ),
    )
}
"""All dialects by name."""


def dialect(name: str) -> Dialect:
    """The dialect called ``name``; UnknownName if there is none."""
    if name not in DIALECTS:
        raise UnknownName("dialect", name, DIALECTS)
    return DIALECTS[name]


def parse(text: str, name: str = "plain", *, compose: bool = True) -> Parsed:
    """``text`` read in the dialect ``name``; InvalidRequest says in a sentence why it cannot be.

    The first step is read at once, so that most faults show early; ``schedule.timeline`` reads every step.
    """
    parsed = dialect(name).parse(text, compose=compose)
    parts_at(parsed, 0, 1)
    return parsed


def parts_at(parsed: Parsed, step: int, steps: int) -> tuple[Part, ...]:
    """The parts of ``parsed`` at ``step`` (0 is the first) of ``steps``."""
    read = dialect(parsed.dialect).read
    return tuple(Part(read(render(part.template, step, steps)), part.weight) for part in parsed.parts)


def embeddings(parsed: Parsed) -> tuple[str, ...]:
    """The names of the embeddings that ``parsed`` asks for, which ComfyUI's dialect alone marks."""
    if parsed.dialect != comfyui.NAME:
        return ()

    def named() -> Iterator[str]:
        for part in parts_at(parsed, 0, 1):
            for words in part.words:
                for section in words.sections:
                    for span in section.spans:
                        yield from (name for name, _ in comfyui.pieces_of(span.text) if name)

    return tuple(dict.fromkeys(named()))


def write(parsed: Parsed) -> str:
    """A text that reads as ``parsed``: its schedule, weights and adapters as they were."""
    if parsed.dialect == a1111.NAME:
        return a1111.write(parsed)
    return "".join(piece for part in parsed.parts for piece in part.template if isinstance(piece, str))


def written_in(words: Words, name: str) -> str:
    """``words`` in the dialect ``name``, so that a prompt can go from one to another.

    InvalidRequest where that dialect cannot say it, and for compel, whose notation cannot hold every text.
    """
    told = dialect(name)
    if told.write_words is None:
        raise InvalidRequest(
            f"prompts are not written in the dialect {name!r}, whose notation cannot hold every text"
        )
    return told.write_words(words)
