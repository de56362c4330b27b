"""The header of a safetensors file, checked hard: what a file holds is known before any of it is read.

A file is 8 bytes (the header's length N, little-endian), N bytes of JSON, then the tensors' bytes without a gap::

    {"__metadata__": {text: text}, name: {"dtype": "F16", "shape": [o, i], "data_offsets": [begin, end]}, ...}

The JSON is read one tensor at a time from its bytes, so that a hostile header of the largest allowed size costs
little more memory than itself: a general JSON reader would build millions of objects first. Format: safetensors
0.8, https://huggingface.co/docs/safetensors.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from sfumato.errors import WeightsError

if TYPE_CHECKING:
    import torch

# As safetensors names them: torch's name, and bytes a value. Headers are read without torch, which takes a second to
# import.
DTYPES: dict[str, tuple[str, int]] = {
    "F64": ("float64", 8),
    "F32": ("float32", 4),
    "F16": ("float16", 2),
    "BF16": ("bfloat16", 2),
    "F8_E4M3": ("float8_e4m3fn", 1),
    "F8_E4M3FNUZ": ("float8_e4m3fnuz", 1),
    "F8_E5M2": ("float8_e5m2", 1),
    "F8_E5M2FNUZ": ("float8_e5m2fnuz", 1),
    "F8_E8M0": ("float8_e8m0fnu", 1),
    "I64": ("int64", 8),
    "I32": ("int32", 4),
    "I16": ("int16", 2),
    "I8": ("int8", 1),
    "U64": ("uint64", 8),
    "U32": ("uint32", 4),
    "U16": ("uint16", 2),
    "U8": ("uint8", 1),
    "BOOL": ("bool", 1),
    "C64": ("complex64", 8),
}
_NAMES = {f"torch.{name}": kind for kind, (name, _) in DTYPES.items()}

METADATA = "__metadata__"
MAX_HEADER = 100_000_000  # bytes; safetensors' own limit
MAX_TENSORS = 65_536  # in a file; published models have at most some ten thousand
MAX_METADATA = 16_000_000  # bytes of all its texts; JSON of training tags reaches some millions
MAX_NAME = 4_096  # bytes of a name, and of what a header says of one tensor
MAX_DIMENSIONS = 16

# Possessive repeats (*+) keep no way back, so that a long text costs no memory beyond itself.
_TEXT = rb'"[^"\\\x00-\x1f]*+(?:\\.[^"\\\x00-\x1f]*+)*+"'
_SPACE = re.compile(rb"[ \t\r\n]*+")
_KEY = re.compile(rb"[ \t\r\n]*+(" + _TEXT + rb")[ \t\r\n]*+:[ \t\r\n]*+")
_VALUE = re.compile(_TEXT)
_BODY = re.compile(rb"\{[^{}]*+\}")
_FIELDS = {"dtype", "shape", "data_offsets"}


@dataclass(frozen=True, slots=True)
class File:
    """A weights file as it was when its header was read: size in bytes, time of change in nanoseconds."""

    path: Path
    size: int
    changed: int


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor in a file: its ``shape``, its ``dtype`` as safetensors or ggml names it, and where its bytes lie.

    ``start`` is the offset of its first byte in ``file``, ``bytes`` their number. Values that are read are multiplied
    by ``scale``, another tensor of one value or of one for each row.
    """

    shape: tuple[int, ...]
    dtype: str
    bytes: int
    file: File
    start: int
    scale: Entry | None = None

    @property
    def values(self) -> int:
        """How many values it has."""
        return math.prod(self.shape)

    @property
    def quantized(self) -> bool:
        """Whether values have to be computed from what is stored: blocks of a GGUF file, or values with a scale."""
        return self.dtype not in DTYPES or self.scale is not None

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype of its values as torch has it, float32 where they are computed."""
        import torch

        found: torch.dtype = torch.float32 if self.quantized else getattr(torch, DTYPES[self.dtype][0])
        return found


@dataclass(frozen=True)
class Header:
    """What a safetensors file says it holds: tensors by name in the file's order, and texts by name."""

    entries: Mapping[str, Entry]
    metadata: Mapping[str, str]


