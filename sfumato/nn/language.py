"""A language model as an encoder of text: Gemma 2 (Gemma Team 2024), which transformers brings (families/languages)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class LanguageConfig:
    """The numbers that make a Gemma 2: its ``width``, how many ``layers``, and ``told``, all settings by their names.

    ``prefix`` stands before the names of its weights where they are of the class with a head.
    """

    width: int
    layers: int
    told: Mapping[str, Any] = field(default_factory=dict, hash=False)
    prefix: str = ""

    @property
    def begin(self) -> int:
        """The token at the beginning of every text."""
        return int(self.told.get("bos_token_id", 2))

    @property
    def padding(self) -> int:
        """The token that fills rows."""
        return int(self.told.get("pad_token_id", 0))


class Language(nn.Module):
    """A language model without its head."""

    def __init__(self, config: LanguageConfig, model: nn.Module) -> None:
        """Hold transformers' ``model`` of ``config``."""
        super().__init__()
        self.config, self.model = config, model

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.model.parameters()).device

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """The states before the last layer (B, S, width) of ``ids`` (B, S), with ``mask`` True at tokens."""
        told = self.model(ids, attention_mask=mask.long(), output_hidden_states=True, use_cache=False)
        states: Tensor = told.hidden_states[-2]
        return states
