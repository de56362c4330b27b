"""The header of a GGUF file, checked hard: which tensors it holds, how they are packed, and where.

A file is the magic ``GGUF``, a version, the numbers of tensors and of settings, the settings (typed values by name),
for each tensor its name, sides (the innermost first), type and offset, and behind padding the tensors' bytes, each at
a multiple of the alignment. All numbers are little-endian. Everything is compared with the file's own size before it
is used, and nothing is mapped. Format: version 3 of https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.

Networks for pictures keep their authors' names (the layout ``original``). T5 has llama.cpp's names, which are turned
into transformers'. A kernel that was flattened to be packed gets the shape back that the setting
``comfy.gguf.orig_shape.<name>`` tells.
"""

from __future__ import annotations

import math
import os
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from sfumato.errors import WeightsError
from sfumato.weights.header import (
    DTYPES,
    MAX_HEADER,
    MAX_METADATA,
    MAX_NAME,
    MAX_TENSORS,
    Entry,
    File,
    Header,
    short,
)

GGUF = (".gguf",)
MAX_ITEMS = 4_000_000  # texts in lists: the vocabularies of language models have some 250,000
MAX_SIDES = 8
MAX_ALIGNMENT = 2**20
ORIGINAL_SHAPE = "comfy.gguf.orig_shape."

_TYPES = (
    "F32 F16 Q4_0 Q4_1 - - Q5_0 Q5_1 Q8_0 - Q2_K Q3_K Q4_K Q5_K Q6_K - IQ2_XXS IQ2_XS IQ3_XXS IQ1_S IQ4_NL IQ3_S IQ2_S "
    "IQ4_XS I8 I16 I32 I64 F64 IQ1_M BF16 - - - TQ1_0 TQ2_0 - - - MXFP4"
)
TYPES = {number: name for number, name in enumerate(_TYPES.split()) if name != "-"}
"""The names of ggml's types by number; those that no file holds (Q8_1, Q8_K) are not read."""

_BLOCKS = {
    32: {"Q4_0": 18, "Q4_1": 20, "Q5_0": 22, "Q5_1": 24, "Q8_0": 34, "IQ4_NL": 18, "MXFP4": 17},
    256: {"Q2_K": 84, "Q3_K": 110, "Q4_K": 144, "Q5_K": 176, "Q6_K": 210, "TQ1_0": 54, "TQ2_0": 66}
    | {
        "IQ1_S": 50,
        "IQ1_M": 56,
        "IQ2_XXS": 66,
        "IQ2_XS": 74,
        "IQ2_S": 82,
        "IQ3_XXS": 98,
        "IQ3_S": 110,
        "IQ4_XS": 136,
    },
}
BLOCKS = {name: (values, size) for values, sizes in _BLOCKS.items() for name, size in sizes.items()}
"""Values and bytes of a block of each packed type."""

# Types of settings: the struct letter of those of fixed size, by number.
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}
_TEXT, _LIST = 8, 9

_T5 = {
    "attn_norm": "layer.0.layer_norm",
    "attn_q": "layer.0.SelfAttention.q",
    "attn_k": "layer.0.SelfAttention.k",
    "attn_v": "layer.0.SelfAttention.v",
    "attn_o": "layer.0.SelfAttention.o",
    "attn_rel_b": "layer.0.SelfAttention.relative_attention_bias",
    "ffn_norm": "layer.1.layer_norm",
    "ffn_gate": "layer.1.DenseReluDense.wi_0",
    "ffn_up": "layer.1.DenseReluDense.wi_1",
    "ffn_down": "layer.1.DenseReluDense.wo",
}
_T5_ENDS = {"token_embd": "shared", "enc.output_norm": "encoder.final_layer_norm", "output": "lm_head"}
_T5_BLOCK = re.compile(r"^enc\.blk\.(\d+)\.(\w+)\.weight$")


def t5_name(name: str) -> str:
    """What transformers calls the tensor that llama.cpp calls ``name``, of a T5; the decoder's under ``decoder.``."""
    if found := _T5_BLOCK.match(name):
        if found[2] in _T5:
            return f"encoder.block.{found[1]}.{_T5[found[2]]}.weight"
    elif name.removesuffix(".weight") in _T5_ENDS:
        return f"{_T5_ENDS[name.removesuffix('.weight')]}.weight"
    elif name.startswith("dec."):
        return f"decoder.{name.removeprefix('dec.')}"
    return name


