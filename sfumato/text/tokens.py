"""Prompts to token ids: WordPiece over a plain ``vocab.txt``, with BERT's uncased normalisation.

Text is cleaned of control characters, lowercased and stripped of accents, split at spaces, punctuation and
CJK characters, and each word is cut greedily into the longest pieces that the vocabulary has (Schuster and
Nakajima 2012; Devlin et al. 2018, arXiv:1810.04805). A word that cannot be cut becomes ``[UNK]``. Markers
such as ``[SEP]`` written inside a prompt are plain text: a prompt cannot forge the structure around it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer as Pipeline
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from torch import Tensor

from sfumato.errors import InvalidRequest, WeightsError

PAD, UNKNOWN, START, END = "[PAD]", "[UNK]", "[CLS]", "[SEP]"
SPECIAL = (PAD, UNKNOWN, START, END)
MAX_TOKENS = 32


@dataclass(frozen=True)
class Tokens:
    """Prompts as token ids: ``ids`` (B, L) int64, padded at the end, and ``mask`` (B, L) bool, False there.

    ``dropped`` says for each prompt how many of its tokens did not fit (0 where all did).
    """

    ids: Tensor
    mask: Tensor
    dropped: tuple[int, ...]


class Tokenizer:
    """WordPiece over ``vocabulary``, whose order gives the ids; it holds ``[PAD] [UNK] [CLS] [SEP]``."""

    def __init__(self, vocabulary: Sequence[str]) -> None:
        """Raise InvalidRequest if ``vocabulary`` repeats a token or lacks a special one."""
        index = {token: number for number, token in enumerate(vocabulary)}
        if missing := [token for token in SPECIAL if token not in index]:
            raise InvalidRequest(f"the vocabulary has no {', '.join(missing)}")
        if len(index) != len(vocabulary):
            raise InvalidRequest("the vocabulary has the same token twice")
        self.vocabulary = tuple(vocabulary)
        self._pad, self._start, self._end = index[PAD], index[START], index[END]
        self._pipeline = Pipeline(WordPiece(index, unk_token=UNKNOWN, max_input_chars_per_word=100))
        self._pipeline.normalizer = BertNormalizer(lowercase=True)
        self._pipeline.pre_tokenizer = BertPreTokenizer()

    @classmethod
    def load(cls, path: str | Path) -> Tokenizer:
        """Read ``vocab.txt``: UTF-8, one token per line. Raises WeightsError if it is missing or damaged."""
        try:
            text = Path(path).read_bytes().decode("utf-8")
        except OSError as error:
            raise WeightsError(f"cannot read the vocabulary {path}: {error.strerror or error}") from error
        except UnicodeDecodeError as error:
            raise WeightsError(f"the vocabulary {path} is damaged: it is not UTF-8") from error
        try:
            # Only \n ends a line here: str.splitlines would also cut at characters that are tokens.
            return cls(text.removesuffix("\n").split("\n"))
        except InvalidRequest as error:
            raise WeightsError(f"the vocabulary {path} is damaged: {error}") from error

    def pieces(self, prompt: str) -> list[int]:
        """The ids of all of ``prompt``, without ``[CLS]`` and ``[SEP]``, in time linear in its length.

        Raises InvalidRequest if it is not a string or holds a lone surrogate, which is not text.
        """
        if not isinstance(prompt, str):
            raise InvalidRequest(f"a prompt must be a string, not {type(prompt).__name__}")
        try:
            prompt.encode("utf-8")
        except UnicodeEncodeError as error:
            code = ord(prompt[error.start])
            raise InvalidRequest(
                f"the prompt is not valid Unicode text: character {error.start + 1} is the lone surrogate "
                f"U+{code:04X}; give the prompt as UTF-8"
            ) from error
        ids: list[int] = self._pipeline.encode(prompt, add_special_tokens=False).ids
        return ids

    def count(self, prompt: str) -> int:
        """How many tokens ``prompt`` has, with ``[CLS]`` and ``[SEP]``, before anything is cut off."""
        return len(self.pieces(prompt)) + 2

    def __call__(self, prompts: Sequence[str], length: int = MAX_TOKENS) -> Tokens:
        """Tokenise ``prompts``, each cut to ``length`` tokens or padded to it (``L = length``).

        ``length`` counts ``[CLS]`` and ``[SEP]``, which every row has. Raises InvalidRequest if ``prompts``
        is one string instead of a list, a prompt is not valid text, or ``length`` is less than 2.
        """
        if isinstance(prompts, str):
            raise InvalidRequest("prompts must be a list of strings, not one string")
        if length < 2:
            raise InvalidRequest(f"length is {length}; it must be at least 2, for [CLS] and [SEP]")
        ids = torch.full((len(prompts), length), self._pad, dtype=torch.int64)
        mask = torch.zeros((len(prompts), length), dtype=torch.bool)
        dropped: list[int] = []
        for row, prompt in enumerate(prompts):
            pieces = self.pieces(prompt)
            kept = [self._start, *pieces[: length - 2], self._end]
            ids[row, : len(kept)] = torch.tensor(kept)
            mask[row, : len(kept)] = True
            dropped.append(len(pieces) + 2 - len(kept))
        return Tokens(ids, mask, tuple(dropped))
