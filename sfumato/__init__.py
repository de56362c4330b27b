"""sfumato: train, sample, edit with, evaluate and serve diffusion models.

::

    import sfumato
    model = sfumato.load("emoji")
    picture = model("a rocket, 3d style", seed=7).images[0]
    picture.save("rocket.png")

Names are imported when they are first used, so that ``import sfumato`` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sfumato.api import Images, Loaded, load, models, remake
    from sfumato.engine.run import run
    from sfumato.errors import (
        Cancelled,
        DataError,
        InvalidRequest,
        MissingExtra,
        OutputError,
        SfumatoError,
        UnknownName,
        WeightsError,
    )
    from sfumato.tasks.text2image import Text2Image

__version__ = "0.1.0"

_HOMES = {
    "Cancelled": "sfumato.errors",
    "DataError": "sfumato.errors",
    "Images": "sfumato.api",
    "InvalidRequest": "sfumato.errors",
    "Loaded": "sfumato.api",
    "MissingExtra": "sfumato.errors",
    "OutputError": "sfumato.errors",
    "SfumatoError": "sfumato.errors",
    "Text2Image": "sfumato.tasks.text2image",
    "UnknownName": "sfumato.errors",
    "WeightsError": "sfumato.errors",
    "load": "sfumato.api",
    "models": "sfumato.api",
    "remake": "sfumato.api",
    "run": "sfumato.engine.run",
}

__all__ = [
    "Cancelled",
    "DataError",
    "Images",
    "InvalidRequest",
    "Loaded",
    "MissingExtra",
    "OutputError",
    "SfumatoError",
    "Text2Image",
    "UnknownName",
    "WeightsError",
    "load",
    "models",
    "remake",
    "run",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module 'sfumato' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names."""
    return sorted([*globals(), *__all__])
