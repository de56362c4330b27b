"""What each encoder of a model sees of a prompt, as JSON has it; no network is loaded, and no torch for CLIP or T5."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfumato.errors import InvalidRequest, UnknownName

if TYPE_CHECKING:
    from sfumato.families.reads import Reads
    from sfumato.text.prompt.parts import Words
    from sfumato.text.t5 import T5Tokens

BUILT_IN = "emoji"
BLANKS = ("\N{LOWER ONE EIGHTH BLOCK}", "\N{LATIN CAPITAL LETTER G WITH DOT ABOVE}")
"""What stands for a blank in the vocabularies of SentencePiece and of bytes."""


def facts(
    text: str, dialect: str, steps: int, model: str, vocabulary: str | Path | None = None
) -> dict[str, Any]:
    """All that is to be told of the prompt ``text``; ``model`` is a family or a checkpoint's path.

    ``vocabulary`` is T5's or the language model's, a file or folder, where ``model`` is not a folder that has it.
    UnknownName for a model that is neither; InvalidRequest for one that reads no sentences.
    """
    from sfumato.text.prompt.dialects import embeddings, parse, weighed
    from sfumato.text.prompt.schedule import timeline

    if not 1 <= steps <= 1000:
        raise InvalidRequest(f"steps = {steps} is outside what is allowed: 1 to 1000")
    name, reads, tokens = reader(model, vocabulary)
    if reads is not None and reads.language:
        dialect = "plain"  # which is how language models read
    parsed = parse(text, dialect)
    named = embeddings(parsed)
    line = timeline(parsed, steps)
    if reads is None:
        see = {"text": built_in(dialect)}
        room = {"text": 30}
    else:
        see = clips(reads, named, dialect)
        room = dict.fromkeys(see, 75)
        if reads.t5 and tokens is not None:
            see["text_3"], room["text_3"] = t5(reads, tokens, dialect), reads.t5 - 1
        if reads.language and tokens is not None:
            see["language"], room["language"] = language(name, tokens), reads.language
    return {
        "prompt": text,
        "room": room,
        "dialect": dialect,
        "model": name,
        "adapters": [
            {"kind": a.kind, "name": a.name, "text": a.text, "denoiser": a.denoiser} | dict(a.options)
            for a in parsed.adapters
        ],
        "embeddings": list(named),
        "stages": [
            {"begin": s.begin, "end": s.end, "parts": [{"condition": i, "weight": w} for i, w in s.parts]}
            for s in line.stages
        ],
        "encoders": {
            place: [[one(words) for words in part.words] for part in line.conditions]
            for place, one in see.items()
        },
        "notes": [said for said in [weighed(parsed)] if said],
        "unseen": [
            place
            for place, many in (
                ("text_3", reads.t5 if reads else 0),
                ("language", reads.language if reads else 0),
            )
            if many and tokens is None
        ],
    }


def reader(model: str, vocabulary: str | Path | None) -> tuple[str, Reads | None, T5Tokens | None]:
    """The name under which ``model`` reads, what it reads by (None: the built-in encoder), and the vocabulary."""
    from sfumato.families.reads import READS, reads_of
    from sfumato.text.t5 import T5Tokens

    tokens = None if vocabulary is None else T5Tokens.load(vocabulary)
    if model == BUILT_IN:
        return model, None, tokens
    if model in READS and not Path(model).exists():  # as everywhere, what is there comes before what is known
        return model, READS[model], tokens
    from sfumato.errors import WeightsError
    from sfumato.weights.hub import resolve
    from sfumato.weights.source import open_source

    try:
        path = resolve(model)
    except WeightsError as error:
        if "/" in model or Path(model).suffix:
            raise
        raise UnknownName("model", model, [*READS, BUILT_IN]) from error
    with open_source(path) as source:
        from sfumato.families.foreign import about
        from sfumato.families.inspect import inspect

        if (wrapped := about(source)) is not None:
            raise InvalidRequest(
                f"{path} ({wrapped['title']}) comes through diffusers, whose {wrapped['pipeline']} reads the prompt; "
                "what that sees is not shown here"
            )
        report = inspect(source)
    name = reads_of(report.family or "", report.variant)
    if name is None:
        raise InvalidRequest(
            f"{path} ({report.title or 'networks without a denoiser'}) reads no sentences, or by encoders that are not "
            "shown here"
        )
    if (READS[name].t5 or READS[name].language) and tokens is None and path.is_dir():
        tokens = _words_in(path, ("tokenizer", ".") if READS[name].language else TOKENIZERS)
    return name, READS[name], tokens


TOKENIZERS = ("tokenizer_3", "tokenizer_2", "tokenizer", ".")
"""Where T5's vocabulary is in folders; in other families CLIP's has these places, and merges beside it."""


def _words_in(folder: Path, places: tuple[str, ...]) -> T5Tokens | None:
    """T5's or the language model's vocabulary in a diffusers folder, None if there is none."""
    from sfumato.text.t5 import NAMES, T5Tokens

    for place in places:
        clip = places is TOKENIZERS and (folder / place / "merges.txt").is_file()
        if not clip and any((folder / place / name).is_file() for name in NAMES):
            return T5Tokens.load(folder / place)
    return None


def clips(reads: Reads, named: tuple[str, ...], dialect: str) -> dict[str, Callable[[Words], dict[str, Any]]]:
    """What each CLIP encoder sees of words; ``named`` are the embeddings, each shown as one token."""
    from sfumato.text.prompt.chunks import clip_vocabulary, weighted_ids

    stand = {name: (50_000 + number,) for number, name in enumerate(named)}
    names = {ids[0]: f"embedding:{name}</w>" for name, ids in stand.items()}

    def seeing(pad: str) -> Callable[[Words], dict[str, Any]]:
        vocabulary = clip_vocabulary(pad=0 if pad == "zero" else None, embeddings=stand)

        def see(words: Words) -> dict[str, Any]:
            rows = weighted_ids(words, vocabulary, dialect)
            sections = [
                {
                    "weight": weight,
                    "rows": [
                        [
                            {"id": i, "token": names.get(i) or vocabulary.name(i), "weight": w}
                            for i, w, span in zip(chunk.ids, chunk.weights, chunk.spans, strict=True)
                            if span >= 0
                        ]
                        for chunk in chunks
                    ],
                }
                for chunks, weight in rows.sections
            ]
            return {"share": words.share, "sections": sections, "dropped": rows.dropped}

        return see

    numbered = enumerate(reads.clips, reads.first)
    return {"text" if number == 1 else f"text_{number}": seeing(pad) for number, pad in numbered}


def t5(reads: Reads, tokens: T5Tokens, dialect: str) -> Callable[[Words], dict[str, Any]]:
    """What T5 sees of words: one row, in small letters where its family has it so."""
    from sfumato.text.prompt.single import lowered, single_row

    def see(words: Words) -> dict[str, Any]:
        read = lowered(words) if reads.small else words
        row = single_row(read, tokens.split, reads.t5 - 1, dialect, {})
        return _one_row(words, row, ends_before([tokens.piece(i) for i in row.ids]))

    return see


def language(name: str, tokens: T5Tokens) -> Callable[[Words], dict[str, Any]]:
    """What the language model of the family ``name`` sees of words: they, and what is written around them."""
    from types import SimpleNamespace

    from sfumato.condition import Prompt
    from sfumato.families import lumina, sana, zimage
    from sfumato.families.family import Kit
    from sfumato.text.prompt.parts import Part, bare
    from sfumato.text.prompt.single import Single

    readers = {"lumina2": lumina.READER, "z-image": zimage.READER, "sana": sana.READER}
    kind = SimpleNamespace(config=SimpleNamespace(kind="qwen3" if name == "z-image" else "gemma2"))
    kit = Kit(nets={"language": kind}, parts={}, tokens=tokens)

    def see(words: Words) -> dict[str, Any]:
        prompt = Prompt(text=bare(Part((words,))))
        ids, read = readers[name].ids(kit, prompt), readers[name].read(kit, prompt)
        dropped = 0 if readers[name].behind else len(ids) - len(read)
        row = Single(tuple(read), (1.0,) * len(read), dropped)
        return _one_row(words, row, ends_before([tokens.piece(i) for i in read]))

    return see


def ends_before(pieces: list[str]) -> list[str]:
    """Pieces that mark where a word begins, as T5's and language models', with the mark of CLIP's where one ends."""
    begins = [piece.startswith(BLANKS) for piece in pieces]
    return [
        piece.lstrip("".join(BLANKS)) + ("</w>" if end else "")
        for piece, end in zip(pieces, [*begins[1:], True], strict=True)
    ]


