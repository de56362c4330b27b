"""EDM's networks (Karras et al. 2022): their own ADM, DDPM++ and NCSN++, preconditioned, on pixels.

Where each value comes from stands in docs/checkpoints.md.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from sfumato.errors import WeightsError
from sfumato.families.shapes import Shapes
from sfumato.model import Defaults
from sfumato.nn.adm import PixelConfig
from sfumato.nn.song import SongConfig
from sfumato.process.schedule import Exploding
from sfumato.weights.source import Source

KINDS = ("dhariwal", "song")
"""What networks of EDM are called here: ADM's as EDM has it, and DDPM++ or NCSN++."""
_SIDE = re.compile(r"enc\.(\d+)x\1_(?:conv|down)\b")
PRECONDITIONED = "EDMPrecond"


def _levels(shapes: Shapes) -> tuple[list[int], tuple[int, ...], int, tuple[bool, ...]]:
    """The sides of the maps from the finest on, widths, blocks a level, and which levels have attention."""
    sides = sorted({int(found[1]) for name in shapes if (found := _SIDE.match(name))}, reverse=True)
    if any(side != sides[0] >> level for level, side in enumerate(sides)):
        raise ValueError(f"maps of the sides {sides}, which do not halve,")
    blocks = 0
    while f"enc.{sides[0]}x{sides[0]}_block{blocks}.conv0.weight" in shapes:
        blocks += 1
    first = [f"enc.{side}x{side}_block0" for side in sides]
    widths = tuple(shapes[f"{name}.conv0.weight"][0] for name in first)
    return sides, widths, blocks, tuple(f"{name}.qkv.weight" in shapes for name in first)


def dhariwal(shapes: Shapes, layout: str) -> PixelConfig:
    """EDM's ADM of ``shapes``; heads are of 64 channels."""
    sides, widths, blocks, attention = _levels(shapes)
    looked = [width for width, look in zip(widths, attention, strict=True) if look]
    if odd := [width for width in (*looked, widths[-1]) if width % 64]:
        raise ValueError(f"attention over {odd[0]} channels, which are not heads of 64,")
    label = shapes.get("map_label.weight")
    return PixelConfig(
        inner=shapes[f"enc.{sides[0]}x{sides[0]}_conv.weight"][1],
        outer=shapes["out_conv.weight"][0],
        widths=widths,
        blocks=blocks,
        attention=attention,
        halve=(True,) * (len(widths) - 1),
        double=(True,) * (len(widths) - 1),
        head=64,
        classes=label[1] if label else 0,
        least=4,
        scale_shift=True,
        sinusoids=shapes["map_layer0.weight"][1],
        fused="values",
        side=sides[0],
    )


def song(shapes: Shapes, layout: str) -> SongConfig:
    """DDPM++ or NCSN++ of ``shapes``."""
    sides, widths, blocks, attention = _levels(shapes)
    enter = shapes[f"enc.{sides[0]}x{sides[0]}_conv.weight"]
    label = shapes.get("map_label.weight")
    fourier = "map_noise.freqs" in shapes
    filters = [shape for name, shape in shapes.items() if name.endswith(".resample_filter")]
    clock, noise = shapes["map_layer0.weight"]
    return SongConfig(
        inner=enter[1],
        outer=shapes[f"dec.{sides[0]}x{sides[0]}_aux_conv.weight"][0],
        first=enter[0],
        widths=widths,
        blocks=blocks,
        attention=attention,
        classes=label[1] if label else 0,
        noise=noise,
        clock=clock,
        fourier=fourier,
        residual=any(name.endswith("_aux_residual.weight") for name in shapes),
        smooth=filters[0][-1] == 4 if filters else fourier,
        side=sides[0],
    )


def check(source: Source) -> None:
    """Refuse networks that are preconditioned in another way than EDM's, where that is told; WeightsError."""
    told = source.metadata.get("edm.class", PRECONDITIONED)
    data = source.metadata.get("edm.sigma_data", "0.5")
    if "u" in source.entries:
        told = "iDDPMPrecond"
    if told != PRECONDITIONED or float(data) != 0.5:
        raise WeightsError(
            f"{source.path} is preconditioned as {told} with sigma_data = {data}: {PRECONDITIONED} with 0.5 is "
            "followed here (the files edm-*.pkl), not the baselines"
        )


def notes(source: Source) -> tuple[str, ...]:
    """What is taken for granted of a file that tells no class of preconditioning."""
    if "edm.class" in source.metadata:
        return ()
    return (
        f"taken to be preconditioned as {PRECONDITIONED} with sigma_data = 0.5, which the file does not tell",
    )


def defaults(config: Any, usual: Defaults) -> Defaults:
    """The authors' best sampling: 256 steps with churn for ImageNet-64, 40 for others of 64 pixels, 18 for 32."""
    sampler, steps = (
        ("edm", 256) if isinstance(config, PixelConfig) else ("heun", 18 if config.side <= 32 else 40)
    )
    return replace(usual, sampler=sampler, steps=steps, width=config.side, height=config.side)


DEFAULTS = Defaults(
    steps=18,
    sampler="heun",
    grid="karras",
    guidance=1.0,
    width=32,
    height=32,
    multiple=1,
    least=1,
    most=4096,
)
SCHEDULE = Exploding(0.002, 80.0)
