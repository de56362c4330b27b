"""The table of deterministic samplers: solvers of the probability-flow ODE."""

from __future__ import annotations

from sfumato.samplers.multistep import walk_by
from sfumato.samplers.rules import ddim, dpmpp_2m
from sfumato.samplers.sampler import Sampler
from sfumato.samplers.singlestep import heun

ODE: tuple[Sampler, ...] = (
    Sampler(
        name="ddim",
        walk=walk_by(ddim),
        order=1,
        evaluations=1,
        stochastic=False,
        reference="Song et al. 2021a, Denoising Diffusion Implicit Models, eq. 12",
        cite=("song2021ddim",),
        off_line=True,
    ),
    Sampler(
        name="dpmpp_2m",
        walk=walk_by(ddim, dpmpp_2m),
        order=2,
        evaluations=1,
        stochastic=False,
        reference="Lu et al. 2022b, DPM-Solver++, alg. 2",
        cite=("lu2022dpmpp",),
        aliases=("dpm++2m", "dpmpp"),
        off_line=True,
    ),
    Sampler(
        name="euler",
        walk=walk_by(ddim),
        order=1,
        evaluations=1,
        stochastic=False,
        reference="Karras et al. 2022, Elucidating the Design Space, alg. 1 without the correction",
        cite=("karras2022edm",),
        off_line=True,
    ),
    Sampler(
        name="heun",
        walk=heun,
        order=2,
        evaluations=2,
        stochastic=False,
        reference="Karras et al. 2022, Elucidating the Design Space, alg. 1",
        cite=("karras2022edm",),
    ),
)
"""Samplers that draw no noise after the first."""
