"""What the deterministic samplers were compared with: name -> (peer, largest relative difference allowed, note).

The figures are bounds that the tests hold (``agree``), a power of ten above what was measured. The differences
are of the ends of whole trajectories on the same levels with the same network, relative to the largest value. Peers
compute in float64 where the note does not say that they cast to float32. Names without a peer are in NO_PEER.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

PEERS: dict[str, list[tuple[str, float, str]]] = {
    "ddim": [
        ("diffusers DDIMScheduler", 1e-10, "in test_samplers_diffusers.py"),
        ("k-diffusion sample_euler", 1e-13, ""),
    ],
    "euler": [("k-diffusion sample_euler", 1e-13, "")],
    "heun": [
        ("k-diffusion sample_heun", 1e-13, "on levels divided by alpha"),
        ("diffusers HeunDiscreteScheduler", 1e-5, "float32; in test_samplers_diffusers.py"),
    ],
    "dpm2": [
        ("k-diffusion sample_dpm_2", 1e-13, ""),
        ("diffusers KDPM2DiscreteScheduler", 1e-13, ""),
    ],
    "dpmpp_2m": [
        ("k-diffusion sample_dpmpp_2m", 1e-13, ""),
        ("diffusers DPMSolverMultistepScheduler", 1e-6, "solver_order 2; float32"),
    ],
    "dpmpp_3m": [
        (
            "diffusers DPMSolverMultistepScheduler",
            1e-6,
            "solver_order 3; float32; theirs is dpmpp_3m(curvature=0.5), which is of second order",
        )
    ],
    "res_multistep": [
        (
            "diffusers DPMSolverMultistepScheduler",
            1e-6,
            "solver_order 2 and solver_type heun: the same rule under another name; float32",
        )
    ],
    "lms": [
        ("k-diffusion sample_lms", 1e-13, "orders 1 to 4"),
        ("diffusers LMSDiscreteScheduler", 1e-13, "orders 1 to 4"),
    ],
    "deis": [
        (
            "diffusers DEISMultistepScheduler",
            1e-12,
            "orders 1 to 3, lower_order_final off; theirs ends at the schedule's least level",
        )
    ],
    "pndm": [("diffusers PNDMScheduler", 1e-13, "skip_prk_steps")],
    "ipndm": [("diffusers IPNDMScheduler", 1e-12, "from levels with alpha above 0")],
    "unipc": [
        (
            "diffusers UniPCMultistepScheduler",
            1e-13,
            "bh2; order 2 to sigma = 0, orders 1 to 3 to the least level with lower_order_final off",
        )
    ],
    "unipc_bh1": [
        ("diffusers UniPCMultistepScheduler", 1e-13, "bh1; as unipc, and theirs ends in NaN at sigma = 0")
    ],
    "dpm_adaptive": [
        ("k-diffusion sample_dpm_adaptive", 1e-13, "orders 2 and 3, the same steps taken and refused")
    ],
    "invert": [("diffusers DDIMInverseScheduler", 1e-13, "refine 0")],
}

NO_PEER = {
    "gradient_estimation": "no package on PyPI has it; ComfyUI does, by the same rule",
}


def network(x: Tensor, t: float) -> Tensor:
    """Not linear in x, mixes its values, and changes with t (an index); about as large as noise."""
    return torch.tanh(0.8 * x + 0.3 * x.roll(1, -1)) + 0.2 * math.sin(3 * t / 1000)


def start(scale: float = 1.0) -> Tensor:
    """Normals of deviation ``scale`` in float64."""
    return scale * torch.randn(2, 3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def agree(name: str, peer: str, ours: Tensor, theirs: Tensor) -> None:
    """Hold the difference against the bound of PEERS."""
    (bound,) = (figure for found, figure, _ in PEERS[name] if found == peer)
    assert ours.isfinite().all()
    assert float(theirs.abs().max()) > 0.1
    found = float((ours - theirs).abs().max() / theirs.abs().max())
    print(f"PEER {name} | {peer} | {found:.1e}")
    assert found <= bound
