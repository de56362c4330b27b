"""A checkpoint as people have it, opened: names of tensors with shape and dtype, and each tensor when asked for.

``open_source`` takes a single file, an index of shards, a folder of one network, or a whole diffusers folder, whose
components become prefixes (``unet.conv_in.weight``) and parts (``source.part("unet")``). Only headers are read, and
torch is imported when the first tensor is, so that a command can look at files at once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

from sfumato.errors import WeightsError
from sfumato.weights.folder import MODEL_INDEX, PICKLED, SAFE, Choice, choose, inside, read_index, read_json
from sfumato.weights.gguf import GGUF, read_gguf
from sfumato.weights.header import MAX_TENSORS, Entry, File, read_header, short
from sfumato.weights.scaled import folded

if TYPE_CHECKING:
    import torch
    from torch import Tensor

WRAPPER = "state_dict."
MAX_PARTS = 64  # components of a diffusers folder
CONFIGS = ("config.json", "scheduler_config.json")


@dataclass(frozen=True)
class Source:
    """Tensors by name, where they came from, and what is told beside them.

    ``metadata`` are the texts of the files' headers, ``config`` is a component's ``config.json`` (empty if it has
    none; of a whole folder: ``model_index.json``), ``parts`` are a whole folder's components by name. ``notes`` say
    what of the files is not used. ``close`` removes the temporary copy that a pickled file was read through; other
    sources keep nothing open.
    """

    path: Path
    entries: Mapping[str, Entry]
    metadata: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, object] = field(default_factory=dict)
    parts: Mapping[str, Source] = field(default_factory=dict)
    closing: tuple[Callable[[], object], ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that hold the tensors, sorted."""
        return tuple(sorted({entry.file.path for entry in self.entries.values()}))

    @property
    def quantized(self) -> bool:
        """Whether a tensor is stored in fewer bits than its values are computed in, or with a scale."""
        return any(entry.quantized or entry.dtype.startswith("F8_") for entry in self.entries.values())

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every tensor, by name."""
        return {name: entry.shape for name, entry in self.entries.items()}

    def __getitem__(self, name: str) -> Entry:
        """The entry of the tensor ``name``; WeightsError if there is none."""
        try:
            return self.entries[name]
        except KeyError:
            raise WeightsError(f"{self.path} has no tensor {name!r}") from None

    def read(self, name: str, dtype: torch.dtype | None = None) -> Tensor:
        """The tensor ``name``, newly allocated, in ``dtype`` (by default as stored, float32 if it is packed)."""
        import torch

        from sfumato.weights.reading import read_into

        entry = self[name]
        out = torch.empty(entry.shape, dtype=dtype or entry.torch_dtype)
        read_into(name, entry, out)
        return out

    def read_into(self, name: str, out: Tensor, *, first: int = 0, finite: bool = False) -> None:
        """Fill ``out`` with values of ``name`` from its value ``first`` on; see ``reading.read_into``."""
        from sfumato.weights.reading import read_into

        read_into(name, self[name], out, first=first, finite=finite)

    def part(self, name: str) -> Source:
        """The component ``name`` of a whole folder; WeightsError names those that it has."""
        try:
            return self.parts[name]
        except KeyError:
            has = ", ".join(self.parts) or "none"
            raise WeightsError(f"{self.path} has no component {name!r}; it has: {has}") from None

    def under(self, prefix: str) -> Source:
        """The tensors whose names begin with ``prefix``, under their names without it."""
        found = {k.removeprefix(prefix): e for k, e in self.entries.items() if k.startswith(prefix)}
        return replace(self, entries=found, parts={})

    def hash(self) -> str:
        """The sha256 of the file; of several files, that of the lines ``<sha256>  <name in the folder>``.

        WeightsError if a file is gone, or was changed since it was opened.
        """
        files = self.files
        for file in {entry.file.path: entry.file for entry in self.entries.values()}.values():
            check_unchanged(file)
        if len(files) == 1:
            return sha256(files[0])
        lines = [f"{sha256(file)}  {_relative(file, self.path)}\n" for file in files]
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def close(self) -> None:
        """Remove what opening made; the source cannot be read afterwards."""
        for action in self.closing:
            action()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *what: object) -> None:
        self.close()


def open_source(path: str | Path, *, variant: str | None = None, allow_pickle: bool = False) -> Source:
    """Open the weights at ``path``: a file, an index of shards, a component's folder, a whole diffusers folder.

    ``variant`` ("fp16") picks among the sets of a folder. A pickled file is opened only with ``allow_pickle``, and
    then read in a process of its own (``pickled.unpickle``). Packed tensors (GGUF, 8-bit floats with scales) have the
    names and shapes of their values. Raises WeightsError that says what was looked for.
    """
    return _folded(_open(path, variant, allow_pickle))


def _open(path: str | Path, variant: str | None, allow_pickle: bool) -> Source:
    """The source at ``path`` with its tensors as the files name them."""
    place = Path(path)
    try:
        if place.is_dir():
            return _open_folder(place, variant, allow_pickle)
        if not place.is_file():
            raise WeightsError(
                f"there are no weights at {place}: neither a file nor a folder (wanted: {', '.join((*SAFE, *GGUF))}, "
                "an index of shards, or a folder as diffusers and transformers write them)"
            )
    except (OSError, ValueError) as error:
        raise WeightsError(f"cannot look at {str(place)!r}: {error}") from error
    if place.name.endswith(".json"):
        return _open_choice(place, read_index(place), allow_pickle)
    return _open_file(place, allow_pickle)


def _folded(source: Source) -> Source:
    """``source`` with scales in the entries of what they scale, in its parts too."""
    parts = {name: _folded(part) for name, part in source.parts.items()}
    entries, notes = folded(source.entries)
    return replace(source, entries=entries, parts=parts, notes=notes)


def join(parts: Mapping[str, Source], path: Path | None = None) -> Source:
    """One source of several: the tensors of each under its name and a dot (the name "" gives no prefix).

    For files that were published apart (``{"transformer": ..., "vae": ...}``). ``parts`` stay reachable by name.
    Raises WeightsError if two hold a tensor of one name.
    """
    entries: dict[str, Entry] = {}
    metadata: dict[str, str] = {}
    for name, part in parts.items():
        dotted = {f"{name}.{key}" if name else key: entry for key, entry in part.entries.items()}
        if twice := sorted(entries.keys() & dotted.keys()):
            raise WeightsError(
                f"{part.path} has tensors that another file has too: {', '.join(map(short, twice[:5]))}"
            )
        entries |= dotted
        metadata = {**part.metadata, **metadata}
    first = path or next((part.path for part in parts.values()), Path())
    closing = tuple(action for part in parts.values() for action in part.closing)
    notes = tuple(dict.fromkeys(note for part in parts.values() for note in part.notes))
    return Source(first, entries, metadata, parts=dict(parts), closing=closing, notes=notes)


def sha256(path: Path) -> str:
    """The sha256 of the file at ``path``, in hexadecimal digits."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise WeightsError(f"cannot read the weights {path}: {error.strerror or error}") from error


