"""The tasks by name, and a request for one of them with its pictures read."""

from __future__ import annotations

from typing import Any

from sfumato.errors import UnknownName
from sfumato.tasks.animate import Animate
from sfumato.tasks.compose import Compose
from sfumato.tasks.control import Control
from sfumato.tasks.given import Area, picture_fields
from sfumato.tasks.image2image import Image2Image
from sfumato.tasks.inpaint import Inpaint
from sfumato.tasks.instruct import Instruct
from sfumato.tasks.interpolate import Interpolate
from sfumato.tasks.looked import read_looks
from sfumato.tasks.outpaint import Outpaint
from sfumato.tasks.resample import Resample
from sfumato.tasks.restore import Restore
from sfumato.tasks.seamless import Tile
from sfumato.tasks.style import Style
from sfumato.tasks.task import make
from sfumato.tasks.text2image import Text2Image
from sfumato.tasks.unconditional import Class2Image, Unconditional
from sfumato.tasks.upscale import Upscale
from sfumato.tasks.vary import Vary

TASKS: dict[str, type[Any]] = {
    "animate": Animate,
    "class2image": Class2Image,
    "control": Control,
    "compose": Compose,
    "image2image": Image2Image,
    "inpaint": Inpaint,
    "instruct": Instruct,
    "interpolate": Interpolate,
    "outpaint": Outpaint,
    "resample": Resample,
    "restore": Restore,
    "style": Style,
    "text2image": Text2Image,
    "tile": Tile,
    "unconditional": Unconditional,
    "upscale": Upscale,
    "vary": Vary,
}
"""The tasks by name."""


def request(name: str, **fields: Any) -> tuple[Any, tuple[str, ...]]:
    """The task called ``name`` with its ``fields``, and notes on the pictures among them.

    Pictures may be paths, bytes, arrays, Pillow's or ours; masks also words, ``"rect(8, 8, 50%, 32)"`` (see
    sfumato.picture.mask), and ``"alpha"`` is the transparent part of the picture. UnknownName and InvalidRequest as
    for Loaded.task.
    """
    from sfumato.picture.mask import read_mask
    from sfumato.picture.read import Read, read_picture

    if name not in TASKS:
        raise UnknownName("task", name, TASKS)
    task, notes = TASKS[name], []
    read: dict[str, Read] = {}
    kinds = {key: kind for key, kind in picture_fields(task).items() if fields.get(key) is not None}
    for key, kind in kinds.items():
        value = getattr(fields[key], "pixels", fields[key])
        if kind is not Area:
            read[key] = read_picture(value)
            fields[key] = read[key].pixels
            notes += [f"{key}: {note}" for note in read[key].notes]
    for key, kind in kinds.items():
        if kind is Area and "image" in read:
            fields[key] = read_mask(fields[key], read["image"].size, picture=read["image"])
    if fields.get("look") is not None:
        fields["look"], told = read_looks(fields["look"])
        notes += told
    return make(task, **fields), tuple(notes)