def read_header(path: Path) -> Header:
    """The header of the safetensors file ``path``; no tensor is read.

    Raises WeightsError, in one sentence that names the file, unless all of it is right: length, JSON, unique
    names, known dtypes, sizes that are shape times itemsize, and bytes that cover the file with no hole and no
    overlap.
    """
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            text = _read_text(file, status.st_size)
        return parse_header(text, File(path, status.st_size, status.st_mtime_ns))
    except OSError as error:
        raise WeightsError(f"cannot read the weights {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise WeightsError(f"the weights {path} are damaged: {error}") from error


def _read_text(file: BinaryIO, size: int) -> bytes:
    """The header's JSON, when its stated length can be."""
    start = file.read(8)
    if len(start) < 8:
        raise ValueError(f"a safetensors file has at least 8 bytes, this one {size}")
    length, first = int.from_bytes(start, "little"), file.read(1)
    # A header of 640 or 1152 bytes begins as a pickle does: what follows tells.
    pickled = start[:2] in (b"\x80\x02", b"\x80\x04") and (first != b"{" or length > size - 8)
    if pickled or start[:4] == b"PK\x03\x04":
        raise ValueError("it is a pickled checkpoint that was named .safetensors")
    if length > MAX_HEADER:
        raise ValueError(f"the header would be {length:,} bytes long, more than the {MAX_HEADER:,} allowed")
    if length > size - 8:
        raise ValueError(f"the header would be {length:,} bytes long, the file is {size:,}: truncated?")
    text = (first + file.read(length - 1)) if length else b""
    if len(text) < length:
        raise ValueError("the file ends within its header")
    return text


def parse_header(text: bytes, file: File) -> Header:
    """The header of ``file`` whose JSON is ``text``; behind it lie the tensors' bytes, to the file's end.

    Raises ValueError that says what is wrong.
    """
    entries: dict[str, Entry] = {}
    metadata: dict[str, str] | None = None
    many = f"the header names more than {MAX_TENSORS:,} tensors"
    if text.count(b'"data_offsets"') > MAX_TENSORS:  # told at once; written with escapes, it is told below
        raise ValueError(many)
    if text[:1] != b"{":
        raise ValueError("the header is not a JSON object")
    at = _skip(text, 1)
    if text[at : at + 1] == b"}":
        at = _next(text, at)
    while at >= 0:
        name, at = _key(text, at)
        if name == METADATA and metadata is None:
            metadata, at = _metadata(text, at)
        elif name in entries or name == METADATA:
            raise ValueError(f"the header names {short(name)} twice")
        elif not name.isprintable():
            raise ValueError(f"the name {short(name)} has characters that cannot be printed")
        elif len(entries) == MAX_TENSORS:
            raise ValueError(many)
        else:
            found = _BODY.match(text, at, at + MAX_NAME)
            if not found:
                raise ValueError(f"the header does not describe {short(name)} by an object")
            entries[name] = _entry(name, found[0], len(text) + 8, file)
            at = found.end()
        at = _next(text, at)
    _check_cover(entries, len(text) + 8, file.size)
    return Header(entries, metadata or {})


def _skip(text: bytes, at: int) -> int:
    """The next place from ``at`` on that is not space."""
    space = _SPACE.match(text, at)
    return space.end() if space else at


def _next(text: bytes, at: int) -> int:
    """The place behind the comma at ``at``, or -1 behind the closing brace that ends the header."""
    at = _skip(text, at)
    if text[at : at + 1] == b",":
        return at + 1
    if text[at : at + 1] != b"}" or _skip(text, at + 1) < len(text):
        raise ValueError(f"the header is not one JSON object (byte {at})")
    return -1


def _key(text: bytes, at: int) -> tuple[str, int]:
    """The name at ``at``, and the place of its value."""
    found = _KEY.match(text, at)
    if not found:
        raise ValueError(f"the header is not one JSON object (byte {at})")
    if len(found[1]) > MAX_NAME:
        raise ValueError(f"a name in the header is longer than {MAX_NAME:,} bytes")
    return _text(found[1]), found.end()


def _text(token: bytes) -> str:
    """The text of a JSON string, which must be sound Unicode."""
    text = json.loads(token.decode("utf-8"))
    assert isinstance(text, str)
    text.encode("utf-8")  # a lone surrogate could not be printed
    return text


def _metadata(text: bytes, at: int) -> tuple[dict[str, str], int]:
    """The texts by name in the object at ``at``, and the place behind it."""
    found: dict[str, str] = {}
    if text[at : at + 1] != b"{":
        raise ValueError("the header's metadata is not an object")
    at = _skip(text, at + 1)
    if text[at : at + 1] == b"}":
        return found, at + 1
    size = 0
    while True:
        key, at = _key(text, at)
        value = _VALUE.match(text, at)
        if not value:
            raise ValueError(f"the header's metadata {short(key)} is not a text")
        size += value.end() - at + len(key)
        if key in found:
            raise ValueError(f"the header's metadata names {short(key)} twice")
        if size > MAX_METADATA or len(found) >= MAX_TENSORS:
            raise ValueError(f"the header's metadata is larger than {MAX_METADATA:,} bytes")
        found[key] = _text(value[0])
        at = _skip(text, value.end())
        if text[at : at + 1] not in (b",", b"}"):
            raise ValueError(f"the header's metadata is not one JSON object (byte {at})")
        at += 1
        if text[at - 1 : at] == b"}":
            return found, at


def _unique(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    """An object's fields, none of them twice."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError("the header describes a tensor with one field twice")
    return fields


_TENSOR = json.JSONDecoder(object_pairs_hook=_unique)


def _entry(name: str, body: bytes, base: int, file: File) -> Entry:
    """The tensor that the JSON object ``body`` describes; its bytes are counted from ``base``."""
    try:
        told = _TENSOR.decode(body.decode("utf-8"))
    except RecursionError as error:
        raise ValueError(f"the header describes {short(name)} by lists in lists without end") from error
    if not isinstance(told, dict) or told.keys() != _FIELDS:
        raise ValueError(f"the header describes {short(name)} by other than dtype, shape and data_offsets")
    dtype, shape, offsets = told["dtype"], told["shape"], told["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ValueError(f"{short(name)} has the dtype {short(dtype)}, which is not known")
    if not _counts(shape) or len(shape) > MAX_DIMENSIONS or math.prod(max(n, 1) for n in shape) >= 2**60:
        raise ValueError(f"{short(name)} has the shape {short(shape)}, which cannot be")
    if not _counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise ValueError(f"{short(name)} has the offsets {short(offsets)}, which cannot be")
    size = math.prod(shape) * DTYPES[dtype][1]
    if offsets[1] - offsets[0] != size:
        raise ValueError(
            f"{short(name)} of shape {short(shape)} in {dtype} takes {size:,} bytes, "
            f"the header gives it {offsets[1] - offsets[0]:,}"
        )
    return Entry(tuple(shape), dtype, size, file, base + offsets[0])


def _counts(value: object) -> bool:
    """Whether ``value`` is a list of whole numbers from 0 on (true and 1.0 are none)."""
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 2**63 for n in value)


def _check_cover(entries: Mapping[str, Entry], start: int, end: int) -> None:
    """The tensors' bytes must follow each other from ``start`` on and fill the file to its ``end``."""
    at = start
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].bytes)):
        if entry.start != at:
            fault = "overlap others" if entry.start < at else "begin behind a hole"
            raise ValueError(f"the bytes of {short(name)} {fault} (at {entry.start - start:,})")
        at += entry.bytes
    if at != end:
        fault = "it is truncated" if at > end else "the header does not tell of all"
        raise ValueError(
            f"the tensors take {at - start:,} bytes, the file has {end - start:,} for them: {fault}"
        )


def dtype_name(dtype: torch.dtype) -> str | None:
    """How safetensors names ``dtype``; None if it has no name for it."""
    return _NAMES.get(str(dtype))


def short(value: object) -> str:
    """``value`` as it may stand in a sentence."""
    text = repr(value) if not isinstance(value, int) or abs(value) < 2**64 else "a huge number"
    return text if len(text) <= 120 else f"{text[:117]}..."


def make_header(
    tensors: Mapping[str, tuple[torch.dtype, tuple[int, ...]]], metadata: Mapping[str, str]
) -> bytes:
    """The first bytes of a safetensors file, length included, whose tensors' bytes follow in the given order.

    Metadata stands first and everything is padded to 8 bytes with spaces, as safetensors writes it. Raises
    WeightsError for a dtype that the format does not have.
    """
    told: dict[str, object] = {METADATA: dict(metadata)} if metadata else {}
    at = 0
    for name, (dtype, shape) in tensors.items():
        kind = dtype_name(dtype)
        if kind is None:
            raise WeightsError(f"{name} is of {dtype}, which a safetensors file cannot hold")
        end = at + math.prod(shape) * dtype.itemsize
        told[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(told, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