def check_unchanged(file: File) -> None:
    """Raise WeightsError if ``file`` is not what it was when its header was read."""
    try:
        status = file.path.stat()
    except OSError as error:
        raise WeightsError(f"cannot read the weights {file.path}: {error.strerror or error}") from error
    if (status.st_size, status.st_mtime_ns) != (file.size, file.changed):
        raise WeightsError(f"the weights {file.path} were changed since they were opened")


def _open_file(path: Path, allow_pickle: bool) -> Source:
    """The source of one file, by its name's ending."""
    if path.name.endswith(PICKLED):
        from sfumato.weights.pickled import unpickle

        copy = unpickle(path, allow=allow_pickle)
        source = _open_file(copy.path, False)
        return replace(source, path=path, closing=(copy.close,))
    if not path.name.endswith((*SAFE, *GGUF)):
        raise WeightsError(
            f"{path} does not end in {', '.join((*SAFE, *GGUF))} (or, with permission, {', '.join(PICKLED)}); "
            "other formats are not read"
        )
    header = read_gguf(path) if path.name.endswith(GGUF) else read_header(path)
    return Source(path, _unwrapped(header.entries), header.metadata)


def _unwrapped(entries: Mapping[str, Entry]) -> Mapping[str, Entry]:
    """``entries`` without a ``state_dict.`` that stands before every name."""
    if entries and all(name.startswith(WRAPPER) for name in entries):
        return {name.removeprefix(WRAPPER): entry for name, entry in entries.items()}
    return entries


