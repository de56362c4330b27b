"""How to walk a grid: one table of names; each sampler is a coroutine that awaits a denoiser."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from sfumato.errors import UnknownName
from sfumato.process.estimate import Walk
from sfumato.samplers.multistep import ancestral, multistep
from sfumato.samplers.rules import ddim, dpmpp_2m
from sfumato.samplers.singlestep import heun


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """A named sampler: its coroutine and what there is to know of it.

    ``order`` is that of its error in the step of log(alpha / sigma), of the law of the samples where it is
    ``stochastic``, that is, draws noise; ``evaluations`` of the network a step (the last step takes one).
    """

    name: str
    walk: Walk
    order: int
    evaluations: int
    stochastic: bool
    reference: str
    aliases: tuple[str, ...] = ()


SAMPLERS: dict[str, Sampler] = {
    s.name: s
    for s in (
        Sampler(
            name="ddim",
            walk=partial(multistep, rules=(ddim,)),
            order=1,
            evaluations=1,
            stochastic=False,
            reference="Song et al. 2021a, Denoising Diffusion Implicit Models, eq. 12",
        ),
        Sampler(
            name="ddpm",
            walk=partial(multistep, rules=(ddim,), churn=ancestral),
            order=1,
            evaluations=1,
            stochastic=True,
            reference="Ho et al. 2020, Denoising Diffusion Probabilistic Models, alg. 2",
        ),
        Sampler(
            name="dpmpp_2m",
            walk=partial(multistep, rules=(ddim, dpmpp_2m)),
            order=2,
            evaluations=1,
            stochastic=False,
            reference="Lu et al. 2022b, DPM-Solver++, alg. 2",
            aliases=("dpm++2m", "dpmpp"),
        ),
        Sampler(
            name="euler",
            walk=partial(multistep, rules=(ddim,)),
            order=1,
            evaluations=1,
            stochastic=False,
            reference="Karras et al. 2022, Elucidating the Design Space, alg. 1 without the correction",
        ),
        Sampler(
            name="heun",
            walk=heun,
            order=2,
            evaluations=2,
            stochastic=False,
            reference="Karras et al. 2022, Elucidating the Design Space, alg. 1",
        ),
    )
}
"""Every sampler by name."""


def sampler(name: str) -> Sampler:
    """The sampler called ``name`` (or by an alias); UnknownName with the nearest names otherwise."""
    for entry in SAMPLERS.values():
        if name == entry.name or name in entry.aliases:
            return entry
    raise UnknownName("sampler", name, SAMPLERS)
