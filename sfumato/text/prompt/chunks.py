"""Weighted texts as rows of token ids, as long as an encoder reads: one row, or as many as a long prompt needs.

Every row is the start, tokens, the end and padding. Schools differ in where they cut: A1111 after 75 tokens, or after
the last comma among the last 20; ComfyUI not inside a run of fewer than 8 tokens of one weight; compel after the last
full stop, or else comma, or else word.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from sfumato.errors import InvalidRequest, UnknownName
from sfumato.text.prompt import comfyui
from sfumato.text.prompt.parts import Section, Words

BACKTRACK = 20
"""How many tokens after a comma A1111 moves to the next row, so that a phrase is not cut."""

LARGE = 8
"""A run of so many tokens may be cut between rows in ComfyUI's dialect."""

Token = tuple[int, float, int]
"""An id, its weight, and the number of its span in its section."""


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """An encoder's tokens: ``pieces`` of a text, the markers, and rows of ``length``.

    ``name`` is how an id is written, with ``</w>`` at the end of a word; ``embeddings`` are ids that stand for a name
    in a prompt: rows that were added to the encoder's table.
    """

    pieces: Callable[[str], list[int]]
    name: Callable[[int], str]
    start: int
    end: int
    pad: int
    length: int = 77
    embeddings: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def room(self) -> int:
        """How many tokens fit in a row between the markers."""
        return self.length - 2


@dataclass(frozen=True, slots=True)
class Chunk:
    """A row: ``ids``, ``weights`` (1 for markers and padding), and the ``spans`` they belong to (-1 for none)."""

    ids: tuple[int, ...]
    weights: tuple[float, ...]
    spans: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Rows:
    """All rows of a text, section by section; ``dropped`` tokens did not fit where there is one row alone.

    ``sections`` has for each section the rows and its weight.
    """

    sections: tuple[tuple[tuple[Chunk, ...], float], ...]
    dropped: int = 0

    @property
    def chunks(self) -> tuple[Chunk, ...]:
        """The rows one after the other."""
        return tuple(chunk for rows, _ in self.sections for chunk in rows)


def clip_vocabulary(
    pad: int | None = None, length: int = 77, embeddings: Mapping[str, tuple[int, ...]] | None = None
) -> Vocabulary:
    """CLIP's tokens; ``pad`` None is the end token, as OpenAI's encoder is padded; OpenCLIP's has 0."""
    from sfumato.text.clip import END, START, pieces, pipeline

    return Vocabulary(
        pieces=pieces,
        name=lambda token: pipeline().id_to_token(token) or "",
        start=START,
        end=END,
        pad=END if pad is None else pad,
        length=length,
        embeddings=embeddings or {},
    )


def weighted_ids(words: Words, vocabulary: Vocabulary, dialect: str, backtrack: int = BACKTRACK) -> Rows:
    """``words`` as rows of ``vocabulary``, cut as the school of ``dialect`` cuts; plain prompts are one row.

    UnknownName for an embedding that the vocabulary lacks, InvalidRequest for one that is longer than a row.
    """
    if dialect not in _CUTS:
        raise UnknownName("dialect", dialect, _CUTS)
    for name, ids in vocabulary.embeddings.items():
        if len(ids) > vocabulary.room:
            raise InvalidRequest(f"embedding {name!r} has {len(ids)} vectors; a row holds {vocabulary.room}")
    cut = _CUTS[dialect]
    made: list[tuple[tuple[Chunk, ...], float]] = []
    dropped = 0
    for section in words.sections:
        groups = _groups(section, vocabulary, dialect)
        if dialect == "plain":
            tokens = [token for group in groups for token in group]
            rows, dropped = [tokens[: vocabulary.room]], max(len(tokens) - vocabulary.room, 0)
        else:
            rows = cut(groups, vocabulary, backtrack)
        if dialect == "a1111" and made and section is words.sections[-1] and rows == [[]]:
            break  # after the last BREAK nothing follows
        made.append((tuple(_row(tokens, vocabulary) for tokens in rows), section.weight))
    return Rows(tuple(made), dropped)


def empty_row(vocabulary: Vocabulary) -> Chunk:
    """The row of the empty prompt."""
    return _row([], vocabulary)


def _row(tokens: Sequence[Token], vocabulary: Vocabulary) -> Chunk:
    ids, weights, spans = zip(*tokens, strict=True) if tokens else ((), (), ())
    rest = vocabulary.room - len(ids)
    return Chunk(
        (vocabulary.start, *ids, vocabulary.end, *[vocabulary.pad] * rest),
        (1.0, *weights, *[1.0] * (rest + 1)),
        (-1, *spans, *[-1] * (rest + 1)),
    )