def _open_choice(path: Path, choice: Choice, allow_pickle: bool) -> Source:
    """The source of one set of files; with an index, what it says must be what its files hold."""
    opened: dict[Path, Source] = {}
    for file in choice.files:
        opened[file] = _open_file(file, allow_pickle)
        if sum(len(source.entries) for source in opened.values()) > MAX_TENSORS:
            raise WeightsError(f"{path} holds more than {MAX_TENSORS:,} tensors")
    if len(opened) == 1 and choice.where is None:
        return replace(next(iter(opened.values())), path=path)
    source = join({f"{number}": part for number, part in enumerate(opened.values())}, path)
    entries = _merged(path, opened.values()) if choice.where is None else _indexed(path, choice, opened)
    return replace(source, entries=entries, parts={})


def _merged(path: Path, sources: Iterable[Source]) -> Mapping[str, Entry]:
    """The tensors of shards without an index; none may be in two."""
    entries: dict[str, Entry] = {}
    for source in sources:
        if twice := sorted(entries.keys() & source.entries.keys()):
            raise WeightsError(
                f"two shards of {path} hold the same tensors: {', '.join(map(short, twice[:5]))}"
            )
        entries |= source.entries
    return entries


def _indexed(path: Path, choice: Choice, opened: Mapping[Path, Source]) -> Mapping[str, Entry]:
    """The tensors that the index names, from the files it names, which must hold these and no others."""
    where = choice.where or {}
    missing = [name for name, file in where.items() if name not in opened[file].entries]
    extra = [k for file, source in opened.items() for k in source.entries if where.get(k) != file]
    if missing or extra:
        told = [f"not in their shard: {', '.join(map(short, missing[:10]))}"] if missing else []
        told += [f"not in the index: {', '.join(map(short, extra[:10]))}"] if extra else []
        raise WeightsError(f"the index in {path} and its shards do not agree; {'; '.join(told)}")
    return {name: opened[file].entries[name] for name, file in where.items()}


def _open_folder(folder: Path, variant: str | None, allow_pickle: bool) -> Source:
    """The source of a folder: whole if it has a ``model_index.json``, else one component."""
    if not (folder / MODEL_INDEX).is_file():
        source = _open_component(folder, variant, allow_pickle)
        if not source.entries:
            raise WeightsError(
                f"there are no weights in {folder}: wanted {MODEL_INDEX}, or files that end in "
                f"{', '.join(SAFE)} (or an index of them)"
            )
        return source
    index = read_json(inside(folder, MODEL_INDEX))
    names = [k for k, told in index.items() if not k.startswith("_") and isinstance(told, list) and any(told)]
    if len(names) > MAX_PARTS:
        raise WeightsError(f"{folder / MODEL_INDEX} names more than {MAX_PARTS} components")
    places = {name: inside(folder, name) for name in names}
    parts = {n: _open_component(p, variant, allow_pickle) for n, p in places.items() if p.is_dir()}
    for name in names:  # some of the first folders (DDPM's) keep components beside the index
        if name not in parts and (found := _beside(folder, index[name], variant, allow_pickle)):
            parts[name] = found
    return replace(join(parts, folder), config=index)


def _beside(folder: Path, told: object, variant: str | None, allow_pickle: bool) -> Source | None:
    """The component whose settings, of the class ``told`` (library, class), lie in ``folder`` itself; None without."""
    wanted = told[-1] if isinstance(told, list) else None
    for name in CONFIGS:
        if not (folder / name).is_file():
            continue
        config = read_json(inside(folder, name))
        if config.get("_class_name") == wanted:
            choice = choose(folder, variant) if name == CONFIGS[0] else None
            source = Source(folder, {}) if choice is None else _open_choice(folder, choice, allow_pickle)
            return replace(source, config=config)
    return None


def _open_component(folder: Path, variant: str | None, allow_pickle: bool) -> Source:
    """The source of one component's folder; it has no tensors if the folder has no weights (a tokenizer)."""
    configs = [folder / name for name in CONFIGS if (folder / name).is_file()]
    config = read_json(inside(folder, configs[0].name)) if configs else {}
    choice = choose(folder, variant)
    if choice is None:
        return Source(folder, {}, config=config)
    return replace(_open_choice(folder, choice, allow_pickle), config=config)


def _relative(file: Path, base: Path) -> str:
    """``file`` as named from the folder ``base``, or by its last name."""
    return file.relative_to(base).as_posix() if file.is_relative_to(base) else file.name
