"""What the stochastic samplers were compared with: name -> (peer, largest relative difference measured, note).

The differences are of the ends of whole trajectories with the same noise fed to both, relative to the largest value,
in float64 but where the note says that the peer computes in float32. Tests hold them to ``SLACK`` times the figure.
Neither diffusers nor k-diffusion has an ER-SDE or a Restart sampler.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

PEERS: dict[str, list[tuple[str, float, str]]] = {
    "consistency": [
        ("diffusers CMStochasticIterativeScheduler", 1.1e-08, "without the network's boundary condition"),
    ],
    "ddpm": [
        ("diffusers DDPMScheduler fixed_small", 3.2e-15, ""),
        ("diffusers DDPMScheduler fixed_large", 3.7e-15, "its noise in the last step taken off"),
        ("diffusers DDPMScheduler learned_range", 3e-15, "its noise in the last step taken off"),
    ],
    "dpm2_ancestral": [
        ("k-diffusion sample_dpm_2_ancestral", 5.2e-16, ""),
        ("diffusers KDPM2AncestralDiscreteScheduler", 1.7e-07, "float32"),
    ],
    "dpmpp_2m_sde": [
        ("k-diffusion sample_dpmpp_2m_sde", 7.3e-16, "solver_type midpoint"),
        ("diffusers DPMSolverMultistepScheduler sde-dpmsolver++", 2.4e-07, "float32; solver_type midpoint"),
    ],
    "dpmpp_2m_sde_heun": [
        ("k-diffusion sample_dpmpp_2m_sde", 1e-15, "solver_type heun"),
        ("diffusers DPMSolverMultistepScheduler sde-dpmsolver++", 2e-07, "float32; solver_type heun"),
    ],
    "dpmpp_2s_ancestral": [
        ("k-diffusion sample_dpmpp_2s_ancestral", 4.9e-16, ""),
    ],
    "dpmpp_3m_sde": [
        ("k-diffusion sample_dpmpp_3m_sde", 1.7e-15, ""),
        (
            "diffusers DPMSolverMultistepScheduler sde-dpmsolver++",
            4.8e-07,
            "float32; solver_order 3, solver_type heun; a sign of theirs put right",
        ),
    ],
    "dpmpp_sde": [
        ("k-diffusion sample_dpmpp_sde", 3e-16, ""),
        ("diffusers DPMSolverSDEScheduler", 7.3e-16, ""),
    ],
    "edm": [
        ("k-diffusion sample_heun", 2e-16, "churn below the grid's first level"),
        ("diffusers KarrasVeScheduler", 2.7e-16, ""),
    ],
    "er_sde": [],
    "euler_ancestral": [
        ("k-diffusion sample_euler_ancestral", 5.1e-16, ""),
        ("diffusers EulerAncestralDiscreteScheduler", 1.5e-07, "float32"),
    ],
    "euler_ancestral_rf": [
        ("diffusers LTXEulerAncestralRFScheduler", 3e-07, "float32"),
    ],
    "euler_maruyama": [
        ("diffusers ScoreSdeVeScheduler step_pred", 3.7e-16, ""),
    ],
    "lcm": [
        ("diffusers LCMScheduler", 3.9e-16, "without the network's boundary condition"),
        ("diffusers FlowMatchLCMScheduler", 5.5e-08, "float32"),
    ],
    "pc": [
        ("diffusers ScoreSdeVeScheduler", 1.7e-10, "snr chosen so that its ratio of norms is 1"),
    ],
    "restart": [
        ("k-diffusion sample_heun", 1e-15, "put together from parts of the grid"),
    ],
    "sa_solver": [
        ("diffusers SASolverScheduler", 1.7e-14, "its term beyond the paper at order 2 taken off"),
    ],
    "tcd": [
        ("diffusers TCDScheduler", 1.8e-15, "at whole times"),
    ],
}

SLACK = 20.0
"""What rounding may differ by on another machine."""


def network(x: Tensor, log_sigma: float) -> Tensor:
    """Not linear in x, mixes its values, and changes with log(sigma / alpha); about as large as noise."""
    return torch.tanh(0.8 * x + 0.3 * x.roll(1, -1)) + 0.2 * math.sin(log_sigma)


def noise(count: int, seed: int = 3, shape: tuple[int, ...] = (2, 3, 4, 5)) -> list[Tensor]:
    """Unit normals in float64."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, dtype=torch.float64, generator=generator) for _ in range(count)]


def agree(name: str, peer: str, ours: Tensor, theirs: Tensor) -> None:
    """Hold the difference against the figure of PEERS."""
    (figure,) = (figure for known, figure, _ in PEERS[name] if known == peer)
    assert ours.isfinite().all()
    found = float((ours - theirs).abs().max() / theirs.abs().max())
    print(f"PEER {name} | {peer} | {found:.1e}")
    assert found <= SLACK * figure