def read_gguf(path: Path) -> Header:
    """The header of the GGUF file ``path``; no tensor is read.

    Settings become texts, lists among them are left out. Raises WeightsError, in one sentence that names the file,
    unless all of it is right: version, counts, unique names, known types, whole blocks in every row, aligned offsets,
    and bytes that lie in the file and cover it with no hole but padding.
    """
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            return _Reading(file, File(path, status.st_size, status.st_mtime_ns)).header()
    except OSError as error:
        raise WeightsError(f"cannot read the weights {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise WeightsError(f"the weights {path} are damaged: {error}") from error


class _Reading:
    """A header as it is read; every method raises ValueError that says what is wrong."""

    def __init__(self, handle: BinaryIO, file: File) -> None:
        self.handle, self.file = handle, file
        self.left = min(file.size, MAX_HEADER)
        self.items = 0
        self.shapes: dict[str, tuple[int, ...]] = {}

    def header(self) -> Header:
        if self.take(4) != b"GGUF":
            raise ValueError("it does not begin with GGUF, as such a file does")
        (version,) = self.unpack("I")
        if version not in (2, 3):
            more = " (its numbers are big-endian)" if version and not version & 0xFFFF else ""
            raise ValueError(f"it is of version {version}{more}; versions 2 and 3 are read")
        tensors, settings = self.unpack("QQ")
        for what, count in (("tensors", tensors), ("settings", settings)):
            if count > MAX_TENSORS:
                raise ValueError(
                    f"it would hold {short(count)} {what}, more than the {MAX_TENSORS:,} allowed"
                )
        metadata = self.settings(settings)
        told = metadata.get("general.alignment", "32")
        alignment = int(told) if told.isdecimal() else 0
        if not 0 < alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
            raise ValueError(f"its alignment would be {short(told)}")
        described = [self.tensor() for _ in range(tensors)]
        start = -(-self.handle.tell() // alignment) * alignment
        entries: dict[str, Entry] = {}
        for name, sides, kind, offset in described:
            if name in entries:
                raise ValueError(f"it names {short(name)} twice")
            entries[name] = self.entry(name, sides, kind, start + offset)
        _check_cover(entries, start, self.file.size, alignment)
        if metadata.get("general.architecture") in ("t5", "t5encoder"):
            return Header(_renamed(entries), metadata)
        return Header(entries, metadata)

    def take(self, count: int) -> bytes:
        """The next ``count`` bytes."""
        if count > self.left:
            raise ValueError(
                f"its header does not end within the file, or within {MAX_HEADER:,} bytes: truncated?"
            )
        self.left -= count
        data = self.handle.read(count)
        if len(data) < count:
            raise ValueError("the file ends within its header")
        return data

    def unpack(self, letters: str) -> tuple[int, ...]:
        """The next numbers, of the types ``letters``."""
        return struct.unpack(f"<{letters}", self.take(struct.calcsize(f"<{letters}")))

    def text(self, most: int) -> str:
        """The next text, of at most ``most`` bytes."""
        (length,) = self.unpack("Q")
        if length > most:
            raise ValueError(f"a text in its header would be {short(length)} bytes long, more than {most:,}")
        return self.take(length).decode("utf-8")

    def name(self) -> str:
        name = self.text(MAX_NAME)
        if not name or not name.isprintable():
            raise ValueError(f"the name {short(name)} is empty or has characters that cannot be printed")
        return name

    def settings(self, count: int) -> dict[str, str]:
        """The settings as texts; the shapes among them are kept apart."""
        found: dict[str, str] = {}
        names: set[str] = set()
        size = 0
        for _ in range(count):
            name = self.name()
            if name in names:
                raise ValueError(f"it names the setting {short(name)} twice")
            names.add(name)
            (kind,) = self.unpack("I")
            if kind == _LIST and name.startswith(ORIGINAL_SHAPE):
                self.shapes[name.removeprefix(ORIGINAL_SHAPE)] = self.shape(name)
            elif kind == _LIST:
                self.skip_list(0)
            else:
                found[name] = self.value(name, kind)
                size += len(name) + len(found[name])
            if size > MAX_METADATA:
                raise ValueError(f"its settings are larger than {MAX_METADATA:,} bytes")
        return found

    def value(self, name: str, kind: int) -> str:
        """The setting that follows, as a text."""
        if kind == _TEXT:
            return self.text(MAX_METADATA)
        if kind not in _SCALARS:
            raise ValueError(f"the setting {short(name)} is of the type {kind}, which is not known")
        (number,) = self.unpack(_SCALARS[kind])
        return str(bool(number)).lower() if kind == 7 else str(number)

    def shape(self, name: str) -> tuple[int, ...]:
        """A list of sides."""
        kind, count = self.unpack("IQ")
        if kind not in (4, 5, 10, 11) or count > MAX_SIDES:
            raise ValueError(f"the setting {short(name)} is no shape")
        sides = self.unpack(_SCALARS[kind] * count)
        if any(side < 0 for side in sides):
            raise ValueError(f"the setting {short(name)} has the shape {short(sides)}, which cannot be")
        return sides

    def skip_list(self, depth: int) -> None:
        """Pass over a list."""
        kind, count = self.unpack("IQ")
        if kind in _SCALARS:
            size = count * struct.calcsize(f"<{_SCALARS[kind]}")
            if size > self.left:
                raise ValueError(f"a list in its header would be {short(size)} bytes long: truncated?")
            self.left -= size
            self.handle.seek(size, os.SEEK_CUR)
            return
        if kind not in (_TEXT, _LIST) or depth > 3:
            raise ValueError(
                "its header has a list of things that are not known, or lists in lists without end"
            )
        self.items += count
        if self.items > MAX_ITEMS:
            raise ValueError(f"the lists in its header are longer than {MAX_ITEMS:,}")
        for _ in range(count):
            if kind == _TEXT:
                (length,) = self.unpack("Q")
                self.take(length)
            else:
                self.skip_list(depth + 1)

    def tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        """The next tensor's name, shape (the outermost side first), type and offset."""
        name = self.name()
        (count,) = self.unpack("I")
        if count > MAX_SIDES:
            raise ValueError(f"{short(name)} would have {count:,} dimensions")
        sides = self.unpack("Q" * count)[::-1]
        kind, offset = self.unpack("IQ")
        return name, sides, kind, offset

    def entry(self, name: str, sides: tuple[int, ...], kind: int, start: int) -> Entry:
        """The tensor as it lies in the file."""
        if kind not in TYPES:
            raise ValueError(f"{short(name)} is of the type {kind}, which is not known")
        dtype = TYPES[kind]
        values, size = BLOCKS[dtype] if dtype in BLOCKS else (1, DTYPES[dtype][1])
        total = math.prod(sides)
        if math.prod(max(side, 1) for side in sides) >= 2**60:
            raise ValueError(f"{short(name)} has the shape {short(sides)}, which cannot be")
        if (sides[-1] if sides else 1) % values:
            raise ValueError(
                f"{short(name)} has rows of {sides[-1] if sides else 1}, no whole blocks of {values} ({dtype})"
            )
        shape = self.shapes.get(name, sides)
        if math.prod(shape) != total:
            raise ValueError(
                f"{short(name)} of shape {short(sides)} cannot have had the shape {short(shape)}"
            )
        return Entry(shape, dtype, total // values * size, self.file, start)


def _check_cover(entries: Mapping[str, Entry], start: int, end: int, alignment: int) -> None:
    """The tensors' bytes must follow each other with padding alone between, and end with the file."""
    at = stop = start
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].bytes)):
        if entry.start != at:
            fault = "overlap others" if entry.start < at else "begin behind a hole"
            raise ValueError(f"the bytes of {short(name)} {fault} (at {short(entry.start - start)})")
        stop = at + entry.bytes
        at = -(-stop // alignment) * alignment
    if entries and not stop <= end <= at:
        fault = "it is truncated" if stop > end else "its header does not tell of all"
        raise ValueError(f"the tensors end at byte {short(stop)}, the file at {end:,}: {fault}")


def _renamed(entries: Mapping[str, Entry]) -> dict[str, Entry]:
    """The tensors of a T5 by transformers' names."""
    renamed = {t5_name(name): entry for name, entry in entries.items()}
    if len(renamed) < len(entries):
        raise ValueError("two of its tensors are the same one of a T5")
    return renamed
