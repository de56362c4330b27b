"""Adapters as they are asked for: a file and how strongly it acts, written in one word; files found by their names."""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from sfumato.adapters.place import Strength
from sfumato.adapters.read import PEFT_CONFIG
from sfumato.errors import InvalidRequest, UnknownName, WeightsError
from sfumato.weights.source import open_source

File = str | os.PathLike[str]

ENDINGS = (".safetensors", ".pt", ".bin", ".ckpt", ".pth")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


@dataclass(frozen=True, kw_only=True)
class Use:
    """An adapter's file (or PEFT's folder) and how strongly it acts; ``partial`` leaves out what finds no place."""

    path: Path
    strength: Strength = field(default_factory=Strength)
    partial: bool = False

    @property
    def name(self) -> str:
        """What prompts call it: the file's name without its ending."""
        return named(self.path)

    def facts(self, digest: str) -> dict[str, object]:
        """What a recipe says of it; ``digest`` is the file's sha256."""
        own = self.strength
        told: dict[str, object] = {"file": self.path.name, "sha256": digest, "strength": own.value}
        if own.text is not None:
            told["text"] = own.text
        if own.blocks:
            told["blocks"] = dict(own.blocks)
        if not own.always:
            told |= {"lo": own.lo, "hi": own.hi}
        return told | ({"partial": True} if self.partial else {})


def use(text: str) -> Use:
    """What ``FILE[:STRENGTH][:NAME=NUMBER]...`` asks for; names are text, lo, hi, or patterns of blocks.

    ``ink.safetensors:0.8:text=0.5:hi=0.7:denoiser.middle.*=0``. InvalidRequest for what is no number.
    """
    pieces = text.split(":")
    told: dict[str, float] = {}
    while len(pieces) > 1:
        name, equals, value = pieces[-1].rpartition("=")
        if not _NUMBER.fullmatch(value) or (equals and not name):
            break
        if (name or "value") in told:
            raise InvalidRequest(
                f"the adapter {text!r} has two numbers for {name}: leave one out"
                if name
                else f"the adapter {text!r} has two strengths: write one, and that on text encoders as text=NUMBER"
            )
        told[name or "value"] = float(value)
        pieces.pop()
    if len(pieces) > 1 and (bad := pieces[-1]) and "/" not in bad and not bad.endswith(ENDINGS):
        raise InvalidRequest(
            f"{bad!r} of the adapter {text!r} is not understood: write FILE:0.8, and after it text=0.5, lo=0.2, hi=0.7 "
            "or a pattern of blocks such as denoiser.middle.*=0.5"
        )
    own = {name: told.pop(name) for name in ("value", "text", "lo", "hi") if name in told}
    return Use(path=Path(":".join(pieces)), strength=Strength(**own, blocks=dict(reversed(told.items()))))


@dataclass(frozen=True, kw_only=True)
class Given:
    """What a person gives for adapters: files as words (see ``use``), folders to find names in.

    ``merged`` puts adapters into the weights, otherwise they act beside them; ``partial`` leaves out of them
    what finds no place.
    """

    adapters: Sequence[File | Use] = ()
    adapters_in: File | None = None
    embeddings_in: File | None = None
    merged: bool = False
    partial: bool = False
    allow_pickle: bool = False

    def uses(self) -> list[Use]:
        """The adapters; InvalidRequest for one that is not there, not understood, or there twice."""
        read = [each if isinstance(each, Use) else use(os.fspath(each)) for each in self.adapters]
        found = [replace(one, partial=one.partial or self.partial) for one in read]
        for one in found:
            if not os.path.exists(one.path):
                raise InvalidRequest(f"the adapter {one.path} does not exist")
            if self.merged:
                check_merged(one)
        names: dict[str, Use] = {}
        for one in found:
            other = names.setdefault(one.name, one)
            if other is not one and other.path != one.path:
                raise InvalidRequest(
                    f"two adapters are called {one.name!r}, {other.path} and {one.path}: rename one of them"
                )
            if other is not one:
                how = "twice" if other == one else "with two strengths"
                raise InvalidRequest(f"the adapter {one.name!r} is named {how}: give it once")
        for folder in (self.adapters_in, self.embeddings_in):
            if folder is not None and not Path(folder).is_dir():
                raise InvalidRequest(f"the folder {folder} of adapters or embeddings does not exist")
        return found


def check_merged(one: Use) -> None:
    """Refuse an adapter in an interval of levels where adapters are merged."""
    if not one.strength.always:
        raise InvalidRequest(
            f"the adapter {one.name!r} is to be merged, and then acts at every level: leave lo and hi out (interval), "
            "or merged"
        )


def check_target(target: Path, layout: str) -> None:
    """Refuse a name that an adapter in ``layout`` cannot be written to: one that exists, or says another kind."""
    if target.exists():
        raise InvalidRequest(f"{target} exists: give another name")
    if layout == "peft" and target.suffix in ENDINGS:
        raise InvalidRequest(
            f"the name {str(target)!r} is not allowed: the layout 'peft' is a folder, so leave out {target.suffix}"
        )
    if layout in ("kohya", "diffusers") and target.suffix != ".safetensors":
        raise InvalidRequest(
            f"the name {str(target)!r} is not allowed: adapters in the layout {layout!r} are .safetensors files"
        )


