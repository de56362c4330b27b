"""What networks of another library want to be told besides latent, time and text: sizes, places, tables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from sfumato.nn.flux import positions

LENGTH = 128
"""How many tokens each of HiDream's encoders reads."""


@dataclass(frozen=True)
class Call:
    """One call of a network: its inputs by door, its settings, pixels a place, and how high and wide x is.

    ``beside`` is how high and wide a picture is that it looks at, None without one.
    """

    x: Tensor
    tokens: Tensor | None
    mask: Tensor | None
    vector: Tensor | None
    config: Any
    factor: int
    height: int
    width: int
    beside: tuple[int, int] | None = None

    @property
    def wide(self) -> Tensor:
        """An empty tensor where x is, in float32 or wider: narrower ones do not count to 1000."""
        return self.x.new_empty(0, dtype=torch.promote_types(self.x.dtype, torch.float32))

    @property
    def words(self) -> Tensor:
        """The states of the text, (B, L, D)."""
        assert self.tokens is not None
        return self.tokens


def places(height: int, width: int, like: Tensor, *, first: float = 0, begin: float = 0) -> Tensor:
    """(first, row, column) of each of height x width places, counted from ``begin``: (height width, 3)."""
    return positions(height, width, 0).to(like) + like.new_tensor([first, begin, begin])


def sizes(call: Call) -> dict[str, Any]:
    """CogView: the picture's size, that before it was cut, and the corner where that was done."""
    size = call.wide.new_tensor([[call.height * call.factor, call.width * call.factor]]).expand(
        len(call.x), -1
    )
    return {"original_size": size, "target_size": size, "crop_coords": torch.zeros_like(size)}


