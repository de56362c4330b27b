"""Cases of the further families: small versions of their networks, ours read from the reference's shapes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

import diffusers
import torch
from torch import Tensor, nn

from sfumato.families.checkpoint import NETWORKS, READERS, TABLES, refined
from sfumato.nn.flux import folded, positions
from tests.adapters.case import Call, Case
from tests.peers import further as peers

Draw = Callable[..., Tensor]


@cache
def built(name: str) -> nn.Module:
    """The reference called ``name``, built once."""
    if name in peers.UNETS:
        return diffusers.UNet2DModel(**{**peers.SQUARE, **peers.UNETS[name]})
    net: nn.Module = peers.FURTHER[name]().transformer
    return peers.as_published(net) if name == "dit" else net


def case(
    name: str,
    kind: str,
    call_theirs: Call,
    call_ours: Call,
    adapted: Callable[[str], bool] = lambda name: True,
) -> Case:
    """The case of the reference ``name``, which is of ``kind`` here."""
    net = built(name)
    told: Any = net.config
    shapes = {key: tuple(value.shape) for key, value in net.state_dict().items()}
    config = refined(READERS[kind](shapes, "diffusers"), dict(told))
    return Case(
        lambda: copy.deepcopy(net),
        lambda: NETWORKS[kind](config),
        TABLES[kind](config),
        "denoiser",
        "unet" if kind == "pixels" else "transformer",
        call_theirs,
        call_ours,
        adapted,
    )


CLOCK = torch.tensor([1.0, 4.0])
MASK = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
LABEL = torch.tensor([3, 7])


def pixart_theirs(net: Any, draw: Draw) -> Tensor:
    x, tokens = draw(2, 4, 8, 8), draw(2, 5, 48)
    added = {"resolution": None, "aspect_ratio": None}
    answer: Tensor = net(x, tokens, CLOCK, added, encoder_attention_mask=MASK.float()).sample
    return answer


def pixart_ours(net: nn.Module, draw: Draw) -> Tensor:
    x, tokens = draw(2, 4, 8, 8), draw(2, 5, 48)
    answer: Tensor = net(x, CLOCK, tokens=tokens, mask=MASK)
    return answer


def chroma_theirs(net: Any, draw: Draw) -> Tensor:
    x, tokens = draw(2, 16, 8, 8), draw(2, 5, 48)
    whole = torch.cat((MASK, torch.ones(2, 16, dtype=torch.bool)), 1)
    rows = net(folded(x), tokens, CLOCK / 1000, positions(4, 4, 0), torch.zeros(5, 3), whole).sample
    return torch.nn.functional.pixel_shuffle(rows.transpose(1, 2).unflatten(2, (4, 4)), 2)


def chroma_ours(net: nn.Module, draw: Draw) -> Tensor:
    x, tokens = draw(2, 16, 8, 8), draw(2, 5, 48)
    answer: Tensor = net(x, CLOCK, tokens=tokens, mask=MASK)
    return answer


def pixels(name: str) -> Case:
    """A U-Net on pixels."""
    label = LABEL if peers.UNETS[name].get("num_class_embeds") else None
    return case(
        name,
        "pixels",
        lambda net, draw: net(draw(2, 3, 16, 16), CLOCK, label).sample,
        lambda net, draw: net(draw(2, 3, 16, 16), CLOCK, label=label),
    )


FURTHER: dict[str, Case] = {
    "pixart": case("pixart sigma", "pixart", pixart_theirs, pixart_ours),
    "dit": case(
        "dit",
        "dit",
        lambda net, draw: net(draw(2, 4, 8, 8), CLOCK, LABEL).sample,
        lambda net, draw: net(draw(2, 4, 8, 8), CLOCK, label=LABEL),
        lambda name: ".emb." not in name,  # one for all blocks here, where diffusers has copies
    ),
    "chroma": case("chroma", "chroma", chroma_theirs, chroma_ours),
    "ddpm": pixels("ddpm attention"),
    "adm": pixels("adm"),
}
"""The cases by name."""
