"""Parameters as two flat vectors: float32 masters for the optimiser, a working copy for the arithmetic.

The module's parameters become views into one working vector (bf16 where the machine computes in bf16) and its
gradients views into another, so that clipping, AdamW and the moving average are a few operations on long
vectors instead of thousands on small tensors. Four-dimensional kernels lie channels-last inside the vectors.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class FlatParameters:
    """The parameters of ``module`` as flat vectors; the module computes in ``dtype`` from now on.

    ``master`` holds two float32 parameters: matrices and kernels, which decay, and all else, which does not.
    """

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        """Move the parameters of ``module`` into flat vectors; buffers are cast in place."""
        named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
        decaying = [(n, p) for n, p in named if p.ndim >= 2]
        plain = [(n, p) for n, p in named if p.ndim < 2]
        self.module, self.dtype = module, dtype
        self.places: dict[str, tuple[int, int, torch.Size]] = {}
        self.master: list[nn.Parameter] = []
        self.working: list[Tensor] = []
        self.gradient: list[Tensor] = []
        self._wide: list[Tensor] = []  # the gradients in float32
        for group, members in enumerate((decaying, plain)):
            size = sum(p.numel() for _, p in members)
            device = members[0][1].device if members else torch.device("cpu")
            master = torch.empty(size, dtype=torch.float32, device=device)
            working = master if dtype == torch.float32 else torch.empty(size, dtype=dtype, device=device)
            gradient = torch.zeros(size, dtype=dtype, device=device)
            offset = 0
            for name, parameter in members:
                self.places[name] = (group, offset, parameter.shape)
                view_of(master, offset, parameter.shape).copy_(parameter.detach())
                parameter.data = view_of(working, offset, parameter.shape)
                parameter.grad = view_of(gradient, offset, parameter.shape)
                offset += parameter.numel()
            self.master.append(nn.Parameter(master))
            self.working.append(working)
            self.gradient.append(gradient)
            # Kept between steps: fresh memory for a vector this long costs more than all arithmetic on it.
            self._wide.append(gradient if dtype == torch.float32 else torch.empty_like(master))
        for buffer in module.buffers():
            if buffer.is_floating_point():
                buffer.data = buffer.data.to(dtype)
        self.publish()

    @torch.no_grad()
    def publish(self) -> None:
        """Copy the masters into the working vectors."""
        for master, working in zip(self.master, self.working, strict=True):
            if working is not master.data:
                working.copy_(master)

    @torch.no_grad()
    def collect(self, clip: float) -> Tensor:
        """Hand the gradients to the masters in float32, scaled to a norm of at most ``clip``; the norm before.

        A float32 module's own gradients are scaled with them.
        """
        for wide, gradient in zip(self._wide, self.gradient, strict=True):
            if wide is not gradient:
                wide.copy_(gradient)
        norm: Tensor = torch.stack([wide.norm() for wide in self._wide]).norm()
        scale = (clip / (norm + 1e-6)).clamp(max=1.0)
        for master, wide in zip(self.master, self._wide, strict=True):
            if scale < 1:
                wide.mul_(scale)
            master.grad = wide
        return norm

    def clear(self) -> None:
        """Set all gradients to zero."""
        for gradient in self.gradient:
            gradient.zero_()

    def named(self, vectors: list[Tensor]) -> dict[str, Tensor]:
        """The tensors of the module by name, as views into ``vectors`` laid out like the masters."""
        return {name: view_of(vectors[g], o, shape) for name, (g, o, shape) in self.places.items()}

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor], vectors: list[Tensor]) -> None:
        """Copy named ``tensors`` into ``vectors`` laid out like the masters.

        KeyError, before anything is copied, unless names and shapes match exactly.
        """
        shapes = {name: shape for name, (_, _, shape) in self.places.items()}
        found = {name: tensor.shape for name, tensor in tensors.items()}
        different = sorted(n for n in shapes.keys() | found.keys() if shapes.get(n) != found.get(n))
        if different:
            raise KeyError(f"the parameters differ: {', '.join(different[:10])}")
        for name, view in self.named(vectors).items():
            view.copy_(tensors[name])


def view_of(vector: Tensor, offset: int, shape: torch.Size) -> Tensor:
    """The tensor of ``shape`` that lies at ``offset`` in ``vector``; kernels lie channels-last."""
    flat = vector[offset : offset + shape.numel()]
    if len(shape) == 4:
        out, inner, height, width = shape
        return flat.view(out, height, width, inner).permute(0, 3, 1, 2)
    return flat.view(shape)
