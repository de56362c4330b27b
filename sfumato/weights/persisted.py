"""Pickles of NVIDIA's persistent classes (EDM's ``.pkl``), of which the tensors are taken and nothing is run.

Such a pickle holds the text of a Python module for each class, which NVIDIA's own reader executes. Here whatever the
pickle would call is a ``Thing``, which only keeps what it was given: tensors are found in the state that modules of
torch have. Only a child process under limits calls this (see ``pickled``).
"""

from __future__ import annotations

import io
import json
import pickle
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sfumato.errors import WeightsError

SUFFIX = ".pkl"
DEEPEST = 32
"""How deep modules may lie in one another."""
TOLD = "edm."
"""What the names of the metadata begin with that say what else the pickle tells: ``class`` and the numbers it keeps."""


class Thing:
    """Takes the place of anything that a pickle names: keeps arguments and state, calls nothing."""

    def __new__(cls, *args: Any, **options: Any) -> Thing:
        """Keep what it would be made of."""
        made = super().__new__(cls)
        made.args, made.state = args, {}
        return made

    args: tuple[Any, ...]
    state: Any

    def __init__(self, *args: Any, **options: Any) -> None:
        """Nothing more."""

    def __setstate__(self, state: Any) -> None:
        """Keep what it would hold."""
        self.state = state

    def __setitem__(self, key: object, value: object) -> None:
        """Ignore the items of a mapping."""

    def append(self, value: object) -> None:
        """Ignore the items of a list."""

    def extend(self, values: object) -> None:
        """Ignore the items of a list."""


class Stored(Thing):
    """A tensor's storage, which is an archive of torch's inside of the pickle: ``torch.storage._load_from_bytes``."""

    @property
    def values(self) -> Tensor:
        """Its values in a row; WeightsError if the archive holds anything else."""
        if len(self.args) != 1 or not isinstance(self.args[0], bytes):
            raise WeightsError("one of its tensors is stored in a way that is not known")
        found = torch.load(io.BytesIO(self.args[0]), map_location="cpu", weights_only=True)
        if not isinstance(found, torch.storage.TypedStorage):
            raise WeightsError("one of its tensors has no storage")
        return torch.tensor([], dtype=found.dtype).set_(found)


class Made(Thing):
    """A tensor: ``torch._utils._rebuild_tensor_v2``."""

    @property
    def tensor(self) -> Tensor:
        """The tensor; WeightsError where its storage has not all of it."""
        if len(self.args) < 4 or not isinstance(self.args[0], Stored):
            raise WeightsError("one of its tensors is made in a way that is not known")
        storage, offset, size, stride = self.args[:4]
        numbers = (
            (offset, *size, *stride) if isinstance(size, tuple) and isinstance(stride, tuple) else (None,)
        )
        if not all(isinstance(n, int) and n >= 0 for n in numbers) or len(size) != len(stride):
            raise WeightsError("the sizes of one of its tensors are not known")
        values = storage.values
        last = sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if 0 not in size and offset + last >= len(values):
            raise WeightsError("one of its tensors claims more values than the file has")
        found = torch.as_strided(values, size, stride, offset)
        return found.clone(memory_format=torch.contiguous_format)


class Kept(Thing):
    """A parameter, which is its first argument: ``torch._utils._rebuild_parameter``."""


KNOWN: dict[tuple[str, str], type] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("builtins", "set"): set,
    ("__builtin__", "set"): set,
    ("torch.storage", "_load_from_bytes"): Stored,
    ("torch._utils", "_rebuild_tensor_v2"): Made,
    ("torch._utils", "_rebuild_parameter"): Kept,
}
"""What names in a pickle mean; all others are Things."""


class Reader(pickle.Unpickler):
    """Reads a pickle in which no name is looked up."""

    def find_class(self, module: str, name: str) -> type:
        """The stand-in for what is called so."""
        return KNOWN.get((module, name), Thing)

    def persistent_load(self, pid: object) -> Any:
        """Refused: such pickles have nothing beside them."""
        raise WeightsError("it refers to something outside of it")


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of the averaged network (``ema``) in the pickle ``path`` by name, and what else it tells of it.

    That is its class and its numbers, under names that begin with TOLD. WeightsError if it holds no such network.
    """
    with open(path, "rb") as file:
        whole = Reader(file).load()
    network = whole.get("ema") if isinstance(whole, dict) else None
    name, state = _module(network)
    if not name or not isinstance(state, dict):
        raise WeightsError("it holds no network of a persistent class under 'ema', as EDM's pickles do")
    told = {"class": name, **{k: v for k, v in state.items() if type(v) in (int, float, bool, str)}}
    text = {TOLD + key: value if isinstance(value, str) else json.dumps(value) for key, value in told.items()}
    return dict(_tensors("", network, 0)), text


def _module(thing: object) -> tuple[str, Any]:
    """The name of a persistent class and the state of its object; no name for other objects."""
    if not isinstance(thing, Thing):
        return "", None
    first = thing.args[0] if thing.args else None
    if isinstance(first, dict) and isinstance(first.get("class_name"), str):
        return first["class_name"], first.get("state")
    return "", thing.state


def _tensors(prefix: str, thing: object, depth: int) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers of a module and of those below it, named as a state_dict of torch names them."""
    state = _module(thing)[1]
    if not isinstance(state, dict) or depth > DEEPEST:
        return
    for held in ("_parameters", "_buffers"):
        for name, value in _items(state.get(held)):
            made = value.args[0] if isinstance(value, Kept) and value.args else value
            if isinstance(made, Made):
                yield prefix + name, made.tensor
    for name, inner in _items(state.get("_modules")):
        yield from _tensors(f"{prefix}{name}.", inner, depth + 1)


def _items(held: object) -> Iterator[tuple[str, Any]]:
    if isinstance(held, dict):
        yield from ((str(name), value) for name, value in held.items())
