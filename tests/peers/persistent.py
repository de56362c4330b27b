"""Pickles as EDM's released code writes them: objects of persistent classes, with the text of a module beside each.

``write`` lays tensors, by the names of a state_dict, into such a pickle. What would read it in EDM's code executes the
module's text; here that text would stop the process.
"""

from __future__ import annotations

import io
import pickle
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

SOURCE = "import os; os._exit(66)"
"""What stands where the text of the module does."""


class EasyDict(dict[str, Any]):
    """dnnlib's mapping with attributes."""


class Box(nn.Module):
    """A module of a persistent class."""

    class_name = "Box"

    def __init__(self) -> None:
        super().__init__()
        self.skip_scale = np.sqrt(0.5)
        self._init_args: tuple[Any, ...] = ()
        self._init_kwargs = EasyDict(init_mode="kaiming_uniform")


def _reconstruct_persistent_obj(meta: Mapping[str, Any]) -> None:
    """The function that such a pickle names and that is not called here."""


class _Pickler(pickle.Pickler):
    def reducer_override(self, thing: object) -> Any:
        if not isinstance(thing, Box):
            return NotImplemented
        state = {name: value for name, value in thing.__dict__.items() if name != "class_name"}
        meta = {
            "type": "class",
            "version": 6,
            "module_src": SOURCE,
            "class_name": thing.class_name,
            "state": state,
        }
        return _reconstruct_persistent_obj, (meta,)


def boxed(tensors: Mapping[str, Tensor]) -> Box:
    """Modules that have the ``tensors`` as a network of EDM has them: parameters, buffers, dictionaries of modules."""
    made = Box()
    inner: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        head, _, rest = name.partition(".")
        if rest:
            inner.setdefault(head, {})[rest] = tensor
        elif head in ("freqs", "resample_filter"):
            made.register_buffer(head, tensor)
        else:
            made.register_parameter(head, nn.Parameter(tensor))
    for name, below in inner.items():
        box = boxed(below)
        made.add_module(name, nn.ModuleDict(box._modules) if name in ("enc", "dec") else box)  # type: ignore[arg-type]
    made.register_buffer("absent", None)
    return made


def write(path: Path, tensors: Mapping[str, Tensor], class_name: str = "EDMPrecond", **told: Any) -> None:
    """The pickle ``path`` of the network with ``tensors``, of the class ``class_name`` with the attributes ``told``."""
    network = boxed(tensors)
    network.class_name = class_name
    for name, value in {"img_resolution": 16, "sigma_data": 0.5, "use_fp16": False, **told}.items():
        setattr(network, name, value)
    names: dict[str, tuple[Any, ...]] = {
        "torch_utils": (),
        "torch_utils.persistence": (_reconstruct_persistent_obj,),
        "dnnlib": (),
        "dnnlib.util": (EasyDict,),
    }
    before = {name: sys.modules.get(name) for name in names}
    homes = {thing: thing.__module__ for things in names.values() for thing in things}
    try:
        for name, things in names.items():
            sys.modules[name] = types.ModuleType(name)
            for thing in things:
                setattr(sys.modules[name], thing.__name__, thing)
                thing.__module__ = name
        held = io.BytesIO()
        _Pickler(held).dump(
            {"ema": network, "loss_fn": Box(), "dataset_kwargs": EasyDict(path="x", size=[1])}
        )
    finally:
        for thing, home in homes.items():
            thing.__module__ = home
        for name, module in before.items():
            sys.modules.pop(name)
            if module is not None:
                sys.modules[name] = module
    path.write_bytes(held.getvalue())


def state(path: Path) -> dict[str, Tensor]:
    """Tensors to write in tests that ask for no network."""
    torch.manual_seed(len(path.name))
    return {
        "model.map_layer0.weight": torch.randn(3, 4),
        "model.map_layer0.bias": torch.randn(3),
        "model.enc.16x16_conv.weight": torch.randn(2, 2, 1, 1).half(),
        "model.enc.8x8_down.conv0.resample_filter": torch.full((1, 1, 2, 2), 0.25),
    }