def shapes(call: Call) -> dict[str, Any]:
    """Qwen-Image: (frames, rows, columns) of the patches of each picture."""
    return {"img_shapes": [[(1, call.height // 2, call.width // 2)]] * len(call.x)}


def shapes_each(call: Call) -> dict[str, Any]:
    """Nucleus-Image: the same, without a list for each picture."""
    return {"img_shapes": [(1, call.height // 2, call.width // 2)] * len(call.x)}


def flux(call: Call) -> dict[str, Any]:
    """FLUX.1 and its kin: words at the origin, patches at their rows and columns."""
    return {
        "txt_ids": call.wide.new_zeros(call.words.shape[1], 3),
        "img_ids": places(call.height // 2, call.width // 2, call.wide),
    }


def _line(call: Call) -> Tensor:
    count = torch.arange(call.words.shape[1]).to(call.wide)
    return torch.stack((torch.zeros_like(count), count, count), -1)


def ovis(call: Call) -> dict[str, Any]:
    """Ovis-Image: words on the diagonal, patches at their rows and columns."""
    return {**flux(call), "txt_ids": _line(call)}


def longcat(call: Call) -> dict[str, Any]:
    """LongCat-Image: words on the diagonal, patches behind the 512th of them and of another kind."""
    img_ids = places(call.height // 2, call.width // 2, call.wide, first=1, begin=512)
    return {"txt_ids": _line(call), "img_ids": img_ids}


def flux2(call: Call) -> dict[str, Any]:
    """FLUX.2: (picture, row, column, word) of words and of places, for each row; a picture beside is number 10."""
    count = torch.arange(call.words.shape[1]).to(call.wide)
    words = F.pad(count[:, None], (3, 0))
    here = places(call.height, call.width, call.wide)
    if call.beside is not None:
        height, width = call.beside
        here = torch.cat((here, places(height, width, call.wide, first=10)))
    here = F.pad(here, (0, 1))
    rows = len(call.x)
    return {"txt_ids": words[None].expand(rows, -1, -1), "img_ids": here[None].expand(rows, -1, -1)}


def krea(call: Call) -> dict[str, Any]:
    """Krea 2: words at the origin, patches at their rows and columns, in one table; states of several layers.

    The states come one layer after the other in a column.
    """
    own = flux(call)
    layers = int(call.config["num_text_layers"])
    return {
        "position_ids": torch.cat((own["txt_ids"], own["img_ids"])),
        "encoder_hidden_states": call.words.reshape(*call.words.shape[:2], layers, -1),
    }


def ernie(call: Call) -> dict[str, Any]:
    """ERNIE-Image: the words and how many there are."""
    count = torch.full((len(call.x),), call.words.shape[1], device=call.x.device)
    return {"text_bth": call.words, "text_lens": count}


def hidream(call: Call) -> dict[str, Any]:
    """HiDream: T5's states and Llama's of each of its layers, which lie behind one another in ``tokens``."""
    first, then = (int(width) for width in call.config["caption_channels"])
    parts = call.words.reshape(len(call.words), -1, LENGTH, call.words.shape[-1])
    return {
        "encoder_hidden_states_t5": parts[:, 0, :, :first],
        "encoder_hidden_states_llama3": parts[:, 1:, :, :then].transpose(0, 1),
    }


def hunyuan(call: Call) -> dict[str, Any]:
    """HunyuanDiT: the states of BERT and T5, behind one another in ``tokens``; sizes, style 0, a table of angles."""
    config, words = call.config, call.words
    near, wide = int(config["cross_attention_dim"]), int(config["cross_attention_dim_t5"])
    cut = int(config["text_len"])
    assert call.mask is not None
    mask = call.mask.to(call.x.dtype)
    size = [1024.0, 1024.0, float(call.height * call.factor), float(call.width * call.factor), 0.0, 0.0]
    side, base = int(config["patch_size"]), 64 // int(config["patch_size"])
    width = int(config["attention_head_dim"])
    return {
        "encoder_hidden_states": words[:, :cut, :near].contiguous(),
        "encoder_hidden_states_t5": words[:, cut:, :wide].contiguous(),
        "text_embedding_mask": mask[:, :cut],
        "text_embedding_mask_t5": mask[:, cut:],
        "image_meta_size": call.wide.new_tensor([size] * len(call.x)),
        "style": torch.zeros(len(call.x), dtype=torch.long, device=call.x.device),
        "image_rotary_emb": angles(call.height // side, call.width // side, base, width, call.x),
    }


def angles(height: int, width: int, base: int, size: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the places of a picture that is fitted into ``base`` x ``base``: (height width, size) each.

    (HunyuanDiT, released code: the longer side is cut into its number of parts over ``base``, the shorter lies centred;
    columns turn the first half of ``size``, rows the second.)
    """
    low, high = (
        (base, round(base / height * width)) if height > width else (round(base / width * height), base)
    )
    lines = []
    for count, extent in ((width, high), (height, low)):
        begin = round((base - extent) / 2)
        end = (begin + extent) * (count - 1) / count
        lines.append(torch.linspace(begin, end, count, dtype=torch.float32, device=like.device))
    columns, rows = lines[0].repeat(height), lines[1].repeat_interleave(width)
    half = size // 2
    rates = 10000 ** -(torch.arange(0, half, 2, dtype=torch.float32, device=like.device) / half)
    turned = torch.cat([torch.outer(line, rates) for line in (columns, rows)], 1).repeat_interleave(2, 1)
    return turned.cos(), turned.sin()


def kandinsky(call: Call) -> dict[str, Any]:
    """Kandinsky 5: the places of frames, rows and columns of patches, and of the words."""
    place = call.x.device
    rows, columns = call.height // 2, call.width // 2
    return {
        "visual_rope_pos": [torch.arange(count, device=place) for count in (1, rows, columns)],
        "text_rope_pos": torch.arange(call.words.shape[1], device=place),
    }


def kolors(call: Call) -> dict[str, Any]:
    """Kolors, as Stable Diffusion XL: the pooled text and six sizes."""
    height, width = call.height * call.factor, call.width * call.factor
    told = call.wide.new_tensor([[height, width, 0, 0, height, width]]).expand(len(call.x), -1)
    return {"added_cond_kwargs": {"text_embeds": call.vector, "time_ids": told}}


More = Callable[[Call], dict[str, Any]]

MORE: dict[str, tuple[tuple[str, ...], More]] = {
    "sizes": (("original_size", "target_size", "crop_coords"), sizes),
    "shapes": (("img_shapes",), shapes),
    "shapes each": (("img_shapes",), shapes_each),
    "flux": (("txt_ids", "img_ids"), flux),
    "ovis": (("txt_ids", "img_ids"), ovis),
    "longcat": (("txt_ids", "img_ids"), longcat),
    "flux2": (("txt_ids", "img_ids"), flux2),
    "krea": (("position_ids",), krea),
    "ernie": (("text_bth", "text_lens"), ernie),
    "hidream": ((), hidream),
    "hunyuan": ((), hunyuan),
    "kandinsky": (("visual_rope_pos", "text_rope_pos"), kandinsky),
    "kolors": ((), kolors),
}
"""By name, the parameters that a function gives, and the function."""
