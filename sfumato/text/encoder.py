"""The text encoder of the built-in model: prompts to token states and one sentence vector each.

The sentence vector is that of sentence-transformers (Reimers and Gurevych 2019, arXiv:1908.10084): the mean
of the states of all tokens, scaled to length 1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from sfumato.errors import WeightsError
from sfumato.nn.bert import Bert, BertConfig
from sfumato.text.prompt.parts import Words
from sfumato.text.prompt.single import single_row
from sfumato.text.tokens import MAX_TOKENS, Tokenizer
from sfumato.weights.packed import load_packed

WEIGHTS_FILE, VOCABULARY_FILE = "text.safetensors", "vocab.txt"
# Rows that go through the network together; bounds the memory when a whole corpus is encoded at once.
ROWS = 64


class Encoded(NamedTuple):
    """Encoded prompts, one per row: ``tokens`` (B, L, D) float32, ``mask`` (B, L) bool, ``pooled`` (B, D).

    ``tokens`` is zero where ``mask`` is False; the rows of ``pooled`` (float32) have length 1.
    """

    tokens: Tensor
    mask: Tensor
    pooled: Tensor


class TextEncoder:
    """A frozen Bert and its tokenizer; the empty prompt, ``[CLS] [SEP]``, is the unconditional one."""

    def __init__(self, bert: Bert, tokenizer: Tokenizer, length: int = MAX_TOKENS) -> None:
        """``length`` is the L of all results. Raises ValueError if the parts do not fit each other or it."""
        if bert.config.vocabulary != len(tokenizer.vocabulary):
            raise ValueError(
                f"the encoder has {bert.config.vocabulary} words, the tokenizer {len(tokenizer.vocabulary)}"
            )
        if length > bert.config.positions:
            raise ValueError(f"length {length} is more than the {bert.config.positions} positions")
        self.bert = bert.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.length = length

    @classmethod
    def load(cls, folder: str | Path) -> TextEncoder:
        """Read ``text.safetensors`` and ``vocab.txt`` in ``folder``.

        Raises WeightsError if one is missing, truncated or altered, or if they do not belong together.
        """
        weights, vocabulary = Path(folder) / WEIGHTS_FILE, Path(folder) / VOCABULARY_FILE
        tensors, metadata = load_packed(weights)
        if data_sha256(weights) != metadata.get("data_sha256"):
            raise WeightsError(
                f"the weights {weights} were altered: their hash differs; install sfumato again"
            )
        tokenizer = Tokenizer.load(vocabulary)
        if hashlib.sha256(vocabulary.read_bytes()).hexdigest() != metadata.get("vocab_sha256"):
            raise WeightsError(f"the vocabulary {vocabulary} is not the one of the weights {weights}")
        try:
            config = BertConfig(**metadata["config"])  # type: ignore[arg-type]
            # Not on the meta device: its random initialisation imports torch's compiler, two seconds of a start.
            bert = Bert(config)
            bert.load_state_dict(tensors, assign=True)
            return cls(bert, tokenizer)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise WeightsError(f"the weights {weights} are not a text encoder's: {error}") from error

    @property
    def width(self) -> int:
        """D, the size of a token state and of a sentence vector."""
        return self.bert.config.width

    @property
    def device(self) -> torch.device:
        """Where the encoder is and its results are."""
        return self.bert.norm.weight.device

    def to(self, device: str | torch.device) -> TextEncoder:
        """Move the encoder to ``device`` and return it."""
        self.bert.to(device)
        return self

    def count(self, prompt: str) -> int:
        """How many tokens ``prompt`` has, with ``[CLS]`` and ``[SEP]``; above ``length`` the rest is cut."""
        return self.tokenizer.count(prompt)

    def dropped(self, prompt: str) -> int:
        """How many tokens of ``prompt`` ``encode`` leaves out because they are beyond ``length``."""
        return max(0, self.count(prompt) - self.length)

    def encode(self, prompts: Sequence[str]) -> Encoded:
        """Encode ``prompts``, each cut to ``length`` tokens; a row does not depend on the other rows.

        Raises InvalidRequest if a prompt is not a string or holds a lone surrogate.
        """
        batch = self.tokenizer(prompts, self.length)
        ids, mask = batch.ids.to(self.device), batch.mask.to(self.device)
        states = torch.zeros(*ids.shape, self.width, device=self.device)
        sizes = batch.mask.sum(dim=1)
        with torch.no_grad():
            # Prompts of like length go together, cut to the longest, so that little padding is computed.
            for rows in torch.split(sizes.argsort(), ROWS):
                longest = int(sizes[rows].max()) if len(rows) else 0
                rows = rows.to(self.device)
                part = mask[rows, :longest]
                states[rows, :longest] = self.bert(ids[rows, :longest], part) * part[..., None]
            pooled = F.normalize(states.sum(dim=1) / mask.sum(dim=1, keepdim=True), dim=-1)
        return Encoded(states, mask, pooled)

    def weighted(self, words: Words, dialect: str) -> Encoded:
        """One row of a weighted text: states times their tokens' weights, and the mean of these as the vector.

        With all weights 1 it is the row of the same text. InvalidRequest for textual inversion.
        """
        row = single_row(words, self.tokenizer.pieces, self.length - 2, dialect)
        batch = self.tokenizer([""], self.length)
        start, end = batch.ids[0, :2].tolist()
        count = len(row.ids) + 2
        ids = torch.tensor([[start, *row.ids, end]], device=self.device)
        weights = torch.tensor([1.0, *row.weights, 1.0], device=self.device)
        mask = torch.zeros(1, self.length, dtype=torch.bool, device=self.device)
        mask[:, :count] = True
        states = torch.zeros(1, self.length, self.width, device=self.device)
        with torch.no_grad():
            states[:, :count] = self.bert(ids, mask[:, :count]) * weights[:, None]
            pooled = F.normalize(states.sum(dim=1) / count, dim=-1)
        return Encoded(states, mask, pooled)


def data_sha256(path: str | Path) -> str:
    """The sha256 of the tensors' bytes of the safetensors file ``path``: all that follows its header."""
    data = Path(path).read_bytes()
    return hashlib.sha256(data[8 + int.from_bytes(data[:8], "little") :]).hexdigest()
