"""The front door of the library: load a model, call it, keep the pictures with their recipes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from sfumato import remaking
from sfumato.adapted import GIVEN, Given, again
from sfumato.device import compute_dtype, device_named, dtype_named
from sfumato.errors import InvalidRequest, UnknownName
from sfumato.families import emoji
from sfumato.families.table import MODELS
from sfumato.loaded import Images, Loaded
from sfumato.picture.png import read_recipe
from sfumato.tasks.handover import handover as handed
from sfumato.tasks.table import TASKS, request


def models() -> dict[str, str]:
    """The models known by name, each with one line on what it makes."""
    return dict(MODELS)


def load(
    name: str = "emoji",
    *,
    dtype: str | None = None,
    device: str = "cpu",
    family: str | None = None,
    predicts: str | None = None,
    tokens: str | os.PathLike[str] | None = None,
    parts: Sequence[str | os.PathLike[str]] = (),
    packed: bool = False,
    encoders: bool = True,
    draws: bool = True,
    variant: str | None = None,
    allow_pickle: bool = False,
    download: bool = False,
    adapters: Sequence[str | os.PathLike[str]] = (),
    adapters_in: str | os.PathLike[str] | None = None,
    embeddings_in: str | os.PathLike[str] | None = None,
    merged: bool = False,
    partial: bool = False,
    refiner: str | None = None,
    handover: float | None = None,
) -> Loaded:
    """The model called ``name``, or the checkpoint at that path, ready to be called.

    A checkpoint is a diffusers folder, a single ``.safetensors`` or ``.gguf`` file in the authors' layout, a folder of
    loose files with a network each, or the name of a hub repository that is in the local cache (``download`` fetches
    it; extra ``hub``). ``parts`` are files with networks that it lacks, in any order: text encoders, the autoencoder.
    ``packed`` keeps 8-bit and GGUF weights in memory as the file has them. ``dtype`` is "float32",
    "bfloat16" or "float16"; by default bfloat16 where the device multiplies it in hardware; float16 on a CPU becomes
    the default, which is many times faster there. ``family`` and ``predicts`` overrule what the checkpoint's keys
    say, ``tokens`` is T5's vocabulary where the checkpoint brings none, ``variant`` chooses among a folder's files
    ("fp16"). Files with pickles are opened with ``allow_pickle`` alone.

    Without ``encoders`` the text encoders are neither needed nor loaded, and requests bring what encoders made of their
    prompts (``embedded``); unless it ``draws``, only they are loaded, which is enough to write that (Loaded.embed).
    The built-in model always comes whole, so that neither changes it.

    ``adapters`` act from the start, each a file with its strength, ``"ink.safetensors:0.8"``; prompts name others,
    which lie in the folder ``adapters_in``, and learned words, in ``embeddings_in``. ``merged`` puts adapters into the
    weights, ``partial`` leaves out of them what finds no place in the model (docs/adapters.md).

    ``refiner`` is another checkpoint, which goes on where less noise is left: after the part ``handover`` of the
    schedule's time (0.8), as the refiner of Stable Diffusion XL does.

    Raises UnknownName for a model that is not known and WeightsError for weights that are damaged or of no family.
    """
    if not (encoders or draws):
        raise InvalidRequest(
            "encoders=False leaves out text encoders and draws=False all the rest, so that nothing would be loaded: "
            "leave one of them out"
        )
    if handover is not None and refiner is None:
        raise InvalidRequest(
            f"handover = {handover:g} says when a refiner goes on: give refiner, or leave it out"
        )
    given = Given(
        adapters=adapters,
        adapters_in=adapters_in,
        embeddings_in=embeddings_in,
        merged=merged,
        partial=partial,
        allow_pickle=allow_pickle,
    )
    given.uses()
    if name in MODELS:
        of_files = {
            "parts": parts,
            "packed": packed,
            "refiner": refiner,
            "family": family,
            "predicts": predicts,
            "tokens": tokens,
            "variant": variant,
        }
        for what in (key for key, value in of_files.items() if value):
            raise InvalidRequest(
                f"{what} is for checkpoints; the built-in model {name!r} is complete as it is"
            )
        if device_named(device).type != "cpu":
            raise InvalidRequest(
                f"device = {device!r} is not for the built-in model: it is packed for the CPU"
            )
        chosen, _ = _dtype(dtype, "cpu")
        return Loaded(emoji.load(dtype=chosen), chosen, given=given)
    if not Path(name).exists() and "/" not in str(name):
        raise UnknownName("model", name, MODELS)
    from sfumato.families.published import load_checkpoint
    from sfumato.families.split import opened
    from sfumato.families.wider import columns_of
    from sfumato.families.wrapped import is_for, load_wrapped
    from sfumato.text.t5 import T5Tokens
    from sfumato.weights.hub import resolve

    place = device_named(device)
    chosen, note = _dtype(dtype, device)
    words = None if tokens is None else T5Tokens.load(Path(tokens))
    path, more = resolve(name, download=download), [Path(part) for part in parts]
    if is_for(path):
        if not (encoders and draws):
            raise InvalidRequest(
                f"{path} is of a family that is not native and comes through diffusers: it reads prompts by its own "
                "encoders and takes no embedded ones"
            )
        if family or predicts or tokens or parts or packed:
            raise InvalidRequest(
                f"{path} is of a family that is not native and comes through diffusers: family, predicts, tokens, "
                "parts and packed are for native ones"
            )
        if allow_pickle:
            raise InvalidRequest(
                f"{path} is of a family that is not native and comes through diffusers, which would open pickles in "
                "this very process: leave allow_pickle out; its weights must be safetensors"
            )
        model = load_wrapped(path, dtype=chosen, device=place, variant=variant)
    else:
        with opened(path, more, variant=variant, allow_pickle=allow_pickle) as checkpoint:
            model = load_checkpoint(
                checkpoint,
                dtype=chosen,
                device=place,
                family=family,
                predicts=predicts,
                tokens=words,
                packed=packed,
                encoders=encoders,
                draws=draws,
                columns=lambda: columns_of([use.path for use in given.uses()], allow_pickle=allow_pickle),
            )
    if refiner is not None:
        if not (encoders and draws):
            raise InvalidRequest(
                "a refiner reads prompts by encoders of its own: embedded prompts are for one model, leave one out"
            )
        options = {"dtype": dtype, "device": device, "variant": variant, "allow_pickle": allow_pickle}
        later = load(refiner, download=download, **options).model  # type: ignore[arg-type]
        model = handed(model, later, 0.8 if handover is None else handover)
    return Loaded(model, chosen, (note,) if note else (), given, draws)


def _dtype(name: str | None, device: str) -> tuple[torch.dtype, str]:
    """The dtype to compute in on ``device``, and what to tell if it is not the one that was asked for."""
    if name == "float16" and device == "cpu":
        fast = compute_dtype(device)
        told = str(fast).removeprefix("torch.")
        return fast, f"a CPU computes float16 many times slower; the model runs in {told}"
    return dtype_named(name, device), ""


def adapts_texts(path: str | os.PathLike[str], allow_pickle: bool) -> bool:
    """Whether the adapter at ``path`` changes text encoders."""
    from sfumato.adapters import load_adapter

    layers = load_adapter(Path(path), partial=True, allow_pickle=allow_pickle).layers
    return any(all(place.startswith("text") for place in layer.places) for layer in layers)


def remake(
    path: str | os.PathLike[str],
    model: str | None = None,
    loading: Mapping[str, Any] | None = None,
    **parents: Any,
) -> Images:
    """Make the picture in ``path`` again from the recipe it carries; ``model`` is where its checkpoint lies.

    ``loading`` is what ``load`` is told besides (``parts``, ``tokens`` ...). ``parents`` are the pictures and masks
    that it was made from, by field (``image=``, ``mask=``): a recipe knows their hashes. Bit for bit the same on
    the same machine with the same versions; notes say what differs.
    InvalidRequest if the recipe is of another model or task, or made from other pictures.
    """
    recipe = read_recipe(Path(path))
    if recipe.task not in TASKS:
        raise UnknownName("task", recipe.task, TASKS)
    told = dict(loading or {})
    pickled = bool(told.get("allow_pickle"))
    given = Given(**{name: told.pop(name) for name in GIVEN if name in told}, allow_pickle=pickled)
    exactly, bare = again(recipe, given, path)
    task = remaking.task_of(bare, path, parents, request)
    remaking.check_model(recipe, path, model, MODELS)
    if remaking.is_embedded(recipe):
        # Encoders that adapters changed were there, though their work was read from the file.
        told.setdefault("encoders", any(adapts_texts(use.path, pickled) for use in exactly.uses))
    from sfumato.families.wider import columns_of

    # A model whose first layer an adapter makes wider is made with it.
    if columns_of([use.path for use in exactly.uses], allow_pickle=pickled):
        told["adapters"] = exactly.uses
    loaded = load(model or recipe.model, **{"dtype": recipe.versions.get("dtype"), **told})
    remaking.check_weights(recipe, path, loaded.model)
    rows = remaking.rows_of(recipe)
    made = loaded.run(task, rows=rows, exactly=exactly, extra=recipe.extra)
    notes = remaking.differences(recipe, made.images[0].recipe)
    return Images(images=made.images, notes=(*made.notes, *notes))