def use_of(facts: Mapping[str, object], path: Path) -> Use:
    """What a recipe's ``facts`` ask of the file at ``path``; InvalidRequest if they are none."""
    blocks = facts.get("blocks") or {}
    if not isinstance(blocks, Mapping):
        raise InvalidRequest("the recipe's adapters are not understood: blocks is no table")
    return Use(
        path=path,
        strength=Strength(
            value=_real(facts.get("strength", 1.0)),
            text=None if facts.get("text") is None else _real(facts["text"]),
            blocks={str(name): _real(value) for name, value in blocks.items()},
            lo=_real(facts.get("lo", 0.0)),
            hi=_real(facts.get("hi", 1.0)),
        ),
        partial=bool(facts.get("partial", False)),
    )


def files_told(told: object, name: str) -> list[Mapping[str, object]]:
    """What a recipe tells of its files under ``name``; InvalidRequest if that is no list of objects."""
    found = told or []
    if not isinstance(found, list) or not all(isinstance(one, Mapping) for one in found):
        raise InvalidRequest(f"the recipe's {name} are not understood: they are no list of files")
    return found


def _real(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InvalidRequest(f"the recipe's adapters are not understood: {value!r} is no number")
    return float(value)


def named(path: Path) -> str:
    """The name of a file without its ending; of a folder its own."""
    return path.stem if path.suffix in ENDINGS else path.name


def files_in(folder: Path) -> dict[str, list[Path]]:
    """The files of weights in ``folder`` and below, and PEFT's folders, by name; InvalidRequest if it is no folder."""
    if not folder.is_dir():
        raise InvalidRequest(f"{folder} is not a folder")
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        if path.name == PEFT_CONFIG:
            found.setdefault(path.parent.name, []).append(path.parent)
        elif path.suffix in ENDINGS and path.is_file() and not (path.parent / PEFT_CONFIG).is_file():
            found.setdefault(path.stem, []).append(path)
            below = path.relative_to(folder).with_suffix("").as_posix()
            if "/" in below:
                found.setdefault(below, []).append(path)
    return found


def find(kind: str, name: str, folder: Path) -> Path:
    """The one file called ``name`` in ``folder``; UnknownName if there is none, InvalidRequest if there are several."""
    files = files_in(folder)
    if name not in files:
        raise UnknownName(f"{kind} in {folder}:", name, files)
    several = files[name]
    if len(several) > 1:
        shown = " and ".join(path.relative_to(folder).as_posix() for path in several[:3])
        raise InvalidRequest(f"{kind} {name!r} may be {shown}: write it with its folder")
    return several[0]


def spelled(text: str, folder: Path) -> tuple[Path, ...]:
    """The files of learned words in ``folder`` whose names stand in ``text`` as words, not as parts of one.

    InvalidRequest if several have a name that does. Capital letters do not count.
    """
    names = [
        name
        for name in files_in(folder)
        if re.search(rf"(?<!\w){re.escape(name.lower())}(?!\w)", text.lower())
    ]
    return tuple(find("embedding", name, folder) for name in names)


def called(name: str, folder: str | os.PathLike[str] | None) -> list[Path]:
    """Files that may be the one called ``name`` in a recipe: in ``folder``, or here. A name is no path."""
    if not name or name in (".", "..") or "/" in name or "\\" in name:
        return []
    if folder is None:
        return [Path(name)]
    return [path for paths in files_in(Path(folder)).values() for path in paths if path.name == name]


def digest(path: Path, *, allow_pickle: bool = False) -> str:
    """The sha256 of an adapter: of its file, and of PEFT's settings where these belong to it."""
    with open_source(path, allow_pickle=allow_pickle) as source:
        own = source.hash()
    folder = path if path.is_dir() else path.parent
    config = folder / PEFT_CONFIG
    if not config.is_file() or not (path.is_dir() or path.name.startswith("adapter_model")):
        return own
    try:
        beside = hashlib.sha256(config.read_bytes()).hexdigest()
    except OSError as error:
        raise WeightsError(f"cannot read {config}: {error}") from error
    return hashlib.sha256(f"{own} {beside}".encode()).hexdigest()


def by_hash(
    facts: Mapping[str, object], given: Iterable[Path], made: str, how: str, *, allow_pickle: bool = False
) -> Path:
    """The file among ``given`` that a recipe's ``facts`` mean, by its hash.

    InvalidRequest if none is there (``how`` says how to give it), or one of its name is another; ``made`` is what was
    made with it. WeightsError where a file of pickles comes in question without ``allow_pickle``.
    """
    name, wanted = str(facts.get("file", "")), str(facts.get("sha256", ""))
    other = None
    for path in given:
        if not os.path.exists(path):  # Path.exists raises for names that no system has
            continue
        found = digest(path, allow_pickle=allow_pickle)
        if found == wanted:
            return path
        if path.name == name:
            other = f"{path} is not the file that {made} was made with: its hash is {found[:12]}..."
    told = other or f"{made} was made with {name}, which was not found"
    raise InvalidRequest(f"{told}; the recipe has {wanted[:12]}...: {how}")
