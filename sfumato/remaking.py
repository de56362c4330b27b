"""What a recipe needs to be followed again: its task with the same pictures, the same weights, and what differs now."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from sfumato.errors import InvalidRequest
from sfumato.model import Model
from sfumato.picture.recipe import Recipe

File = str | os.PathLike[str]


def task_of(
    recipe: Recipe,
    path: File,
    parents: Mapping[str, Any],
    request: Callable[..., tuple[Any, tuple[str, ...]]],
) -> Any:
    """The task of ``recipe``, made by ``request``, with the pictures it was made from, which must be the same ones."""
    arguments, parents = dict(recipe.arguments), dict(parents)
    hashes: Any = arguments.pop("parents", None) or {}
    if not isinstance(hashes, Mapping):
        raise InvalidRequest(f"the recipe of {path} is not understood: its parents are no table of hashes")
    needed, given = set(hashes), set(parents)
    if needed - given:
        raise InvalidRequest(
            f"{path} was made from pictures that its recipe knows by their hashes alone; give them: "
            f"{', '.join('--' + name.replace('_', '-') for name in sorted(needed - given))}"
        )
    if given - needed:
        raise InvalidRequest(f"{path} was made without {', '.join(sorted(given - needed))}: leave it out")
    for name, told in hashes.items():
        if isinstance(told, list):  # several pictures, of which the recipe has the strengths
            parents[name] = _paired(path, name, parents[name], arguments.get(name), len(told))
    plain = {name: value for name, value in arguments.items() if name not in parents}
    task, _ = request(recipe.task, **plain, **parents)
    for name, told in hashes.items():
        for found, wanted in zip(_several(getattr(task, name, None)), _several(told), strict=False):
            if not hasattr(found, "hash"):
                raise InvalidRequest(
                    f"the recipe of {path} is not understood: {name} is no picture and no file"
                )
            if found.hash != wanted:
                raise InvalidRequest(
                    f"{name} is not the picture that {path} was made from: its hash is {found.hash[:12]}..., and the "
                    f"recipe has {str(wanted)[:12]}..."
                )
    return task


def _several(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else (value,)


def _paired(path: File, name: str, pictures: Any, strengths: Any, count: int) -> list[tuple[Any, Any]]:
    """The ``pictures`` that were given, each with the strength that the recipe has for it."""
    given = _several(pictures)
    if len(given) != count or not isinstance(strengths, list) or len(strengths) != count:
        raise InvalidRequest(
            f"{path} was made from {count} pictures of {name}, and {len(given)} are given: give each, in their order"
        )
    return list(zip(given, strengths, strict=True))


def check_model(recipe: Recipe, path: File, model: str | None, known: Collection[str]) -> None:
    """Refuse a recipe of a checkpoint if nobody said where that lies."""
    if model is None and recipe.model not in known:
        raise InvalidRequest(
            f"{path} was made by a checkpoint of {recipe.model!r} (hash {recipe.model_hash[:12]}...): "
            f"say where it lies, with --model"
        )


def is_embedded(recipe: Recipe) -> bool:
    """Whether the prompts of ``recipe`` came from a file of embedded ones, and text encoders did not act."""
    parents = recipe.arguments.get("parents")
    return isinstance(parents, Mapping) and "embedded" in parents


def check_weights(recipe: Recipe, path: File, model: Model) -> None:
    """Refuse a model of other weights than those that the recipe names."""
    own = model.hash_without_texts if is_embedded(recipe) else model.hash
    if own != recipe.model_hash:
        raise InvalidRequest(
            f"{path} was made by other weights of {recipe.model!r} (hash {recipe.model_hash[:12]}..., "
            f"this one {own[:12]}...): its recipe cannot be followed exactly; "
            f"use its prompt and seed as they are with `sfumato generate`"
        )


def rows_of(recipe: Recipe) -> int:
    """The size of calls that a recipe names; 0 if that is no number from 1 to 1024."""
    text = recipe.versions.get("rows", "0")
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 4 and int(text) <= 1024 else 0


def differences(then: Recipe, now: Recipe) -> tuple[str, ...]:
    """A note on versions that changed since ``then``, where any did."""
    changed = [
        f"{key} was {value}, is {now.versions.get(key)}"
        for key, value in then.versions.items()
        if now.versions.get(key) != value
    ]
    return (f"the picture may differ in the last bits: {'; '.join(changed)}",) if changed else ()
