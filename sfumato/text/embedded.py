"""Prompts that text encoders have read already: files of what they made of each, to be used without the encoders.

A file is plain safetensors whose tensors have the names of the arguments that diffusers' pipelines take
(``prompt_embeds``, ``pooled_prompt_embeds``, ``prompt_attention_mask``, and ``negative_`` before them); a second prompt
has ``1.`` before its names, and so on. The header of our own says which text each is, by which encoders; files without
it, of other programs, hold one prompt, which is called as the file is.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sfumato.errors import InvalidRequest, WeightsError
from sfumato.weights.header import Entry, read_header, short
from sfumato.weights.reading import read_into
from sfumato.weights.save import save_tensors
from sfumato.weights.source import sha256

MARK = "sfumato.embedded"
"""The name in the header of what our files say of themselves."""
DOORS = {"tokens": "prompt_embeds", "vector": "pooled_prompt_embeds", "mask": "prompt_attention_mask"}
"""What diffusers calls the tensor at each door."""
AXES = {"tokens": 3, "vector": 2, "mask": 2}
UNREAD = ("text_ids", "negative_text_ids")
"""Tensors that other programs put beside these and that say nothing: positions of text, all of them zero."""
ASKED = (
    "prompt",
    "negative",
    "dialect",
    "clip_skip",
    "padding",
    *(f"{n}_{i}" for n in ("prompt", "negative") for i in (2, 3)),
)
"""The fields of a task that a file may fill in."""
MOST_TOKENS = 65_536
WIDEST = 1_048_576
_SHOWN = 5  # prompts that an error names


@dataclass(frozen=True, kw_only=True, eq=False)
class States:
    """What text encoders made of one prompt: ``tokens`` (1, L, D), their ``mask`` (1, L), a ``vector`` (1, P).

    ``name`` is what errors call it, ``family`` of which models it is, and as which of them it was read (``reads``: a
    variant of a family may read more tokens than another), both empty if the file does not say.
    """

    name: str
    tokens: Tensor
    mask: Tensor | None = None
    vector: Tensor | None = None
    family: str = ""
    reads: str = ""


@dataclass(frozen=True, kw_only=True)
class Made:
    """A prompt to be written: ``wording`` is all that encoders were told (condition.Prompt.wording)."""

    wording: str
    negative: bool
    doors: Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True, eq=False)
class Embedded:
    """An open file of embedded prompts; equal where all bytes are.

    ``hash`` is the sha256 of the file. ``rows`` maps a prompt's wording to the file's names of its tensors by door.
    ``asked`` are the fields of the requests that it was written for; ``encoders`` the sha256 of each encoder's files.
    """

    path: Path
    hash: str
    entries: Mapping[str, Entry] = field(repr=False)
    rows: Mapping[str, Mapping[str, str]] = field(repr=False)
    asked: tuple[Mapping[str, Any], ...] = ()
    family: str = ""
    reads: str = ""
    encoders: Mapping[str, str] = field(default_factory=dict)

    def __eq__(self, other: object) -> bool:
        """Whether the other is a file of the same bytes."""
        return isinstance(other, Embedded) and self.hash == other.hash

    def __hash__(self) -> int:
        """By its bytes."""
        return hash(self.hash)

    def has(self, wording: str) -> bool:
        """Whether the prompt of that ``wording`` is there."""
        return wording in self.rows

    def find(self, wording: str) -> States:
        """What encoders made of the prompt of ``wording``.

        InvalidRequest names the prompts that are there if this one is not; WeightsError for values that are not finite.
        """
        if wording not in self.rows:
            raise InvalidRequest(self.lacks(wording))
        doors: dict[str, Tensor] = {}
        for door, name in self.rows[wording].items():
            entry = self.entries[name]
            value = torch.empty(entry.shape, dtype=entry.torch_dtype)
            read_into(name, entry, value, finite=True)
            doors[door] = value if value.ndim == AXES[door] else value[None]
        if "mask" in doors:
            mask = doors["mask"]
            if not bool(((mask == 0) | (mask == 1)).all()):
                raise WeightsError(f"{self.rows[wording]['mask']} of {self.path} has values beside 0 and 1")
            doors["mask"] = mask.bool()
        return States(
            name=f"{said(wording)} of {self.path.name}", family=self.family, reads=self.reads, **doors
        )

    def lacks(self, wording: str) -> str:
        """The sentence that the prompt of ``wording`` is not there."""
        there = [said(one) for one in self.rows]
        more = f" and {len(there) - _SHOWN} more" if len(there) > _SHOWN else ""
        return (
            f"{said(wording)} is not among the embedded prompts of {self.path}, which holds "
            f"{', '.join(there[:_SHOWN])}{more}: ask for one of them, in its dialect, or write a file with `sfumato "
            "embed`"
        )


def said(wording: str) -> str:
    """What a person calls the prompt of ``wording``."""
    told = json.loads(wording)
    if told["absent"]:
        return "the negative prompt that is left out"
    marks = [told["dialect"]] if told.get("dialect", "plain") != "plain" else []
    marks += [f"clip_skip {told['skip']}"] if told.get("skip") else []
    marks += [f"padding {told['padding']}"] if told.get("padding") else []
    marks += ["other encoders' texts"] if told.get("apart") else []
    more = f" ({', '.join(map(str, marks))})" if marks else ""
    return f"the {'negative ' if told['negative'] else ''}prompt {short(told['text'])}{more}"


def wording(text: str, *, negative: bool = False, absent: bool = False, **more: Any) -> str:
    """One text for all that encoders are told of a prompt; ``more`` is what a plain prompt does not have."""
    told = {"text": text, "negative": negative, "absent": absent, **more}
    return json.dumps(told, sort_keys=True, ensure_ascii=False)


def write_embedded(
    path: str | os.PathLike[str],
    rows: Sequence[Made],
    *,
    family: str,
    reads: str = "",
    encoders: Mapping[str, str],
    asked: Sequence[Mapping[str, Any]],
    more: Mapping[str, Any] | None = None,
) -> Path:
    """Write ``rows`` to the safetensors file ``path``, whole or not at all; one that comes twice is written once.

    The first prompt and the first negative one have diffusers' own names. ``more`` is kept in the header as it is.
    OutputError if it cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    places: dict[str, str] = {}
    counts = {True: 0, False: 0}
    for row in rows:
        if row.wording in places:
            continue
        number = counts[row.negative]
        counts[row.negative] += 1
        places[row.wording] = begin = _begin(number, row.negative)
        tensors |= {begin + DOORS[door]: value.cpu() for door, value in row.doors.items()}
    told = {
        "version": 1,
        "family": family,
        "reads": reads,
        "encoders": dict(encoders),
        "asked": [dict(one) for one in asked],
        "rows": [{"wording": one, "at": begin} for one, begin in places.items()],
        **(more or {}),
    }
    return save_tensors(Path(path), tensors, metadata={MARK: json.dumps(told, ensure_ascii=False)})


