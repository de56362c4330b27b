"""Which files of a folder hold its weights: single, sharded, in variants, and never outside of the folder.

Folders are as diffusers and transformers write them: ``<stem>[.<variant>].safetensors``, or shards
``<stem>[.<variant>]-0000k-of-0000N.safetensors`` beside ``<stem>.safetensors.index[.<variant>].json``, whose
``weight_map`` says which file holds which tensor.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from sfumato.errors import WeightsError
from sfumato.weights.header import short

SAFE = (".safetensors", ".sft")
PICKLED = (".ckpt", ".pt", ".pth", ".bin", ".pkl")
STEMS = ("diffusion_pytorch_model", "model", "pytorch_model", "pytorch_lora_weights")
MODEL_INDEX = "model_index.json"
MAX_JSON = 4_000_000  # bytes: a config or an index is far smaller
MAX_FILES = 1_024

_INDEX = re.compile(r"^(?P<stem>.+?)(\.(?P<kind>safetensors|bin))?\.index(\.(?P<variant>[^.]+))?\.json$")
_SHARD = re.compile(r"^(?P<stem>.+?)(\.(?P<variant>[^.]+?))?-(?P<k>\d+)-of-(?P<n>\d+)(\.(?P<late>[^.]+))?$")


@dataclass(frozen=True)
class Choice:
    """The files that hold a folder's weights; ``where`` maps tensor names to files if an index says so."""

    files: tuple[Path, ...]
    where: Mapping[str, Path] | None = None


def choose(folder: Path, variant: str | None = None) -> Choice | None:
    """The weights in ``folder`` itself (not below it), or None if it has none.

    Without ``variant`` the files that are of none are preferred; where all are of one variant, that one is
    taken. Pickled files are chosen only if there is nothing else. Raises WeightsError if several sets of weights
    are left to choose from, a shard is missing, or an index leads out of the folder.
    """
    names = sorted(path.name for path in listing(folder))
    for suffixes in (SAFE, PICKLED):
        sets = _sets(folder, names, suffixes)
        if not sets:
            continue
        known = {key: files for key, files in sets.items() if key[0] in STEMS} or sets
        wanted = {key: files for key, files in known.items() if key[1] == (variant or "")}
        if not wanted and variant is None:
            wanted = known
        if len(wanted) == 1:
            return _resolve(folder, next(iter(wanted.values())))
        told = ", ".join(".".join(filter(None, key)) for key in sorted(wanted or known)[:10])
        if not wanted:
            raise WeightsError(f"{folder} has no weights of the variant {variant!r}; it has: {told}")
        raise WeightsError(f"{folder} has several sets of weights: {told}; name one file, or a variant")
    return None


def _sets(folder: Path, names: list[str], suffixes: tuple[str, ...]) -> dict[tuple[str, str], list[str]]:
    """File names of each set of weights, by stem and variant; a set with an index has that one name alone."""
    sets: dict[tuple[str, str], list[str]] = {}
    shards: dict[tuple[str, str], dict[int, tuple[int, str]]] = {}
    for name in (name for name in names if name.endswith(suffixes)):
        bare = name.rpartition(".")[0]
        if found := _SHARD.match(bare):
            key = found["stem"], found["variant"] or found["late"] or ""
            shards.setdefault(key, {})[int(found["k"])] = int(found["n"]), name
        else:
            sets.setdefault(_key(bare), []).append(name)
    for name in names:
        found = _INDEX.match(name)
        if found and f".{found['kind'] or 'safetensors'}" in suffixes:
            key = (found["stem"], found["variant"]) if found["variant"] else _key(found["stem"])
            shards.pop(key, None)
            sets.setdefault(key, [name])
    for key, parts in shards.items():
        count = max(n for n, _ in parts.values())
        missing = sorted(set(range(1, count + 1)) - parts.keys())[:5] if count <= MAX_FILES else [count]
        if missing:
            raise WeightsError(
                f"{folder} lacks shards of {key[0]}: {len(parts)} of {count} are there, not {missing[0]}"
            )
        sets[key] = [parts[k][1] for k in sorted(parts)]
    return sets


def _key(bare: str) -> tuple[str, str]:
    """Stem and variant of a file name without its suffix; only names of the libraries have a variant."""
    stem, _, variant = bare.partition(".")
    return (stem, variant) if stem in STEMS else (bare, "")


def _resolve(folder: Path, names: list[str]) -> Choice:
    """The files behind ``names``, or behind the index that is the only one of them."""
    if names[0].endswith(".json"):
        return read_index(folder / names[0])
    return Choice(tuple(inside(folder, name) for name in names))


def read_index(index: Path) -> Choice:
    """The files that the index ``index`` names, all in its own folder.

    Raises WeightsError if it is damaged, a file is missing or lies elsewhere.
    """
    told = read_json(index).get("weight_map")
    if not isinstance(told, dict) or not told or not all(isinstance(name, str) for name in told.values()):
        raise WeightsError(f"the index {index} is damaged: it has no weight_map of names")
    names = sorted(set(told.values()))
    if len(names) > MAX_FILES:
        raise WeightsError(f"the index {index} names more than {MAX_FILES:,} files")
    files = {name: inside(index.parent, name) for name in names}
    for name, path in files.items():
        if not path.is_file():
            raise WeightsError(f"the index {index} names {short(name)}, which is not there")
    return Choice(tuple(files.values()), {key: files[name] for key, name in told.items()})


def inside(folder: Path, name: str) -> Path:
    """The file or folder ``name`` directly in ``folder``, which must not lead out of it.

    ``name`` must be a plain name. A symbolic link may lead on within the folder, or within the same model of the
    hub's cache (``models--org--name/snapshots/<revision>/`` links to ``../../blobs/``). Raises WeightsError.
    """
    plain = name not in ("", ".", "..") and "\0" not in name and not any(map(name.endswith, (" ", ".")))
    if not plain or PurePosixPath(name).name != name or PureWindowsPath(name).name != name:
        raise WeightsError(f"{folder} names the file {short(name)}, which would lie outside of the folder")
    path = folder / name
    try:
        home, real = folder.resolve(), path.resolve()
    except (OSError, RuntimeError) as error:
        raise WeightsError(f"cannot follow {path}: {error}") from error
    if not real.is_relative_to(home) and not real.is_relative_to(_cache_blobs(home)):
        raise WeightsError(f"{path} is a link that leads out of the folder, to {real}; give that file itself")
    return path


def _cache_blobs(home: Path) -> Path:
    """The folder of blobs, if ``home`` is (in) a snapshot of the hub's cache; else ``home`` itself."""
    for above in home.parents:
        if above.name == "snapshots" and above.parent.name.startswith("models--"):
            return above.parent / "blobs"
    return home


def listing(folder: Path) -> list[Path]:
    """What lies in ``folder``; raises WeightsError if it cannot be read."""
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise WeightsError(f"cannot read the folder {folder}: {error.strerror or error}") from error


def read_json(path: Path) -> dict[str, object]:
    """The JSON object in ``path``; raises WeightsError if it is missing, large or no object."""
    try:
        with open(path, "rb") as file:
            text = file.read(MAX_JSON + 1)
        if len(text) > MAX_JSON:
            raise WeightsError(f"{path} is larger than {MAX_JSON:,} bytes, which no such file is")
        value = json.loads(text)
    except OSError as error:
        raise WeightsError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise WeightsError(f"{path} is not a JSON object")
    return value
