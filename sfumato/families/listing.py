"""What families there are: the native ones by name, and the classes of the installed diffusers that can be wrapped.

Light to import, torch and diffusers are not loaded: the latter's classes are read from its text.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cache
from importlib import metadata, util
from pathlib import Path

from sfumato.families.ways import WAYS

FOLDERS, BOTH = "diffusers folders", "diffusers folders, files in the authors' layout"


@dataclass(frozen=True, kw_only=True)
class Listed:
    """A family: its name (of a wrapped one the class of its denoiser), title, layouts, and where it comes from."""

    name: str
    title: str
    native: bool
    layouts: str
    source: str


NATIVE = (
    Listed(name="sd1", title="Stable Diffusion 1", native=True, layouts=BOTH, source="Rombach et al. 2022"),
    Listed(name="sd2", title="Stable Diffusion 2", native=True, layouts=BOTH, source="Rombach et al. 2022"),
    Listed(
        name="x4",
        title="x4 upscaler of Stable Diffusion",
        native=True,
        layouts=BOTH,
        source="Rombach et al. 2022",
    ),
    Listed(
        name="sdxl",
        title="Stable Diffusion XL, its refiner, SSD-1B, Vega",
        native=True,
        layouts=BOTH,
        source="Podell et al. 2023; Gupta et al. 2024",
    ),
    Listed(
        name="sd3", title="Stable Diffusion 3 and 3.5", native=True, layouts=BOTH, source="Esser et al. 2024"
    ),
    Listed(
        name="flux",
        title="FLUX.1 dev, schnell, Fill, Control, Redux beside them",
        native=True,
        layouts=BOTH,
        source="Black Forest Labs 2024",
    ),
    Listed(
        name="kontext",
        title="FLUX.1 Kontext",
        native=True,
        layouts=BOTH,
        source="Black Forest Labs 2025",
    ),
    Listed(
        name="sana",
        title="SANA, SANA 1.5 and SANA-Sprint",
        native=True,
        layouts=BOTH,
        source="Xie et al. 2024; Xie et al. 2025; Chen et al. 2025",
    ),
    Listed(name="lumina2", title="Lumina-Image 2", native=True, layouts=BOTH, source="Qin et al. 2025"),
    Listed(
        name="z-image",
        title="Z-Image",
        native=True,
        layouts=BOTH,
        source="Z-Image Team 2025",
    ),
    Listed(
        name="z-image-turbo",
        title="Z-Image Turbo",
        native=True,
        layouts=BOTH,
        source="Z-Image Team 2025",
    ),
    Listed(name="chroma", title="Chroma", native=True, layouts=BOTH, source="Lodestone Rock 2025"),
    Listed(
        name="pixart",
        title="PixArt-alpha and PixArt-Sigma",
        native=True,
        layouts=BOTH,
        source="Chen et al. 2023; Chen et al. 2024",
    ),
    Listed(name="dit", title="DiT, by class", native=True, layouts=BOTH, source="Peebles & Xie 2023"),
    Listed(
        name="pixels",
        title="U-Nets on pixels, by class or of nothing in particular (DDPM, ADM)",
        native=True,
        layouts=BOTH,
        source="Ho et al. 2020; Dhariwal & Nichol 2021",
    ),
    Listed(
        name="edm",
        title="EDM on pixels, by class or of nothing in particular (ADM, DDPM++, NCSN++)",
        native=True,
        layouts="files in the authors' layout",
        source="Karras et al. 2022",
    ),
)
"""The native families."""

NATIVE_CLASSES = (
    *("SD3Transformer2DModel", "FluxTransformer2DModel", "PixArtTransformer2DModel", "DiTTransformer2DModel"),
    *("ChromaTransformer2DModel", "UNet2DConditionModel", "UNet2DModel", "Transformer2DModel"),
    *("Lumina2Transformer2DModel", "ZImageTransformer2DModel", "SanaTransformer2DModel"),
)
"""diffusers' classes whose networks are native."""


def installed() -> str | None:
    """The version of the installed diffusers, None if there is none."""
    try:
        return metadata.version("diffusers")
    except metadata.PackageNotFoundError:
        return None


@cache
def wrappable() -> tuple[Listed, ...]:
    """What the installed diffusers brings of the classes that are known, and what predicts on a discrete schedule."""
    spec = util.find_spec("diffusers") if installed() else None
    if spec is None or spec.origin is None:
        return ()
    here = _classes(Path(spec.origin).parent)
    rows = sorted(
        (way.pipelines[0] if name in NATIVE_CLASSES else name, way.title)
        for name, way in WAYS.items()
        if name in here and here.intersection(way.pipelines)
    )
    rows.append(("*", "other U-Nets and transformers of pictures on a discrete schedule"))
    return tuple(
        Listed(name=name, title=title, native=False, layouts=FOLDERS, source=f"diffusers {installed()}")
        for name, title in rows
    )


def _classes(root: Path) -> set[str]:
    """The names that diffusers imports for its users, read from its text."""
    tree = ast.parse((root / "__init__.py").read_text("utf-8"))
    return {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


def families() -> tuple[Listed, ...]:
    """All of them, the native ones first."""
    return NATIVE + wrappable()
