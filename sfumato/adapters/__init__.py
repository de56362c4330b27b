"""Adapters of published networks: LoRA and its kin, in every layout they are written in.

``load_adapter`` reads a file, ``apply`` lets adapters act on a model's networks until they are removed, ``describe``
says what a file holds, ``save_adapter`` writes one; ``load_embedding`` and ``teach`` are for textual inversion.
"""

from sfumato.adapters.about import describe
from sfumato.adapters.apply import Applied, Merging, apply
from sfumato.adapters.embedding import Embedding, Words, load_embedding, teach
from sfumato.adapters.names import Network
from sfumato.adapters.place import Placed, Strength, place
from sfumato.adapters.read import Adapter, Layer, load_adapter
from sfumato.adapters.write import metadata_for, save_adapter, trained

__all__ = [
    "Adapter",
    "Applied",
    "Embedding",
    "Layer",
    "Merging",
    "Network",
    "Placed",
    "Strength",
    "Words",
    "apply",
    "describe",
    "load_adapter",
    "load_embedding",
    "metadata_for",
    "place",
    "save_adapter",
    "teach",
    "trained",
]
