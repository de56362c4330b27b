"""Language models that draw what they say of a text, tokenizers of letters, and settings: see wrapped_pipelines.py."""

from __future__ import annotations

import types
import zlib
from collections.abc import Callable
from typing import Any

import diffusers
import torch
from torch import Tensor, nn


def drawn(width: int, text: Any, *told: Any, length: int = 0, layers: int = 0) -> Tensor:
    """States of ``text``, (1, L, width) or with ``layers`` (1, L, layers, width), by it and all that was told."""
    draws = torch.Generator().manual_seed(zlib.crc32(repr((text, told)).encode()))
    count = length or 3 + len(str(text)) % 5
    shape = (1, count, layers, width) if layers else (1, count, width)
    return torch.randn(shape, generator=draws).double()


def one(text: Any) -> str:
    """The only text of a list, or the text."""
    return text if isinstance(text, str) else text[0]


def saying(pipe: Any, **methods: Callable[..., Any]) -> Any:
    """``pipe`` with some of its methods replaced."""
    for name, function in methods.items():
        setattr(pipe, name, types.MethodType(function, pipe))
    return pipe


class Words:
    """A tokenizer whose ids are the letters of a text."""

    def __init__(self, *made: Any, **more: Any) -> None: ...

    def __call__(self, text: Any = None, **told: Any) -> Any:
        """The ids of a text, padded to a multiple of 8 where that is asked."""
        ids = [1 + ord(letter) % 90 for letter in one(text)] or [1]
        padded = -len(ids) % (told.get("pad_to_multiple_of") or 1)
        if told.get("padding") == "max_length":
            padded = told["max_length"] - len(ids)
        rows = torch.tensor([ids + [0] * padded])
        found = Ids(input_ids=rows, attention_mask=(rows > 0).long())
        found["position_ids"] = torch.arange(rows.shape[1])[None]
        return found

    def apply_chat_template(self, messages: Any, **told: Any) -> str:
        """The words of all messages."""
        return str(messages)

    def save_pretrained(self, *made: Any, **more: Any) -> None:
        """Nothing is kept."""


class Ids(dict[str, Any]):
    """What a tokenizer answers."""

    __getattr__ = dict.__getitem__

    def to(self, *told: Any, **more: Any) -> Ids:
        """Itself."""
        return self


class Said(nn.Module):
    """A language model that draws its states by the ids, in every layer others."""

    dtype = torch.float64
    device = torch.device("cpu")

    def __init__(self, width: int, first: bool = True) -> None:
        super().__init__()
        self.width, self.first = width, first

    def forward(self, input_ids: Tensor, **told: Any) -> Any:
        """States of three layers; (B, L, D), or (L, B, D) for ChatGLM."""
        ids = input_ids.tolist()
        states = [drawn(self.width, ids, layer, length=len(ids[0])) for layer in range(3)]
        found = [one if self.first else one.transpose(0, 1) for one in states]
        return types.SimpleNamespace(hidden_states=found)


class Listed(Words):
    """The same, with its ids as a list."""

    def __call__(self, text: Any = None, **told: Any) -> Any:
        """The ids of a text."""
        return {"input_ids": super().__call__(text, **told)["input_ids"][0].tolist()}


EIGHT: dict[str, Any] = {
    "block_out_channels": (8, 8, 8, 8),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 1,
    "norm_num_groups": 4,
}
"""An autoencoder of factor 8, which some pipelines take for granted."""


DYNAMIC: dict[str, Any] = {"use_dynamic_shifting": True, "shift": 3.0, "base_shift": 0.5, "max_shift": 1.15}


def flow(**told: Any) -> diffusers.FlowMatchEulerDiscreteScheduler:
    """A scheduler of a rectified flow."""
    return diffusers.FlowMatchEulerDiscreteScheduler(**told)
