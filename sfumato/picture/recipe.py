"""The complete recipe of a picture: what must be known to make it again, as strict JSON."""

from __future__ import annotations

import json
import math
import os
import platform
import re
import sys
from dataclasses import dataclass, field, fields
from importlib import metadata
from typing import Any, Final, TypeAlias

from sfumato.errors import DataError, InvalidRequest, SfumatoError

JSON: TypeAlias = "bool | int | float | str | list[JSON] | dict[str, JSON] | None"
"""A value that JSON can hold."""

SCHEMA: Final = 1
"""The version of the recipe that this sfumato writes, and the only one that it reads."""

MAX_RECIPE: Final = 2**20
"""A recipe takes at most this many bytes as JSON."""

_MAX_DEPTH = 32
_MAX_BITS = 1024
_HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Recipe:
    """How one picture was made.

    ``arguments`` holds every parameter of the task, with the seed of this picture; ``versions`` what it ran
    on. ``extra`` keeps the top-level keys that this version of sfumato does not know, so that reading and
    writing a recipe of a later minor version loses nothing. All values are copied and checked on creation:
    anything JSON cannot hold exactly (not-a-number, lone surrogates, keys that are not text) raises
    InvalidRequest; tuples become lists.
    """

    task: str
    model: str
    model_hash: str
    arguments: dict[str, JSON]
    versions: dict[str, str] = field(default_factory=dict)
    schema: int = SCHEMA
    extra: dict[str, JSON] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_schema(self.schema)
        for name in ("task", "model", "model_hash"):
            value = _checked(getattr(self, name), name, 0)
            if not isinstance(value, str) or not value:
                raise InvalidRequest(f"{name} of a recipe must be text and not empty, not {value!r}")
            object.__setattr__(self, name, value)
        if not _HASH.fullmatch(self.model_hash):
            raise InvalidRequest(
                f"model_hash must be the 64 lowercase hex digits of a SHA-256, not {self.model_hash!r}"
            )
        for name in ("arguments", "versions", "extra"):
            value = _checked(getattr(self, name), name, 0)
            if not isinstance(value, dict):
                raise InvalidRequest(f"{name} of a recipe must be a mapping of names to values")
            object.__setattr__(self, name, value)
        for key, version in self.versions.items():
            if not isinstance(version, str):
                raise InvalidRequest(f"versions.{key} must be text, not {version!r}")
        taken = sorted(_KNOWN & self.extra.keys())
        if taken:
            raise InvalidRequest(f"extra must not hold {', '.join(taken)}: a recipe has fields of that name")

    def to_json(self) -> str:
        """The recipe as one JSON object with sorted keys: equal recipes give equal text.

        Raises InvalidRequest if it is longer than MAX_RECIPE bytes.
        """
        record: dict[str, Any] = {name: getattr(self, name) for name in _KNOWN} | self.extra
        text = json.dumps(record, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"))
        if len(text.encode()) > MAX_RECIPE:
            raise InvalidRequest(f"the recipe is too long to be stored: more than {MAX_RECIPE} bytes")
        return text

    @classmethod
    def from_json(cls, text: str) -> Recipe:
        """Read what ``to_json`` wrote; DataError says what is wrong with anything else."""
        if len(text) > MAX_RECIPE:
            raise DataError(f"the recipe is too long: more than {MAX_RECIPE} bytes")
        try:
            record = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_unique)
        except (ValueError, RecursionError) as error:
            raise DataError(f"the recipe is not valid JSON: {error}") from error
        if not isinstance(record, dict):
            raise DataError("the recipe is not a JSON object")
        missing = _KNOWN - record.keys()
        if "schema" not in missing:
            _check_schema(record["schema"], DataError)
        if missing:
            raise DataError(f"the recipe lacks {', '.join(sorted(missing))}")
        known = {key: value for key, value in record.items() if key in _KNOWN}
        extra = {key: value for key, value in record.items() if key not in _KNOWN}
        try:
            return cls(**known, extra=extra)
        except InvalidRequest as error:
            raise DataError(str(error)) from error


_KNOWN: Final = frozenset(each.name for each in fields(Recipe)) - {"extra"}


def current_versions(**more: str) -> dict[str, str]:
    """What this process runs on, for ``Recipe.versions``; ``more`` (such as dtype) is added to it.

    Torch is asked only if it is already imported: the number of threads and the instruction set then are
    among the answers, since both can change the last bits of a picture.
    """
    versions = {
        "python": platform.python_version(),
        "platform": f"{platform.system()}-{platform.machine()}",
        "processors": str(os.cpu_count()),
    }
    for package in ("sfumato", "torch", "numpy", "pillow"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "unknown"
    torch = sys.modules.get("torch")
    if torch is not None:
        versions["torch"] = str(torch.__version__)
        versions["cpu"] = str(torch.backends.cpu.get_cpu_capability())
        versions["threads"] = str(torch.get_num_threads())
        versions["dtype"] = str(torch.get_default_dtype()).removeprefix("torch.")
    return versions | more


def _check_schema(schema: object, refusal: type[SfumatoError] = InvalidRequest) -> None:
    if type(schema) is not int or schema != SCHEMA:
        raise refusal(
            f"the recipe has schema {schema!r}, and this sfumato knows only schema {SCHEMA}; update sfumato"
        )


def _checked(value: object, where: str, depth: int) -> JSON:
    """A copy of ``value`` made of plain JSON types only, or InvalidRequest naming the place."""
    if depth > _MAX_DEPTH:
        raise InvalidRequest(f"the recipe is nested more than {_MAX_DEPTH} deep")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _checked_text(value, where)
    if isinstance(value, int):
        if value.bit_length() > _MAX_BITS:
            raise InvalidRequest(f"{where} of a recipe is a number of more than {_MAX_BITS} bits")
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidRequest(f"{where} of a recipe must be a finite number, not {value}")
        return float(value)
    if isinstance(value, list | tuple):
        return [_checked(each, f"{where}[{index}]", depth + 1) for index, each in enumerate(value)]
    if isinstance(value, dict):
        copy: dict[str, JSON] = {}
        for key, each in value.items():
            if not isinstance(key, str):
                raise InvalidRequest(f"a key in {where} of a recipe must be text, not {key!r}")
            copy[_checked_text(key, where)] = _checked(each, f"{where}.{key}", depth + 1)
        return copy
    raise InvalidRequest(f"{where} of a recipe cannot be stored as JSON: it is a {type(value).__name__}")


def _checked_text(value: str, where: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidRequest(
            f"{where} of a recipe holds half of a character (a lone surrogate); give valid Unicode text"
        ) from None
    return str.__str__(value)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON value")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) != len(pairs):
        raise ValueError("a key occurs twice")
    return record
