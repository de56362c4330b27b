"""Adapter files written by the tests themselves: redrawn factors for the reference's layers, and the update they mean.

Nothing of sfumato.adapters is used: names and formulas are written here once more, on diffusers' modules.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

Factors = dict[str, Tensor]
RANK, ALPHA = 3, 1.5


def layers(net: nn.Module, kinds: tuple[type, ...] = (nn.Linear, nn.Conv2d)) -> dict[str, nn.Module]:
    """The reference's linear maps and convolutions by name."""
    return {name: module for name, module in net.named_modules() if isinstance(module, kinds)}


def draw(shape: tuple[int, ...], generator: torch.Generator, size: float = 0.4) -> Tensor:
    return torch.randn(shape, generator=generator) * size


def lora(weight: Tensor, g: torch.Generator, rank: int = RANK) -> Factors:
    outer, inner, *kernel = weight.shape
    return {
        "down": draw((rank, inner, *kernel), g),
        "up": draw((outer, rank, *[1] * len(kernel)), g),
    }


def lora_update(f: Factors, weight: Tensor, alpha: float = ALPHA) -> Tensor:
    """Written out over the rank, one outer product after the other."""
    total = torch.zeros_like(weight, dtype=torch.float64)
    for r in range(len(f["down"])):
        up = f["up"][:, r].reshape(-1, *[1] * (weight.ndim - 1)).double()
        total += up * f["down"][r].double()[None].reshape(1, *weight.shape[1:])
    return total * alpha / len(f["down"])


def locon_mid(weight: Tensor, g: torch.Generator) -> Factors:
    outer, inner, *kernel = weight.shape
    return {
        "down": draw((RANK, inner, 1, 1), g),
        "mid": draw((RANK, RANK, *kernel), g),
        "up": draw((outer, RANK, 1, 1), g),
    }


def locon_mid_update(f: Factors, weight: Tensor) -> Tensor:
    """A convolution of the unit impulses: the three small ones after each other, as a network would run them."""
    _, inner, high, wide = weight.shape
    impulse = torch.zeros(inner, inner, 2 * high - 1, 2 * wide - 1, dtype=torch.float64)
    for i in range(inner):
        impulse[i, i, high - 1, wide - 1] = 1
    h = nn.functional.conv2d(impulse, f["down"].double())
    h = nn.functional.conv2d(h, f["mid"].double())
    answer = nn.functional.conv2d(h, f["up"].double())  # (I, O, h, w), the kernel mirrored
    return answer.flip(2, 3).permute(1, 0, 2, 3) * ALPHA / RANK


def loha(weight: Tensor, g: torch.Generator) -> Factors:
    outer, inner = weight.shape[0], weight[0].numel()
    return {
        f"hada_w{n}_{side}": draw(shape, g)
        for n in (1, 2)
        for side, shape in (("a", (outer, RANK)), ("b", (RANK, inner)))
    }


def loha_update(f: Factors, weight: Tensor) -> Tensor:
    first = lora_update({"up": f["hada_w1_a"], "down": f["hada_w1_b"]}, weight.flatten(1), RANK)
    second = lora_update({"up": f["hada_w2_a"], "down": f["hada_w2_b"]}, weight.flatten(1), RANK)
    return (first * second * ALPHA / RANK).view(weight.shape)


def loha_tucker(weight: Tensor, g: torch.Generator) -> Factors:
    outer, inner, *kernel = weight.shape
    found = {}
    for n in (1, 2):
        found[f"hada_w{n}_a"] = draw((RANK, outer), g)
        found[f"hada_w{n}_b"] = draw((RANK, inner), g)
        found[f"hada_t{n}"] = draw((RANK, RANK, *kernel), g)
    return found


def loha_tucker_update(f: Factors, weight: Tensor) -> Tensor:
    halves = []
    for n in (1, 2):
        up, mid, down = f[f"hada_w{n}_a"].T, f[f"hada_t{n}"], f[f"hada_w{n}_b"]
        halves.append(
            locon_mid_update({"up": up[..., None, None], "mid": mid, "down": down[..., None, None]}, weight)
        )
    return halves[0] * halves[1] * (RANK / ALPHA)


