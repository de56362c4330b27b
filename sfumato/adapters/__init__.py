"""Adapters of published networks: LoRA and its kin, in every layout they are written in.

``load_adapter`` reads a file, ``apply`` lets adapters act on a model's networks until they are removed, ``describe``
says what a file holds, ``save_adapter`` writes one.
"""

from sfumato.adapters.apply import Applied, apply
from sfumato.adapters.names import Network
from sfumato.adapters.place import Placed, Strength, place
from sfumato.adapters.read import Adapter, Layer, describe, load_adapter
from sfumato.adapters.write import metadata_for, save_adapter, trained

__all__ = [
    "Adapter",
    "Applied",
    "Layer",
    "Network",
    "Placed",
    "Strength",
    "apply",
    "describe",
    "load_adapter",
    "metadata_for",
    "place",
    "save_adapter",
    "trained",
]
