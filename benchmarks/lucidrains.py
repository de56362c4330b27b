"""lucidrains' denoising-diffusion-pytorch without torchvision, scipy, pytorch_fid, which a step does not use."""

from __future__ import annotations

import importlib.machinery
import sys
import types
from collections.abc import Callable

import torch
from torch import Tensor, nn

_ABSENT = {
    "torchvision": ("models",),
    "torchvision.transforms": (),
    "torchvision.utils": (),
    "scipy": (),
    "scipy.optimize": ("linear_sum_assignment",),
    "pytorch_fid": (),
    "pytorch_fid.fid_score": ("calculate_frechet_distance",),
    "pytorch_fid.inception": ("InceptionV3",),
}


def trainer() -> tuple[nn.Module, Callable[[Tensor], Tensor]] | None:
    """Their Unet(dim=64) and its loss on pictures in [0, 1], or None if the package is not installed."""
    before = {name: sys.modules.get(name) for name in _ABSENT}
    for name, attributes in _ABSENT.items():
        module = types.ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        for attribute in attributes:
            setattr(module, attribute, None)
        sys.modules[name] = module
        if "." in name:
            parent, child = name.rsplit(".", 1)
            setattr(sys.modules[parent], child, module)
    try:
        from denoising_diffusion_pytorch import GaussianDiffusion, Unet
    except ImportError:
        return None
    finally:
        for name, old in before.items():  # other packages look whether torchvision is there
            sys.modules.pop(name, None)
            if old is not None:
                sys.modules[name] = old
    torch.manual_seed(0)
    net = Unet(dim=64, dim_mults=(1, 2, 4, 8), flash_attn=False)
    diffusion = GaussianDiffusion(net, image_size=32)
    return net, diffusion
