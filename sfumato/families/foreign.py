"""What a folder is whose networks are read through diffusers: its classes, and what they need; no torch is needed."""

from __future__ import annotations

from collections import Counter
from typing import Any

from sfumato.families.listing import NATIVE_CLASSES, installed, wrappable
from sfumato.families.ways import refusal, way_of
from sfumato.weights.source import Source, sha256

DENOISERS = ("transformer", "unet", "prior", "decoder")


def about(source: Source, *, hashes: bool = False) -> dict[str, Any] | None:
    """What the diffusers folder ``source`` is, as JSON has it; None for one that is native, or none of diffusers.

    ``needs`` is the extra that reads it, ``installed`` the version that is there, None if none is, ``known`` whether
    that has the denoiser's class; ``refused`` says why it is not followed, empty if nothing is known against it.
    """
    pipeline = source.config.get("_class_name")
    classes = {
        name: told
        for name, told in source.config.items()
        if isinstance(told, list) and len(told) == 2 and told[1]
    }
    denoiser = next((str(classes[name][1]) for name in DENOISERS if name in classes), "")
    if not isinstance(pipeline, str) or not source.parts or not denoiser:
        return None
    way, why_not = way_of(pipeline, denoiser), refusal(pipeline, denoiser)
    # of native networks those that another pipeline calls otherwise are wrapped
    own = denoiser in NATIVE_CLASSES and not (denoiser == "UNet2DConditionModel" and way is not None)
    if own and not why_not:
        return None
    version = installed()
    return {
        "kind": "wrapped",
        "path": str(source.path),
        "title": way.title if way is not None else pipeline.removesuffix("Pipeline"),
        "pipeline": pipeline,
        "denoiser": denoiser,
        "needs": "sfumato[diffusers]",
        "installed": version,
        "known": version is not None and denoiser in {one.name for one in wrappable()} | set(NATIVE_CLASSES),
        "refused": why_not,
        "notes": [way.note] if way is not None and way.note else [],
        "components": [
            _component(name, part, classes.get(name, ["", ""]))
            for name, part in source.parts.items()
            if part.entries
        ],
        "files": [
            {"name": path.relative_to(source.path).as_posix(), "bytes": path.stat().st_size}
            | ({"sha256": sha256(path)} if hashes else {})
            for path in source.files
        ],
    }


def _component(name: str, part: Source, told: list[Any]) -> dict[str, Any]:
    """A network: of which library and class, how many tensors, parameters and bytes, parameters by dtype."""
    dtypes: Counter[str] = Counter()
    for entry in part.entries.values():
        dtypes[entry.dtype] += entry.values
    return {
        "name": name,
        "library": str(told[0]),
        "class": str(told[1]),
        "tensors": len(part.entries),
        "parameters": dtypes.total(),
        "bytes": sum(entry.bytes for entry in part.entries.values()),
        "dtypes": dict(dtypes.most_common()),
    }
