"""How far methods of posterior sampling are from the exact posterior, on mixtures whose posterior is known.

::

    python -m benchmarks.posterior [--count 1000] [--steps 100] [--problems 6]

Two laws of 8 values: a Gaussian, and a mixture of three; each observed through 4 random projections with noise of 0.1,
in several random problems over which every figure is averaged. For each method: the error of its estimate of
E[x0 | x, y] at levels where x follows the exact law given y (root of the mean squared distance), and of its samples
by DDIM and by DDPM

* mean: their mean's distance from the posterior's, over the posterior's deviation (root of its trace);
* cov: their covariance's distance from the posterior's, over the length of that (Frobenius);
* misfit: the deviation of y - A x0 over the noise's. The posterior's own is in the row "exact".

"exact" is the closed-form denoiser of the posterior in the same loop: what is left there is the sampler's
discretisation and the count of samples. Prints a Markdown table for each law.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from sfumato.engine.run import run
from sfumato.families.gaussian import Mixture, denoise_of, mixture
from sfumato.guidance.operators import Observation
from sfumato.guidance.posterior import posterior
from sfumato.process.estimate import Denoise, Estimate
from sfumato.process.level import CLEAN, Level
from sfumato.process.schedule import Cosine
from sfumato.samplers import SAMPLERS

SIZE, SEEN, NOISE = 8, 4, 0.1
METHODS = (
    "exact",
    "mmps(iterations=4)",
    "mmps(iterations=1)",
    "pigdm",
    "pigdm(weight=adaptive)",
    "diffpir(lambda_=1.0)",
    "diffpir(lambda_=7.0)",
    "dps(scale=0.1)",
    "dps(scale=0.3)",
    "dps(scale=1.0)",
)
LAMS = (-2.0, 0.0, 2.0)


def normal(*shape: int, draw: torch.Generator) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=draw)


def laws(draw: torch.Generator) -> dict[str, Mixture]:
    """The laws, standardised as data sets are: mean 0, mean variance 1."""
    found = {}
    for name, count, apart in (("one Gaussian", 1, 0.0), ("three Gaussians", 3, 1.0)):
        roots = normal(count, SIZE, SIZE, draw=draw) * torch.linspace(1.0, 0.1, SIZE, dtype=torch.float64)
        covs, means = roots @ roots.mT, apart * math.sqrt(SIZE) * normal(count, SIZE, draw=draw)
        means = means - means.mean(0)
        scale = (covs.mean(0).trace() + means.square().mean(0).sum()) / SIZE
        network = mixture(means / scale.sqrt(), covs / scale, torch.ones(count)).denoiser.network
        assert isinstance(network, Mixture)
        found[name] = network
    return found


def moments(law: Mixture) -> tuple[Tensor, Tensor]:
    """The mean (D,) and covariance (D, D) of a mixture."""
    weights = law.logits[-1].exp()
    mean = (weights[:, None] * law.means).sum(0)
    covs = (law.axes * law.spread[:, None]) @ law.axes.mT
    away = law.means - mean
    return mean, torch.einsum("k,kij->ij", weights, covs + away[:, :, None] * away[:, None, :])


def closed(law: Mixture) -> Denoise:
    """The exact denoiser of a law."""

    async def denoise(x: Tensor, at: Level) -> Estimate:
        clock = torch.tensor(at[1:], dtype=torch.float64).expand(len(x), 2)
        return Estimate(at, *law.posterior(x, clock, torch.full((len(x),), len(law.means))))

    return denoise


def figures(law: Mixture, count: int, steps: int, seed: int) -> Tensor:
    """The figures (methods, columns) on one law and one observation of it, nan where a method has none."""
    draw = torch.Generator().manual_seed(seed)
    matrix = normal(SEEN, SIZE, draw=draw) / math.sqrt(SIZE)
    y = matrix @ law.sample_exact(1, seed=seed)[0] + NOISE * normal(SEEN, draw=draw)
    truth = law.conditioned(matrix, y, NOISE)
    mean, cov = moments(truth)
    model = mixture(
        law.means, (law.axes * law.spread[:, None]) @ law.axes.mT, law.logits[-1].exp(), schedule=Cosine()
    )
    plain = denoise_of(model)

    async def free(x: Tensor, at: Level) -> Estimate:
        return plain(x, at)

    observed = Observation(lambda x0: x0 @ matrix.T, y[None], NOISE)
    grid = (*(Cosine().level(0.998 * (1 - i / steps)) for i in range(steps)), CLEAN)
    found: list[list[float]] = []
    for text in METHODS:
        cells = []
        for lam in LAMS:
            at = Cosine().at(lam)
            x = truth.sample_exact(500, at, seed=seed + 1)
            line = (at, Cosine().at(lam + 0.1))  # for dps, whose estimate is that of a step
            guided = closed(truth) if text == "exact" else posterior(text, free, observed, line)
            error = run(guided(x, at)).x0 - run(closed(truth)(x, at)).x0
            cells.append(math.nan if text.startswith("dps") else float(error.square().sum(1).mean().sqrt()))
        for sampler in ("ddim", "ddpm"):
            noise = torch.Generator().manual_seed(seed + 2)
            name = text.replace(")", f", eta={float(sampler == 'ddpm')})") if text.startswith("dps") else text
            guided = closed(truth) if text == "exact" else posterior(name, free, observed, grid)
            end = run(
                SAMPLERS[sampler].walk(
                    normal(count, SIZE, draw=noise),
                    grid,
                    guided,
                    lambda at, to, visit=0, noise=noise: normal(count, SIZE, draw=noise),
                )
            )
            bias = (end.mean(0) - mean).norm() / cov.trace().sqrt()
            spread = (torch.cov(end.T) - cov).norm() / cov.norm()
            misfit = (end @ matrix.T - y).square().mean().sqrt() / NOISE
            cells += [float(bias), float(spread), float(misfit)]
        found.append(cells)
    return torch.tensor(found)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Posterior methods against exact posteriors.")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--problems", type=int, default=6)
    options = parser.parse_args(arguments)
    columns = [f"estimate, lam {lam:g}" for lam in LAMS]
    columns += [f"{s}: {what}" for s in ("ddim", "ddpm") for what in ("mean", "cov", "misfit")]
    totals: dict[str, Tensor] = {}
    for seed in range(options.problems):
        for name, law in laws(torch.Generator().manual_seed(seed)).items():
            totals[name] = totals.get(name, 0) + figures(law, options.count, options.steps, seed)
    for name, total in totals.items():
        print(f"\n{name}:\n\n| method | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 1)}")
        for text, cells in zip(METHODS, (total / options.problems).tolist(), strict=True):
            shown = ["" if math.isnan(c) else f"{c:.0e}" if c < 5e-3 else f"{c:.2f}" for c in cells]
            print(f"| `{text}` | {' | '.join(shown)} |")


if __name__ == "__main__":
    main()