def _begin(number: int, negative: bool) -> str:
    """What stands before the names of a prompt's tensors."""
    return (f"{number}." if number else "") + ("negative_" if negative else "")


def open_embedded(path: str | os.PathLike[str]) -> Embedded:
    """The file of embedded prompts at ``path``, ours or one with diffusers' names; no values are read yet.

    WeightsError, in one sentence, for what is damaged, of another kind, or of shapes that no prompt has.
    """
    place = Path(path)
    if not place.name.endswith(".safetensors"):
        raise WeightsError(f"embedded prompts are read from .safetensors files, and {place} is none")
    header = read_header(place)
    text = header.metadata.get(MARK)
    facts = _foreign(place, header.entries, header.metadata) if text is None else _own(place, text)
    rows: dict[str, Mapping[str, str]] = {}
    for one, begin in facts["rows"]:
        named = {door: begin + name for door, name in DOORS.items() if begin + name in header.entries}
        if "tokens" not in named:
            raise WeightsError(f"{place} has no tensor {begin + DOORS['tokens']!r} for {said(one)}")
        _check(place, {door: (name, header.entries[name]) for door, name in named.items()})
        rows[one] = named
    used = {name for named in rows.values() for name in named.values()}
    if left := [name for name in header.entries if name not in used and name not in UNREAD]:
        raise WeightsError(
            f"{place} has {len(left)} tensors that are no embedded prompts: {', '.join(map(short, left[:_SHOWN]))}; "
            f"read are {', '.join(DOORS.values())}, and the same with negative_ before"
        )
    return Embedded(
        path=place,
        hash=sha256(place),
        entries=header.entries,
        rows=rows,
        asked=tuple(facts["asked"]),
        family=facts["family"],
        reads=facts["reads"],
        encoders=facts["encoders"],
    )


