"""Adapter files to adapters: every key is read, grouped by layer, and made a formula, or the file is refused.

Nothing is known of a model here; ``place.py`` finds the layers in one.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from sfumato.adapters.formula import Difference, Dora, Formula, Loha, Lokr, Lora, Replacement
from sfumato.adapters.layouts import read_key, read_layer
from sfumato.errors import WeightsError
from sfumato.weights.source import Source, open_source

SHOWN = 10
PARTIAL = "--partial (partial=True)"
"""How a person leaves out what is not understood or finds no place."""
PEFT_HEADER = "lora_adapter_metadata"
PEFT_CONFIG = "adapter_config.json"


@dataclass(frozen=True, eq=False)
class Layer:
    """What an adapter says of one layer: the formula of its weight, that of its bias, and the ``keys`` they came from.

    ``name`` is the layer's as the file spells it; ``places`` are the networks in which it may lie, ``names`` what it
    may be called there (see ``layouts.Layer``).
    """

    name: str
    places: tuple[str, ...]
    names: tuple[tuple[str, ...], ...]
    weight: Formula | None
    bias: Formula | None = None
    keys: tuple[str, ...] = ()

    @property
    def formulas(self) -> dict[str, Formula]:
        """The formulas by the kind of tensor that they change."""
        both = {"weight": self.weight, "bias": self.bias}
        return {kind: formula for kind, formula in both.items() if formula is not None}


@dataclass(frozen=True, eq=False)
class Adapter:
    """An adapter, read: its layers, whose spelling it has, what its file tells beside them, and what was left out.

    ``left_out`` are keys that were not understood, each with the reason; it is empty unless ``partial`` was asked for.
    """

    path: Path
    layout: str
    layers: tuple[Layer, ...]
    metadata: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def algorithms(self) -> dict[str, int]:
        """How many updates are of each algorithm, the most frequent first."""
        return dict(
            Counter(f.algorithm for each in self.layers for f in each.formulas.values()).most_common()
        )

    @property
    def ranks(self) -> tuple[int, ...]:
        """The ranks that occur, ascending."""
        found = {f.rank for each in self.layers for f in each.formulas.values()}
        return tuple(sorted(rank for rank in found if rank is not None))

    @property
    def targets(self) -> tuple[str, ...]:
        """The layers' names as the file spells them."""
        return tuple(each.name for each in self.layers)

    @cached_property
    def zero(self) -> bool:
        """Whether no layer is changed, whatever the model is: an adapter that was not trained."""
        return all(f.zero for each in self.layers for f in each.formulas.values())

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know before using it."""
        told = []
        if self.zero:
            told.append(f"the update of {self.path.name} is all zero: it changes nothing (was it trained?)")
        if self.left_out:
            told.append(f"{self.path.name} has keys that were left out: {listed(self.left_out)}")
        return tuple(told)


def load_adapter(path: str | Path, *, partial: bool = False, allow_pickle: bool = False) -> Adapter:
    """The adapter in the file ``path``, or in the folder of a PEFT adapter.

    Every key must be one of an adapter's, every layer complete, every value finite; WeightsError names those that are
    not, and with ``partial`` they are left out and listed in the result. Pickled files need ``allow_pickle``.
    """
    with open_source(path, allow_pickle=allow_pickle) as source:
        return read_adapter(source, partial=partial)


def read_adapter(source: Source, *, partial: bool = False) -> Adapter:
    """The adapter that an opened ``source`` holds; see load_adapter."""
    groups: dict[str, dict[str, str]] = {}
    kinds: dict[str, str] = {}
    left: dict[str, str] = {}
    for name in source.entries:
        key = read_key(name)
        if key is None:
            left[name] = "no key of an adapter that is known"
        elif key.role in (group := groups.setdefault(key.layer, {})):
            left[name] = f"says the same as {group[key.role]}"
        else:
            group[key.role] = name
            kinds[key.layer] = key.ending or kinds.get(key.layer, "")
    if not groups:
        raise WeightsError(
            f"{source.path} is no adapter that is known here: of its {len(source.entries):,} tensors none has the name "
            f"of an adapter's, such as {listed(left) or 'lora_A.weight, lora_down.weight or hada_w1_a'}"
        )
    told = _Told.of(source)
    layers: list[Layer] = []
    layouts: Counter[str] = Counter()
    for name, roles in groups.items():
        read = read_layer(name, kinds[name])
        layouts[read.layout] += 1
        tensors = {role: _tensor(source, key) for role, key in roles.items()}
        try:
            weight, bias = _formulas(tensors, told.alpha(name), told.rank(name))
        except ValueError as error:
            left |= {key: str(error) for key in roles.values()}
            continue
        layers.append(Layer(name, read.places, read.names, weight, bias, tuple(roles.values())))
    if left and not partial:
        raise WeightsError(
            f"{len(left):,} of {len(source.entries):,} keys of {source.path} are not understood; {PARTIAL} leaves them "
            f"out: {listed(left)}"
        )
    spelled = "+".join(sorted(layouts))
    return Adapter(source.path, spelled, tuple(layers), source.metadata, left)


def listed(names: Iterable[str] | Mapping[str, str], most: int = SHOWN) -> str:
    """The first ``most`` of ``names``, with the reason where there is one, and how many more there are."""
    shown = list(names)
    reasons = names if isinstance(names, Mapping) else {}
    told = [f"{name[:200]} ({reasons[name]})" if name in reasons else name[:200] for name in shown[:most]]
    more = f" and {len(shown) - most:,} more" if len(shown) > most else ""
    return ", ".join(told) + more


def _tensor(source: Source, key: str) -> Tensor:
    """The values of ``key`` as stored; WeightsError unless they are real numbers, all finite."""
    stored = source[key].torch_dtype
    if not stored.is_floating_point and key.endswith(".alpha") and not stored.is_complex:
        stored = torch.float32
    elif not stored.is_floating_point:
        raise WeightsError(f"{key} of {source.path} is of {stored}; an adapter's tensors are of real numbers")
    out = torch.empty(source[key].shape, dtype=stored)
    source.read_into(key, out, finite=True)
    return out


def _formulas(
    roles: Mapping[str, Tensor], alpha: float | None, rank: float | None
) -> tuple[Formula | None, Formula | None]:
    """The formulas of a layer's weight and bias; ValueError says which tensors are missing or do not fit.

    ``alpha`` and ``rank`` are what settings tell beside the tensors.
    """
    left = dict(roles)
    own = left.pop("alpha", None)
    if own is not None:
        if own.numel() != 1:
            raise ValueError(f"alpha has the shape {tuple(own.shape)}, not that of one number")
        alpha = float(own)
    weight: Formula | None = None
    bias: Formula | None = None
    if {"down", "up", "mid"} & left.keys():
        down, up = _both(left, "down", "up")
        weight = Lora(down, up, left.pop("mid", None), alpha)
        if (more := left.pop("up_bias", None)) is not None:
            bias = Difference(more * weight.scale)
    elif any(role.startswith("hada") for role in left):
        pairs = (*_both(left, "hada_w1_a", "hada_w1_b"), *_both(left, "hada_w2_a", "hada_w2_b"))
        weight = Loha(*pairs, left.pop("hada_t1", None), left.pop("hada_t2", None), alpha)
    elif any(role.startswith("lokr") for role in left):
        first, second = _kronecker(left, "lokr_w1"), _kronecker(left, "lokr_w2", "lokr_t2")
        if own is None and alpha is not None and rank and len(first) == len(second) == 1:
            # PEFT scales by alpha / r also where both factors are whole and tell no rank; LyCORIS does not.
            first = (first[0].float() * (alpha / rank),)
        weight = Lokr(first, second, alpha)
    elif "diff" in left:
        weight = Difference(left.pop("diff"))
    elif "set" in left:
        weight = Replacement(left.pop("set"))
    if weight is not None and (magnitude := left.pop("magnitude", None)) is not None:
        weight = Dora(weight, magnitude.flatten())
    if weight is not None and (magnitude := left.pop("dora", None)) is not None:
        inputs = magnitude.ndim > 1 and magnitude.shape[0] == 1 and magnitude.numel() > 1
        weight = Dora(weight, magnitude.flatten(), int(inputs))
    if (value := left.pop("diff_b", None)) is not None:
        if bias is not None:
            raise ValueError("there are two updates of one bias")
        bias = Difference(value)
    if left or (weight is None and bias is None):
        raise ValueError(f"{', '.join(left) or 'alpha'} of a layer that lacks what goes with it")
    for formula in (weight, bias):
        if formula is not None:
            formula.shape()
    return weight, bias


def _both(left: dict[str, Tensor], first: str, second: str) -> tuple[Tensor, Tensor]:
    """Take two tensors that go together; ValueError if one is missing."""
    if missing := [role for role in (first, second) if role not in left]:
        raise ValueError(f"the layer lacks {' and '.join(missing)}")
    return left.pop(first), left.pop(second)


def _kronecker(left: dict[str, Tensor], whole: str, kernel: str = "") -> tuple[Tensor, ...]:
    """Take a factor of a Kronecker product, whole or in parts."""
    if whole in left:
        return (left.pop(whole),)
    pair = _both(left, f"{whole}_a", f"{whole}_b")
    return (*pair, left.pop(kernel)) if kernel in left else pair


@dataclass(frozen=True)
class _Told:
    """PEFT's settings, which say alpha for a whole adapter or for layers; by prefix of the keys."""

    settings: Mapping[str, Mapping[str, object]]

    @classmethod
    def of(cls, source: Source) -> _Told:
        """The settings beside or in ``source``: PEFT's own file, or diffusers' entry of the header."""
        config: object = _beside(source)
        if config is not None:
            return cls({"": _mapping(config, PEFT_CONFIG)})
        text = source.metadata.get(PEFT_HEADER)
        if text is None:
            return cls({})
        flat = _mapping(_json(text, f"{PEFT_HEADER} of {source.path}"), PEFT_HEADER)
        found: dict[str, dict[str, object]] = {}
        for name, value in flat.items():
            prefix, dot, key = name.rpartition(".")
            found.setdefault(prefix + dot, {})[key] = value
        return cls(found)

    def alpha(self, layer: str) -> float | None:
        """What ``layer`` is scaled by, times its rank; None if nothing is told."""
        for name, told in self._of(layer):
            alpha = _number(_pattern(told, "alpha_pattern", name, told.get("lora_alpha", told.get("alpha"))))
            if alpha is not None and told.get("use_rslora"):
                alpha *= math.sqrt(
                    self.rank(layer) or 1.0
                )  # alpha / sqrt(R) is sqrt(R) alpha / R (Kalajdzievski 2023)
            return alpha
        return None

    def rank(self, layer: str) -> float | None:
        """The rank of ``layer`` as the settings tell it; None if they do not."""
        for name, told in self._of(layer):
            return _number(_pattern(told, "rank_pattern", name, told.get("r")))
        return None

    def _of(self, layer: str) -> Iterator[tuple[str, Mapping[str, object]]]:
        """The settings for ``layer``, and its name in them."""
        name = layer.removeprefix("base_model.model.")
        for prefix, told in self.settings.items():
            if name.startswith(prefix):
                yield name.removeprefix(prefix), told


