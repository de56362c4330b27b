"""A language model as an encoder of text, which transformers brings (families/languages): Gemma 2, Qwen 3.

Gemma Team 2024; Yang et al. 2025.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class LanguageConfig:
    """The numbers that make a language model: its ``width``, how many ``layers``, and ``told``, all settings by name.

    ``kind`` says which one it is (families/languages.KNOWN). ``prefix`` stands before the names of its weights
    where they are of the class with a head.
    """

    width: int
    layers: int
    kind: str = "gemma2"
    told: Mapping[str, Any] = field(default_factory=dict, hash=False)
    prefix: str = ""

    @property
    def padding(self) -> int:
        """The token that fills rows."""
        return int(self.told.get("pad_token_id") or 0)


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

    def forward(self, ids: Tensor, mask: Tensor, *, skip: int = 1) -> Tensor:
        """The states (B, S, width) of ``ids`` (B, S), with ``mask`` True at tokens.

        They are those before the last ``skip`` layers; with 0 those after all layers and the norm behind them.
        """
        told = self.model(ids, attention_mask=mask.long(), output_hidden_states=True, use_cache=False)
        states: Tensor = told.hidden_states[-1 - skip]
        return states
