"""Prompts to the token ids of T5 and UMT5, by the vocabulary that a checkpoint brings along."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sfumato.errors import MissingExtra, WeightsError

PAD, END = 0, 1
NAMES = ("tokenizer.json", "spiece.model")
Vocabulary = tuple[Callable[[str], list[int]], Callable[[int], str]]
"""From a text to its ids, and from an id to its text."""


class T5Tokens:
    """SentencePiece over a checkpoint's own vocabulary (Kudo & Richardson 2018); every row ends in the end token."""

    def __init__(self, split: Callable[[str], list[int]], piece: Callable[[int], str] = str) -> None:
        """``split`` gives the ids of a prompt without the end token, ``piece`` the text of an id."""
        self.split, self.piece = split, piece

    @classmethod
    def load(cls, path: str | Path) -> T5Tokens:
        """Read ``tokenizer.json`` or ``spiece.model``, or a folder with one of them.

        Raises WeightsError if there is none or it is damaged, MissingExtra if ``spiece.model`` is all there is and
        the package sentencepiece is not installed.
        """
        place = Path(path)
        found = (
            next((place / name for name in NAMES if (place / name).is_file()), None)
            if place.is_dir()
            else place
        )
        if found is None or not found.is_file():
            gone = "" if place.exists() else ", which does not exist"
            raise WeightsError(
                f"T5's vocabulary is not in {place}{gone}: it comes with the checkpoint, as {' or '.join(NAMES)} "
                f"(in a diffusers folder under tokenizer_2 or tokenizer_3); give its place"
            )
        return cls(*(_from_json(found) if found.suffix == ".json" else _from_model(found)))


def _from_json(path: Path) -> Vocabulary:
    from tokenizers import Tokenizer

    try:
        made = Tokenizer.from_file(str(path))
    except Exception as error:  # the package raises bare Exception for everything
        raise WeightsError(f"the vocabulary {path} cannot be read: {error}") from error
    made.no_padding()  # some files keep what a tokenizer was last asked for
    made.no_truncation()

    def split(prompt: str) -> list[int]:
        ids: list[int] = made.encode(prompt, add_special_tokens=False).ids
        return ids

    return split, lambda token: str(made.id_to_token(token))


def _from_model(path: Path) -> Vocabulary:
    try:
        import sentencepiece
    except ImportError as error:
        raise MissingExtra("sentencepiece", "t5", f"reading {path.name}") from error
    made = sentencepiece.SentencePieceProcessor()
    try:
        made.LoadFromSerializedProto(path.read_bytes())
    except (RuntimeError, OSError) as error:
        raise WeightsError(f"the vocabulary {path} cannot be read: {error}") from error

    def split(prompt: str) -> list[int]:
        ids: list[int] = made.EncodeAsIds(prompt)
        return ids

    return split, lambda token: str(made.IdToPiece(token))
