"""What the stochastic samplers were compared with: name -> (peer, largest relative difference allowed, note).

The figures are bounds that the tests hold (``agree``), the next power of ten above what was measured. The differences
are of the ends of whole trajectories with the same noise fed to both, relative to the largest value. "float32" says
that the peer computes in it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

PEERS: dict[str, list[tuple[str, float, str]]] = {
    "consistency": [
        ("diffusers CMStochasticIterativeScheduler", 1e-7, "without the network's boundary condition")
    ],
    "ddpm": [
        ("diffusers DDPMScheduler fixed_small", 1e-12, ""),
        ("diffusers DDPMScheduler fixed_large", 1e-12, "its noise in the last step taken off"),
        ("diffusers DDPMScheduler learned_range", 1e-12, "its noise in the last step taken off"),
    ],
    "dpm2_ancestral": [
        ("k-diffusion sample_dpm_2_ancestral", 1e-14, ""),
        ("diffusers KDPM2AncestralDiscreteScheduler", 1e-6, "float32"),
    ],
    "dpmpp_2m_sde": [
        ("k-diffusion sample_dpmpp_2m_sde", 1e-14, "solver_type midpoint"),
        ("diffusers DPMSolverMultistepScheduler sde-dpmsolver++", 1e-6, "float32; solver_type midpoint"),
    ],
    "dpmpp_2m_sde_heun": [
        ("k-diffusion sample_dpmpp_2m_sde", 1e-14, "solver_type heun"),
        ("diffusers DPMSolverMultistepScheduler sde-dpmsolver++", 1e-6, "float32; solver_type heun"),
    ],
    "dpmpp_2s_ancestral": [("k-diffusion sample_dpmpp_2s_ancestral", 1e-14, "")],
    "dpmpp_3m_sde": [
        ("k-diffusion sample_dpmpp_3m_sde", 1e-14, ""),
        (
            "diffusers DPMSolverMultistepScheduler sde-dpmsolver++",
            1e-6,
            "float32; solver_order 3, solver_type heun; a sign of theirs put right",
        ),
    ],
    "dpmpp_sde": [
        ("k-diffusion sample_dpmpp_sde", 1e-14, ""),
        ("diffusers DPMSolverSDEScheduler", 1e-12, ""),
    ],
    "edm": [
        ("k-diffusion sample_heun", 1e-14, "churn below the grid's first level"),
        ("diffusers KarrasVeScheduler", 1e-14, ""),
    ],
    "er_sde": [],
    "euler_ancestral": [
        ("k-diffusion sample_euler_ancestral", 1e-14, ""),
        ("diffusers EulerAncestralDiscreteScheduler", 1e-6, "float32"),
    ],
    "euler_ancestral_rf": [("diffusers LTXEulerAncestralRFScheduler", 1e-6, "float32")],
    "euler_maruyama": [("diffusers ScoreSdeVeScheduler step_pred", 1e-14, "")],
    "lcm": [
        ("diffusers LCMScheduler", 1e-14, "without the network's boundary condition"),
        ("diffusers FlowMatchLCMScheduler", 1e-6, "float32"),
    ],
    "pc": [("diffusers ScoreSdeVeScheduler", 1e-8, "snr chosen so that its ratio of norms is 1")],
    "restart": [],
    "sa_solver": [("diffusers SASolverScheduler", 1e-12, "its term beyond the paper at order 2 taken off")],
    "tcd": [("diffusers TCDScheduler", 1e-13, "at whole times")],
}


def network(x: Tensor, log_sigma: float) -> Tensor:
    """Not linear in x, mixes its values, and changes with log(sigma / alpha); about as large as noise."""
    return torch.tanh(0.8 * x + 0.3 * x.roll(1, -1)) + 0.2 * math.sin(log_sigma)


def noise(count: int, seed: int = 3, shape: tuple[int, ...] = (2, 3, 4, 5)) -> list[Tensor]:
    """Unit normals in float64."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, dtype=torch.float64, generator=generator) for _ in range(count)]


def agree(name: str, peer: str, ours: Tensor, theirs: Tensor) -> None:
    """Hold the difference against the bound of PEERS."""
    (bound,) = (figure for found, figure, _ in PEERS[name] if found == peer)
    assert ours.isfinite().all()
    found = float((ours - theirs).abs().max() / theirs.abs().max())
    print(f"PEER {name} | {peer} | {found:.1e}")
    assert found <= bound
