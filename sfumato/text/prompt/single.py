"""Weighted texts for encoders that read one row of tokens and no more: T5, and the encoder of the built-in model.

Both know one rule of weighting, whatever the dialect. T5: ``e + w (z - e)``, z being the states, e those of the empty
prompt at the same places. The built-in encoder, whose states are zero where no token stands: ``w z``, and its sentence
vector is the mean of these. What begins a new row elsewhere (BREAK) is a space here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from sfumato.errors import InvalidRequest
from sfumato.text.prompt import comfyui
from sfumato.text.prompt.parts import Words


@dataclass(frozen=True, slots=True)
class Single:
    """A row without markers: ``ids`` and ``weights`` of its tokens; ``dropped`` tokens did not fit."""

    ids: tuple[int, ...]
    weights: tuple[float, ...]
    dropped: int


def single_row(
    words: Words,
    pieces: Callable[[str], list[int]],
    room: int,
    dialect: str,
    embeddings: Mapping[str, tuple[int, ...]] | None = None,
) -> Single:
    """The tokens of ``words``, of which ``room`` fit; each span is cut into tokens by itself.

    ``embedding:name`` is what ``embeddings`` say, and nothing if it is not among them; an encoder that knows none at
    all (None) refuses it.
    """
    ids: list[int] = []
    weights: list[float] = []
    for section in words.sections:
        for span in section.spans:
            for found in _pieces(span.text, pieces, dialect, embeddings):
                ids += found
                weights += [span.weight * section.weight] * len(found)
    return Single(tuple(ids[:room]), tuple(weights[:room]), max(len(ids) - room, 0))


def lowered(words: Words) -> Words:
    """``words`` in small letters, without blanks at their beginning and end."""
    runs = [[span.text.lower() for span in section.spans] for section in words.sections]
    for run in runs[:1]:
        run[:1] = [text.lstrip() for text in run[:1]]
    for run in runs[-1:]:
        run[-1:] = [text.rstrip() for text in run[-1:]]
    sections = tuple(
        replace(
            section,
            spans=tuple(replace(span, text=text) for span, text in zip(section.spans, run, strict=True)),
        )
        for section, run in zip(words.sections, runs, strict=True)
    )
    return replace(words, sections=sections)


def _pieces(
    text: str,
    pieces: Callable[[str], list[int]],
    dialect: str,
    embeddings: Mapping[str, tuple[int, ...]] | None,
) -> list[list[int]]:
    if dialect != comfyui.NAME:
        return [pieces(text)]
    found: list[list[int]] = []
    for name, rest in comfyui.pieces_of(text):
        if name and embeddings is None:
            raise InvalidRequest(
                f"the embedding {name!r} is textual inversion, which is for CLIP and T5, not for this model's encoder"
            )
        if name:
            found.append(list((embeddings or {}).get(name.strip(","), ())))
        found.append(pieces(rest))
    return found
