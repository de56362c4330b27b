"""FLUX.1 with the columns that an adapter adds: one of a map, Canny's or Depth's, which is laid beside x.

(Black Forest Labs 2024, FLUX.1-Canny-dev-lora and FLUX.1-Depth-dev-lora.) The first layer gets columns of zeros, so
that without the adapter the map says nothing; the adapter then changes them like the others.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from sfumato.errors import WeightsError
from sfumato.families.checkpoint import Part
from sfumato.families.family import BESIDE
from sfumato.nn.flux import Flux
from sfumato.weights.source import open_source

FIRST = ("img_in.", "img_in_", "x_embedder.", "x_embedder_")
"""What the first layer is called in files, before the kind of tensor."""
DOWN = ("lora_A.weight", "lora_A.default.weight", "lora_down.weight", "lora.down.weight")


def columns_of(paths: Iterable[Path], *, allow_pickle: bool = False) -> int:
    """How many columns of the first layer the widest of these adapters changes, 0 if none changes it."""
    found = 0
    for path in paths:
        with open_source(path, allow_pickle=allow_pickle) as source:
            for name, shape in source.shapes.items():
                if any(first in name for first in FIRST) and name.endswith(DOWN) and len(shape) == 2:
                    found = max(found, shape[1])
    return found


def wider(part: Part, net: nn.Module, columns: int) -> tuple[Part, nn.Module]:
    """The denoiser ``net`` and its ``part``, its first layer with so many ``columns`` if an adapter needs them.

    WeightsError where no network of the family has so many.
    """
    if not isinstance(net, Flux) or columns <= net.enter.in_features:
        return part, net
    channels = columns // 4
    if columns % 4 or ("flux", channels) not in BESIDE or part.config.channels != part.config.outer:
        allowed = ", ".join(str(4 * many) for kind, many in BESIDE if kind == "flux")
        raise WeightsError(
            f"an adapter changes {columns} columns of the first layer, and this FLUX.1 has {net.enter.in_features}: "
            f"those that read more than the picture have {allowed}, and are made of one that reads the picture alone"
        )
    old = net.enter.weight
    weight = torch.cat((old, old.new_zeros(len(old), columns - old.shape[1])), dim=1)
    with torch.device("meta"):
        enter = nn.Linear(columns, len(old))
    enter.weight = nn.Parameter(weight, requires_grad=False)
    enter.bias = net.enter.bias
    net.enter = enter
    net.config = replace(net.config, channels=channels)
    return replace(part, config=replace(part.config, channels=channels)), net