def _foreign(path: Path, entries: Mapping[str, Entry], metadata: Mapping[str, str]) -> dict[str, Any]:
    """What is known of a file of another program: one prompt, called as the header says, or else as the file is."""
    if DOORS["tokens"] not in entries:
        raise WeightsError(
            f"{path} holds no embedded prompts: it has no tensor {DOORS['tokens']!r}, as `sfumato embed` and "
            f"diffusers call them, but {', '.join(map(short, list(entries)[:_SHOWN])) or 'nothing'}"
        )
    text = metadata.get("prompt") or path.name.removesuffix(".safetensors")
    rows = [(wording(text), "")]
    if "negative_" + DOORS["tokens"] in entries:
        rows.append((wording("", negative=True, absent=True), "negative_"))
    return {"rows": rows, "asked": [{"prompt": text}], "family": "", "reads": "", "encoders": {}}


def _own(path: Path, text: str) -> dict[str, Any]:
    """What our header ``text`` says, checked."""
    try:
        told = json.loads(text)
        if told["version"] != 1:
            raise ValueError(f"version {short(str(told['version']))} is not known")
        rows = [(_wording(row["wording"]), _text(row["at"])) for row in told["rows"]]
        asked = [
            {_field(name): int(value) if name == "clip_skip" else _text(value) for name, value in one.items()}
            for one in told["asked"]
        ]
        encoders = {_text(place): _text(value) for place, value in told["encoders"].items()}
        names = {"family": _text(told["family"]), "reads": _text(told.get("reads", ""))}
        return {"rows": rows, "asked": asked, **names, "encoders": encoders}
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise WeightsError(
            f"what {path} says of its embedded prompts is not understood: {error!r:.200}"
        ) from None


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("a text is none")
    return value


def _field(name: str) -> str:
    if name not in ASKED:
        raise ValueError(f"the field {short(name)} is none of a prompt's")
    return name


def _wording(text: object) -> str:
    """``text`` if it is a wording, in the form in which wordings are compared."""
    told = json.loads(_text(text))
    again = wording(
        _text(told.pop("text")), negative=bool(told.pop("negative")), absent=bool(told.pop("absent")), **told
    )
    if again != text:
        raise ValueError("a wording is in another form")
    return again


def _check(path: Path, doors: Mapping[str, tuple[str, Entry]]) -> None:
    """Refuse shapes and dtypes that no prompt's tensors have."""
    length = 0
    for door, (name, entry) in doors.items():
        shape = tuple(entry.shape)
        full = shape if len(shape) == AXES[door] else (1, *shape)
        many = door != "mask" and not entry.torch_dtype.is_floating_point
        sizes = dict(
            zip(("rows", "length", "width") if door == "tokens" else ("rows", "width"), full, strict=False)
        )
        if len(full) != AXES[door] or full[0] != 1 or many or entry.quantized or entry.torch_dtype.is_complex:
            raise WeightsError(
                f"{name} of {path} has the shape {shape} and dtype {entry.dtype}: an embedded prompt is "
                f"{'(1, L, D)' if door == 'tokens' else '(1, D)' if door == 'vector' else '(1, L)'}"
                f"{'' if door == 'mask' else ', of floating-point numbers'}"
            )
        if not 1 <= sizes["width"] <= WIDEST or not 1 <= sizes.get("length", 1) <= MOST_TOKENS:
            raise WeightsError(f"{name} of {path} has the shape {shape}, which no text encoder makes")
        length = full[1] if door == "tokens" else length
    if "mask" in doors and doors["mask"][1].shape[-1] != length:
        raise WeightsError(
            f"{doors['mask'][0]} of {path} is for {doors['mask'][1].shape[-1]} tokens, and there are {length}"
        )