def parted(number: int) -> tuple[int, int]:
    """Two factors of ``number``, the first 2 where that goes."""
    return (2, number // 2) if number % 2 == 0 else (1, number)


def lokr(weight: Tensor, g: torch.Generator) -> Factors:
    """The first factor whole, the second in two parts."""
    outer, inner, *kernel = weight.shape
    (o, p), (i, r) = parted(outer), parted(inner)
    return {
        "lokr_w1": draw((o, i), g),
        "lokr_w2_a": draw((p, RANK), g),
        "lokr_w2_b": draw((RANK, r * int(torch.Size(kernel).numel())), g),
    }


def lokr_whole(weight: Tensor, g: torch.Generator) -> Factors:
    outer, inner, *kernel = weight.shape
    (o, p), (i, r) = parted(outer), parted(inner)
    return {"lokr_w1": draw((o, i), g), "lokr_w2": draw((p, r, *kernel), g)}


def lokr_tucker(weight: Tensor, g: torch.Generator) -> Factors:
    outer, inner, *kernel = weight.shape
    (o, p), (i, r) = parted(outer), parted(inner)
    return {
        "lokr_w1_a": draw((o, RANK), g),
        "lokr_w1_b": draw((RANK, i), g),
        "lokr_w2_a": draw((RANK, p), g),
        "lokr_w2_b": draw((RANK, r), g),
        "lokr_t2": draw((RANK, RANK, *kernel), g),
    }


def lokr_update(f: Factors, weight: Tensor) -> Tensor:
    """Entry by entry of the first factor: a block of the weight each."""
    outer, inner, *kernel = weight.shape
    (o, p), (i, r) = parted(outer), parted(inner)
    first = f["lokr_w1"] if "lokr_w1" in f else f["lokr_w1_a"].double() @ f["lokr_w1_b"].double()
    small = torch.empty(p, r, *kernel)
    if "lokr_t2" in f:
        up, down = f["lokr_w2_a"].T[..., None, None], f["lokr_w2_b"][..., None, None]
        second = locon_mid_update({"up": up, "mid": f["lokr_t2"], "down": down}, small) * RANK / ALPHA
    elif "lokr_w2" in f:
        second = f["lokr_w2"].double()
    else:
        second = lora_update({"up": f["lokr_w2_a"], "down": f["lokr_w2_b"]}, small.flatten(1), RANK)
    second = second.reshape(small.shape)
    total = torch.empty(weight.shape, dtype=torch.float64)
    for row in range(o):
        for column in range(i):
            block = float(first[row, column]) * second
            total[row * p : (row + 1) * p, column * r : (column + 1) * r] = block
    return total if "lokr_w2" in f and "lokr_w1" in f else total * ALPHA / RANK


def dora(weight: Tensor, g: torch.Generator) -> Factors:
    size = weight.flatten(1).norm(dim=1)
    return {**lora(weight, g), "magnitude": size * (1 + draw((len(weight),), g))}


def dora_update(f: Factors, weight: Tensor) -> Tensor:
    moved = weight.double() + lora_update(f, weight)
    rows = [m.double() * v / v.square().sum().sqrt() for m, v in zip(f["magnitude"], moved, strict=True)]
    return torch.stack(rows) - weight.double()


def full(weight: Tensor, g: torch.Generator) -> Factors:
    return {"diff": draw(tuple(weight.shape), g)}


def full_update(f: Factors, weight: Tensor) -> Tensor:
    return f["diff"].double()


Make = Callable[[Tensor, torch.Generator], Factors]
Update = Callable[[Factors, Tensor], Tensor]
ALGORITHMS: dict[str, tuple[Make, Update]] = {
    "lora": (lora, lora_update),
    "locon_mid": (locon_mid, locon_mid_update),
    "loha": (loha, loha_update),
    "loha_tucker": (loha_tucker, loha_tucker_update),
    "lokr": (lokr, lokr_update),
    "lokr_whole": (lokr_whole, lokr_update),
    "lokr_tucker": (lokr_tucker, lokr_update),
    "dora": (dora, dora_update),
    "full": (full, full_update),
}
KERNELS_ONLY = ("locon_mid", "loha_tucker", "lokr_tucker")

LYCORIS = {
    "down": "lora_down.weight",
    "up": "lora_up.weight",
    "mid": "lora_mid.weight",
    "magnitude": "dora_scale",
}
PEFT = {"down": "lora_A.weight", "up": "lora_B.weight", "magnitude": "lora_magnitude_vector"}


def written(
    path: Path,
    factors: Mapping[str, Factors],
    spell: Callable[[str], str],
    endings: Mapping[str, str],
    alpha: float | None = ALPHA,
    metadata: dict[str, str] | None = None,
) -> Path:
    """A file with ``factors`` by the reference's names, spelled by ``spell``."""
    tensors: dict[str, Tensor] = {}
    for name, own in factors.items():
        for role, tensor in own.items():
            value = tensor
            if role == "magnitude" and endings is LYCORIS:
                value = tensor.view(-1, 1)
            tensors[f"{spell(name)}.{endings.get(role, role)}"] = value.contiguous()
        if alpha is not None and "diff" not in own:
            tensors[f"{spell(name)}.alpha"] = torch.tensor(alpha)
    save_file(tensors, path, metadata)
    return path


@torch.no_grad()
def changed(
    net: nn.Module, factors: Mapping[str, Factors], update: Update, strength: float = 1.0
) -> nn.Module:
    """The reference with the updates added to its weights in float64."""
    for name, own in factors.items():
        weight = net.get_submodule(name).weight
        weight.copy_(weight.double() + strength * update(own, weight.detach()))
    return net


FLUX_ORIGINAL = {
    **{
        f"double_blocks.0.{a}": (outer * 16, inner * 16)
        for side in ("img", "txt")
        for a, outer, inner in (
            (f"{side}_attn.qkv", 3, 1),
            (f"{side}_attn.proj", 1, 1),
            (f"{side}_mlp.0", 4, 1),
            (f"{side}_mlp.2", 1, 4),
            (f"{side}_mod.lin", 6, 1),
        )
    },
    **{
        f"single_blocks.{i}.{a}": (outer * 16, inner * 16)
        for i in range(2)
        for a, outer, inner in (("linear1", 7, 1), ("linear2", 1, 5), ("modulation.lin", 3, 1))
    },
    "img_in": (16, 64),
    "txt_in": (16, 20),
    "time_in.in_layer": (16, 256),
    "time_in.out_layer": (16, 16),
    "vector_in.in_layer": (16, 12),
    "vector_in.out_layer": (16, 16),
    "guidance_in.in_layer": (16, 256),
    "guidance_in.out_layer": (16, 16),
}


def original(shapes: dict[str, tuple[int, int]], algorithm: str = "lora") -> dict[str, Factors]:
    draws = torch.Generator().manual_seed(4)
    found = {name: ALGORITHMS[algorithm][0](torch.empty(shape), draws) for name, shape in shapes.items()}
    for own in found.values():
        own["down"] *= own["down"][0].numel() ** -0.5
    return found
