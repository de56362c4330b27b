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
    from sfumato.api import load, models, remake
    from sfumato.engine.engine import Engine
    from sfumato.engine.run import run
    from sfumato.errors import (
        Cancelled,
        DataError,
        InvalidRequest,
        MissingExtra,
        OutOfMemory,
        OutputError,
        SfumatoError,
        UnknownName,
        WeightsError,
    )
    from sfumato.families.gaussian import mixture
    from sfumato.loaded import Images, Loaded
    from sfumato.process import schedules
    from sfumato.process.estimate import Estimate
    from sfumato.process.grid import make_grid as grid
    from sfumato.process.level import Level
    from sfumato.sampling import as_denoise, sample
    from sfumato.tasks.text2image import Text2Image

__version__ = "0.1.0"

_HOMES = {
    "Cancelled": "sfumato.errors:Cancelled",
    "DataError": "sfumato.errors:DataError",
    "Engine": "sfumato.engine.engine:Engine",
    "Estimate": "sfumato.process.estimate:Estimate",
    "Images": "sfumato.loaded:Images",
    "InvalidRequest": "sfumato.errors:InvalidRequest",
    "Level": "sfumato.process.level:Level",
    "Loaded": "sfumato.loaded:Loaded",
    "MissingExtra": "sfumato.errors:MissingExtra",
    "OutOfMemory": "sfumato.errors:OutOfMemory",
    "OutputError": "sfumato.errors:OutputError",
    "SfumatoError": "sfumato.errors:SfumatoError",
    "Text2Image": "sfumato.tasks.text2image:Text2Image",
    "UnknownName": "sfumato.errors:UnknownName",
    "WeightsError": "sfumato.errors:WeightsError",
    "as_denoise": "sfumato.sampling:as_denoise",
    "grid": "sfumato.process.grid:make_grid",
    "load": "sfumato.api:load",
    "mixture": "sfumato.families.gaussian:mixture",
    "models": "sfumato.api:models",
    "remake": "sfumato.api:remake",
    "run": "sfumato.engine.run:run",
    "sample": "sfumato.sampling:sample",
    "schedules": "sfumato.process.schedules",
}
"""Where each public name is, "module:name", or a module itself."""

__all__ = [
    "Cancelled",
    "DataError",
    "Engine",
    "Estimate",
    "Images",
    "InvalidRequest",
    "Level",
    "Loaded",
    "MissingExtra",
    "OutOfMemory",
    "OutputError",
    "SfumatoError",
    "Text2Image",
    "UnknownName",
    "WeightsError",
    "as_denoise",
    "grid",
    "load",
    "mixture",
    "models",
    "remake",
    "run",
    "sample",
    "schedules",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module 'sfumato' has no attribute {name!r}")
    module, _, attribute = _HOMES[name].partition(":")
    value: Any = importlib.import_module(module)
    if attribute:
        value = getattr(value, attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names."""
    return sorted([*globals(), *__all__])
