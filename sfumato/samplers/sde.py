"""The table of stochastic samplers: those that draw fresh noise on the way."""

from __future__ import annotations

from sfumato.samplers.multistep import ancestral, walk_by
from sfumato.samplers.rules import ddim
from sfumato.samplers.sampler import Sampler

SDE: tuple[Sampler, ...] = (
    Sampler(
        name="ddpm",
        walk=walk_by(ddim, churn=ancestral),
        order=1,
        evaluations=1,
        stochastic=True,
        reference="Ho et al. 2020, Denoising Diffusion Probabilistic Models, alg. 2",
        cite=("ho2020ddpm",),
        off_line=True,
    ),
)
"""Samplers that draw noise in their steps."""
