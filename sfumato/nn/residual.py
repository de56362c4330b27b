"""``rest + layer(x)``: one operation where the layer can do it in one, as packed layers can (see pack)."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor, nn


class Adding(nn.Module):
    """A layer that can add its output to something while it computes it."""

    @abstractmethod
    def add(self, rest: Tensor, x: Tensor, *, overwrite: bool) -> Tensor:
        """``rest + self(x)``; ``overwrite`` allows the result to take the memory of ``rest``."""


def onto(rest: Tensor, layer: nn.Module, x: Tensor, *, overwrite: bool = False) -> Tensor:
    """``rest + layer(x)``; ``overwrite`` says that nobody else reads ``rest`` any more."""
    if isinstance(layer, Adding):
        return layer.add(rest, x, overwrite=overwrite)
    out: Tensor = rest + layer(x)
    return out