def _groups(section: Section, vocabulary: Vocabulary, dialect: str) -> Iterator[list[Token]]:
    """The tokens of ``section`` in groups that are better not cut: an embedding, or a text of one weight."""
    named = _by_tokens(vocabulary) if dialect in ("a1111", "compel") else {}
    for place, span in enumerate(section.spans):
        if dialect == "comfyui":
            for name, text in comfyui.pieces_of(span.text):
                if name:
                    found, rest = _embedding(name, vocabulary)
                    yield [(token, span.weight, place) for token in found]
                    text = f"{rest} {text}"
                yield [(token, span.weight, place) for token in vocabulary.pieces(text)]
            continue
        loose: list[Token] = []
        ids, at = vocabulary.pieces(span.text), 0
        while at < len(ids):
            for known, stands in named.get(ids[at], ()):
                if tuple(ids[at : at + len(known)]) == known:
                    yield from ([token] for token in loose)
                    loose = []
                    yield [(token, span.weight, place) for token in stands]
                    at += len(known)
                    break
            else:
                loose.append((ids[at], span.weight, place))
                at += 1
        yield from ([token] for token in loose)


def _by_tokens(vocabulary: Vocabulary) -> dict[int, list[tuple[tuple[int, ...], tuple[int, ...]]]]:
    """The embeddings by the first token of their name, the longest names first."""
    found: dict[int, list[tuple[tuple[int, ...], tuple[int, ...]]]] = {}
    for name, stands in vocabulary.embeddings.items():
        if known := tuple(vocabulary.pieces(name)):
            found.setdefault(known[0], []).append((known, stands))
    for names in found.values():
        names.sort(key=lambda pair: -len(pair[0]))
    return found


def _embedding(name: str, vocabulary: Vocabulary) -> tuple[tuple[int, ...], str]:
    """The ids of the embedding ``name``, which commas may follow, and what follows."""
    bare = name.strip(",")
    for wanted, rest in ((name, ""), (bare, name[len(bare) :])):
        if wanted in vocabulary.embeddings:
            return vocabulary.embeddings[wanted], rest
    raise UnknownName("embedding", bare, vocabulary.embeddings)


def _cut_a1111(groups: Iterator[list[Token]], vocabulary: Vocabulary, backtrack: int) -> list[list[Token]]:
    comma = vocabulary.pieces(",")
    rows: list[list[Token]] = []
    row: list[Token] = []
    last = -1  # where the last comma of this row is
    for group in groups:
        full = len(row) == vocabulary.room
        if [group[0][0]] == comma and len(group) == 1:
            last = len(row)
        elif backtrack and full and last != -1 and len(row) - last <= backtrack:
            rows.append(row[: last + 1])
            row, last = row[last + 1 :], -1
        if len(row) == vocabulary.room or len(row) + len(group) > vocabulary.room:
            rows.append(row)
            row, last = [], -1
        row += group
    return [*rows, row] if row or not rows else rows


def _cut_comfyui(groups: Iterator[list[Token]], vocabulary: Vocabulary, _: int) -> list[list[Token]]:
    rows: list[list[Token]] = [[]]
    for group in groups:
        large = len(group) >= LARGE
        while group:
            free = vocabulary.room - len(rows[-1])
            if len(group) <= free:
                rows[-1] += group
                break
            if large:
                rows[-1] += group[:free]
                group = group[free:]
            rows.append([])
    return rows


def _cut_compel(groups: Iterator[list[Token]], vocabulary: Vocabulary, _: int) -> list[list[Token]]:
    tokens = [token for group in groups for token in group]
    rows: list[list[Token]] = []
    at = 0
    while len(tokens) - at > vocabulary.room:
        names = [vocabulary.name(token) for token, _, _ in tokens[at : at + vocabulary.room]]
        ends = (
            max((place for place, name in enumerate(names) if wanted(name)), default=None)
            for wanted in (
                lambda name: name == ".</w>",
                lambda name: name in (".</w>", ",</w>", ";</w>", ":</w>"),
                lambda name: name.endswith("</w>"),
            )
        )
        size = next((end + 1 for end in ends if end is not None), vocabulary.room)
        rows.append(tokens[at : at + size])
        at += size
    return [*rows, tokens[at:]]


_CUTS = {"plain": _cut_compel, "a1111": _cut_a1111, "comfyui": _cut_comfyui, "compel": _cut_compel}
