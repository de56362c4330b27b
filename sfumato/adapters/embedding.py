"""Textual inversion: a few learned token vectors that stand for a word (Gal et al. 2022, arXiv:2208.01618).

Files are A1111's (``emb_params``, or ``string_to_param`` in a pickle), SDXL's (``clip_l``, ``clip_g``), and diffusers'
(one tensor under the word itself). A vector becomes a row of the encoder's table of tokens, with an id of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Self

import torch
from torch import Tensor

from sfumato.adapters.layouts import read_key
from sfumato.errors import InvalidRequest, WeightsError
from sfumato.nn.clip import ClipText
from sfumato.nn.quantized import Quantized
from sfumato.nn.t5 import T5Encoder
from sfumato.weights.header import short
from sfumato.weights.source import Source, open_source

MOST = 512
"""Vectors of one word; published ones have at most some tens."""

_PLACES = {"clip_l": "text", "clip_g": "text_2", "t5xxl": "text_3", "emb_params": "text"}
_PICKLED = "string_to_param."


@dataclass(frozen=True, eq=False)
class Embedding:
    """A word's vectors (n, width) by the text encoder they are for; ``name`` is what it was saved as."""

    name: str
    vectors: Mapping[str, Tensor]
    metadata: Mapping[str, str] = field(default_factory=dict)


def load_embedding(path: str | Path, *, allow_pickle: bool = False) -> Embedding:
    """The textual inversion in the file ``path``; pickled ones (``.pt``, ``.bin``) need ``allow_pickle``.

    WeightsError names tensors that are not of one, or are not finite vectors.
    """
    with open_source(path, allow_pickle=allow_pickle) as source:
        return read_embedding(source)


def is_embedding(source: Source) -> bool:
    """Whether the names of ``source`` are those of a textual inversion; a single tensor is one if it is small."""
    if any(key in _PLACES or key.startswith(_PICKLED) for key in source.entries):
        return all(key in _PLACES or key.startswith(_PICKLED) for key in source.entries)
    if len(source.entries) != 1:
        return False
    ((name, shape),) = source.shapes.items()
    few = len(shape) == 1 or (len(shape) == 2 and shape[0] <= MOST)  # one vector may be no matrix
    return few and read_key(name) is None and not name.endswith((".weight", ".bias"))  # a word, no layer


def read_embedding(source: Source) -> Embedding:
    """The textual inversion that an opened ``source`` holds; see load_embedding."""
    name = source.path.stem
    found: dict[str, Tensor] = {}
    unknown: list[str] = []
    for key in source.entries:
        where = _PLACES.get(key)
        if where is None and (key.startswith(_PICKLED) or len(source.entries) == 1):
            where = "text"
            name = name if key.startswith(_PICKLED) else key
        if where is None or where in found:
            unknown.append(key)
        else:
            found[where] = _vectors(source, key)
    if unknown:
        told = ", ".join(map(short, unknown[:10]))
        raise WeightsError(
            f"{source.path} is no textual inversion that is known here: it holds {told}; wanted emb_params, "
            f"clip_l and clip_g, string_to_param, or one tensor"
        )
    return Embedding(name, MappingProxyType(found), source.metadata)


def _vectors(source: Source, key: str) -> Tensor:
    """The vectors (n, width) in the tensor ``key``."""
    entry = source[key]
    if not entry.torch_dtype.is_floating_point or len(entry.shape) not in (1, 2) or 0 in entry.shape:
        raise WeightsError(
            f"{key} of {source.path} has the shape {entry.shape} in {entry.dtype}, not that of vectors"
        )
    out = torch.empty(entry.shape, dtype=entry.torch_dtype)
    source.read_into(key, out, finite=True)
    found = out.reshape(-1, entry.shape[-1])
    if len(found) > MOST:
        raise WeightsError(
            f"{key} of {source.path} holds {len(found):,} vectors, more than the {MOST} of one word"
        )
    return found


class Words:
    """Words that encoders have learned, until ``remove``: ``ids`` says which token ids stand for each, by encoder."""

    def __init__(self, encoders: Mapping[str, ClipText | T5Encoder], embeddings: Sequence[Embedding]) -> None:
        """Append the vectors to the encoders' tables; see ``teach``."""
        names = [each.name for each in embeddings]
        if twice := {name for name in names if names.count(name) > 1}:
            raise InvalidRequest(f"two embeddings are called {sorted(twice)[0]!r}")
        self.ids: dict[str, dict[str, tuple[int, ...]]] = {}
        self._originals: list[tuple[ClipText | T5Encoder, Tensor]] = []
        tables: dict[str, Tensor] = {}
        for each in embeddings:
            for where, vectors in each.vectors.items():
                if where not in encoders:
                    raise WeightsError(
                        f"the embedding {each.name!r} has vectors for {where}, which this model does not have"
                    )
                if isinstance(encoders[where].token, Quantized):
                    raise InvalidRequest(
                        f"the tokens of {where} are packed and can learn no word: load the checkpoint without packed"
                    )
                table = tables.get(where, encoders[where].token.weight.detach())
                if vectors.shape[1] != table.shape[1]:
                    raise WeightsError(
                        f"the embedding {each.name!r} has vectors of {vectors.shape[1]} values for {where}, "
                        f"whose tokens have {table.shape[1]}: it is made for another family"
                    )
                first = len(table)
                with torch.inference_mode(False):
                    tables[where] = torch.cat((table, vectors.to(table.device, table.dtype)))
                self.ids.setdefault(each.name, {})[where] = tuple(range(first, first + len(vectors)))
        for where, table in tables.items():
            token = encoders[where].token
            self._originals.append((encoders[where], token.weight.data))
            token.weight.data, token.num_embeddings = table, len(table)

    def remove(self) -> None:
        """Put the tables back, the very tensors that were there."""
        for encoder, original in reversed(self._originals):
            encoder.token.weight.data, encoder.token.num_embeddings = original, len(original)
        self._originals, self.ids = [], {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *what: object) -> None:
        self.remove()


def teach(encoders: Mapping[str, ClipText | T5Encoder], embeddings: Sequence[Embedding]) -> Words:
    """Let ``encoders`` (by place: text, text_2, text_3) know the words of ``embeddings``, until they are removed.

    The ids go where the word stands in a row of tokens. They lie behind those of the vocabulary, so that no text can
    make them. WeightsError for vectors of another width, or for an encoder that the model does not have.
    """
    return Words(encoders, embeddings)
