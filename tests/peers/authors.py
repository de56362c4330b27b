"""The networks of ADM and EDM in packages that keep their authors' code, loaded without what these need besides.

``adm`` is azula's copy of guided-diffusion's networks (``UNetModel``, ``EncoderUNetModel``); ``song`` and ``dhariwal``
are NVIDIA's own later versions of EDM's (``SongUNet``, ``DhariwalUNet``), in physicsnemo, and ``preconditioners`` what
wraps them. Both are installed without their dependencies, for which there are stubs here.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

from torch import nn

PACKAGES = (
    "",
    ".models",
    ".models.diffusion_unets",
    ".nn",
    ".nn.module",
    ".nn.module.utils",
    ".core",
    ".diffusion",
    ".diffusion.preconditioners",
)
"""physicsnemo's packages whose own first module is not run."""


def _path(name: str) -> Path:
    found = importlib.util.find_spec(name)
    assert found is not None, "install the tests' packages with `make test`"
    assert found.origin is not None
    return Path(found.origin).parent


def _package(name: str, path: Path) -> types.ModuleType:
    made = types.ModuleType(name)
    made.__path__ = [str(path)]
    return made


def _adm() -> Any:
    here = _path("azula") / "plugins" / "adm" / "_src"
    sys.modules["azula_adm"] = _package("azula_adm", here)
    return importlib.import_module("azula_adm.unet")


class Annotation:
    """Takes the place of jaxtyping's ``Float``, which only says what is expected."""

    def __class_getitem__(cls, what: object) -> type[Annotation]:
        return cls


class Module(nn.Module):
    """Takes the place of physicsnemo's module, which adds saving and loading."""

    def __init__(self, meta: object = None) -> None:
        super().__init__()


def _physicsnemo() -> tuple[Any, Any, Any]:
    root = _path("physicsnemo")
    stubs = {
        f"physicsnemo{name}": _package(f"physicsnemo{name}", root.joinpath(*name.split(".")))
        for name in PACKAGES
    }
    inner = "physicsnemo.nn.module."
    unused = {f"{inner}weight_fact": "WeightFactLinear", f"{inner}weight_norm": "WeightNormLinear"}
    for name in ("physicsnemo.core.module", "nvtx", "jaxtyping", "einops", "tensordict", *unused):
        stubs[name] = types.ModuleType(name)
    for name, attribute in unused.items():
        setattr(stubs[name], attribute, None)
    stubs["physicsnemo.core.module"].Module = stubs["physicsnemo.core"].Module = Module  # type: ignore[attr-defined]
    stubs["jaxtyping"].Float = Annotation  # type: ignore[attr-defined]
    stubs["tensordict"].TensorDict = Annotation  # type: ignore[attr-defined]
    stubs["einops"].rearrange = None  # type: ignore[attr-defined]
    before = {name: sys.modules.get(name) for name in stubs}
    sys.modules.update(stubs)
    try:
        wanted = {
            "conv_layers": ("Conv2d",),
            "fully_connected_layers": ("Linear",),
            "embedding_layers": ("FourierEmbedding", "PositionalEmbedding"),
            "group_norm": ("get_group_norm",),
        }
        stubs[f"{inner}utils"].get_earth_position_index = None  # type: ignore[attr-defined]
        for module, names in {**wanted, "unet_layers": ("UNetBlock",)}.items():
            found = importlib.import_module(inner + module)
            for name in names:
                setattr(stubs["physicsnemo.nn"], name, getattr(found, name))
        return tuple(
            importlib.import_module(f"physicsnemo.{name}")
            for name in (
                "models.diffusion_unets.song_unet",
                "models.diffusion_unets.dhariwal_unet",
                "diffusion.preconditioners.preconditioners",
            )
        )  # type: ignore[return-value]
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


adm = _adm()
song, dhariwal, preconditioners = _physicsnemo()
