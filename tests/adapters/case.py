"""What a case of tests of adapters is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from sfumato.weights.keys import KeyTable

Call = Callable[[nn.Module, Callable[..., Tensor]], Tensor]


@dataclass(frozen=True)
class Case:
    """A network: the reference's module and ours, its names, its place and diffusers' prefix, and calls of both.

    ``adapted`` are the layers, by the reference's names, that adapters can change.
    """

    theirs: Callable[[], nn.Module]
    ours: Callable[[], nn.Module]
    table: KeyTable
    place: str
    prefix: str
    call_theirs: Call
    call_ours: Call
    adapted: Callable[[str], bool] = lambda name: True