def _pattern(told: Mapping[str, object], table: str, name: str, default: object) -> object:
    """The value for the layer ``name`` in one of PEFT's tables; its keys are ends of names here, not expressions."""
    found = told.get(table) or {}
    for key, value in _mapping(found, table).items():
        plain = key.removeprefix("^").removesuffix("$").replace("\\.", ".")
        if not plain.replace(".", "").replace("_", "").isalnum():
            raise WeightsError(
                f"{table} of the adapter's settings has {key[:200]!r}, which is no name of a layer"
            )
        if name == plain or (name.endswith(f".{plain}") and not key.startswith("^")):
            return value
    return default


def _number(value: object) -> float | None:
    """``value`` as a number; WeightsError if it is something else."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e12:
        raise WeightsError(f"the adapter's settings have {str(value)[:100]!r} where a number stands")
    return float(value)


def _mapping(value: object, what: str) -> Mapping[str, object]:
    """``value`` as an object of JSON; WeightsError if it is none."""
    if not isinstance(value, Mapping):
        raise WeightsError(f"{what} of the adapter is no JSON object")
    return value


def _json(text: str, what: str) -> object:
    """What the JSON ``text`` says; WeightsError if it is none, or is nested without end."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{what} is no JSON: {error}") from error


def _beside(source: Source) -> object | None:
    """PEFT's settings in the folder of its file; None if there are none."""
    folder = source.path if source.path.is_dir() else source.path.parent
    place = folder / PEFT_CONFIG
    if not place.is_file() or not (source.path.is_dir() or source.path.name.startswith("adapter_model")):
        return None
    try:
        if place.stat().st_size > 1_000_000:
            raise WeightsError(f"{place} is larger than settings of an adapter are")
        return _json(place.read_text("utf-8"), str(place))
    except (OSError, UnicodeDecodeError) as error:
        raise WeightsError(f"cannot read {place}: {error}") from error