def built_in(dialect: str) -> Callable[[Words], dict[str, Any]]:
    """What the built-in model's encoder, which has one row of 30 tokens, sees of words."""
    from sfumato.families.table import ASSETS
    from sfumato.text.encoder import VOCABULARY_FILE
    from sfumato.text.prompt.single import single_row
    from sfumato.text.tokens import MAX_TOKENS, Tokenizer

    tokenizer = Tokenizer.load(ASSETS / VOCABULARY_FILE)

    def see(words: Words) -> dict[str, Any]:
        row = single_row(words, tokenizer.pieces, MAX_TOKENS - 2, dialect)
        pieces = [tokenizer.vocabulary[i] for i in row.ids]
        # Pieces that go on a word begin with ##; here, as in CLIP, a piece that ends one is marked.
        ends = [not after.startswith("##") for after in [*pieces[1:], ""]]
        named = [p.removeprefix("##") + ("</w>" if end else "") for p, end in zip(pieces, ends, strict=True)]
        return _one_row(words, row, named)

    return see


def _one_row(words: Words, row: Any, names: list[str]) -> dict[str, Any]:
    tokens = [
        {"id": i, "token": name, "weight": weight}
        for i, name, weight in zip(row.ids, names, row.weights, strict=True)
    ]
    return {"share": words.share, "sections": [{"weight": 1.0, "rows": [tokens]}], "dropped": row.dropped}
