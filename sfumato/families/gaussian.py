"""A mixture of Gaussians as a complete model, in closed form: every sampler can be held against the truth.

If x0 is drawn from a mixture of N(mean_k, cov_k) with weights w_k, then ``x = alpha x0 + sigma eps`` is drawn from
the mixture of N(alpha mean_k, alpha^2 cov_k + sigma^2 1), and the best denoiser, E[x0 | x], is known. Prompts choose
a component by its name; the empty prompt is the whole mixture.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sfumato.codec import Identity
from sfumato.condition import Cond
from sfumato.denoiser import Denoiser
from sfumato.errors import InvalidRequest, UnknownName
from sfumato.model import Conditioner, Defaults, Model
from sfumato.noise import Stream
from sfumato.process.estimate import Estimate, Walk
from sfumato.process.level import CLEAN, Level
from sfumato.process.prediction import Prediction, prediction
from sfumato.process.schedule import Flow, Schedule
from sfumato.process.vector import Vector


class Mixture(nn.Module):
    """The exact network of a mixture of Gaussians in float64; it holds buffers and no parameters.

    Rows have any shape; ``means`` is (K, *shape), ``covs`` (K, D, D) over the D values of a row, ``weights`` (K,).
    A label k below K stands for component k alone, K for the whole mixture.
    """

    means: Tensor
    axes: Tensor
    spread: Tensor
    logits: Tensor

    def __init__(self, means: Tensor, covs: Tensor, weights: Tensor, kind: Prediction) -> None:
        """Prepare the mixture, whose output is of prediction ``kind``; weights are scaled to the sum 1.

        Raises InvalidRequest for shapes that do not fit, covariances that are not symmetric and positive
        semidefinite, and weights that are not positive.
        """
        super().__init__()
        count, self.shape, self.kind = len(means), tuple(means.shape[1:]), kind
        size = math.prod(self.shape)
        means, covs, weights = (part.to(torch.float64) for part in (means, covs, weights))
        if covs.shape != (count, size, size) or weights.shape != (count,):
            raise InvalidRequest(
                f"{count} means of {size} values need covariances ({count}, {size}, {size}) and {count} weights; "
                f"these are {tuple(covs.shape)} and {tuple(weights.shape)}"
            )
        spread, axes = torch.linalg.eigh(covs)
        slack = 1e-6 * covs.abs().max()
        if not torch.allclose(covs, covs.mT, rtol=0, atol=float(slack)) or bool((spread < -slack).any()):
            raise InvalidRequest("every covariance must be symmetric and positive semidefinite")
        if not bool((weights > 0).all()):
            raise InvalidRequest("every weight must be above 0")
        self.register_buffer("means", means.reshape(count, size))
        self.register_buffer("axes", axes)
        self.register_buffer("spread", spread.clamp_min(0))
        self.register_buffer(
            "logits", torch.cat((torch.eye(count).to(weights), weights[None] / weights.sum())).log()
        )

    def forward(self, x: Tensor, clock: Tensor, *, label: Tensor) -> Tensor:
        """The output for rows ``x`` (B, *shape) at levels ``clock`` (B, 2) = (alpha, sigma), labels (B,)."""
        at: Level = Level(clock[:, 0], *(c.view(-1, *[1] * (x.ndim - 1)) for c in clock.unbind(-1)))  # type: ignore[arg-type]
        x0, eps = self.posterior(x, clock, label)
        out: Tensor = self.kind.target(x0, eps, at)
        return out.to(x.dtype)

    def posterior(self, x: Tensor, clock: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """E[x0 | x] and E[eps | x], each (B, *shape) float64; no row is touched by another."""
        alpha, sigma = (c[:, None, None] for c in clock.to(torch.float64).unbind(-1))
        across, variance, log_normal = self._components(x, alpha, sigma)
        share = (self.logits[label] + log_normal).softmax(-1)[..., None]
        pull = across / variance
        x0 = self.means + self._turn(alpha * self.spread * pull)
        eps = self._turn(sigma * pull)
        return (share * x0).sum(1).view(x.shape), (share * eps).sum(1).view(x.shape)

    def log_density(self, x: Tensor, at: Level = CLEAN, label: int | None = None) -> Tensor:
        """The log density of rows ``x`` (B, *shape) at level ``at``, (B,) float64; ``label`` None for all."""
        alpha, sigma = (torch.full((len(x), 1, 1), v, dtype=torch.float64) for v in at[1:])
        _, _, log_normal = self._components(x, alpha, sigma)
        return (self.logits[-1 if label is None else label] + log_normal).logsumexp(-1)

    def sample_exact(self, count: int, at: Level = CLEAN, *, seed: int, label: int | None = None) -> Tensor:
        """``count`` draws from the law at level ``at``, (count, *shape) float64."""
        generator = torch.Generator().manual_seed(seed)
        shares = self.logits[-1 if label is None else label].exp()
        which = torch.multinomial(shares, count, replacement=True, generator=generator)
        unit = torch.randn(count, self.means.shape[1], dtype=torch.float64, generator=generator)
        variance = at.alpha**2 * self.spread[which] + at.sigma**2
        turned = (self.axes[which] * (variance.sqrt() * unit)[:, None]).sum(-1)
        return (at.alpha * self.means[which] + turned).view(count, *self.shape)

    def _components(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of each component: x - alpha mean along its axes, variances there (B, K, D), log density (B, K)."""
        off = x.to(torch.float64).flatten(1)[:, None] - alpha * self.means
        across = (off[..., None] * self.axes).sum(-2)
        variance = alpha * alpha * self.spread + sigma * sigma
        log_normal = -0.5 * (across * across / variance + (2 * math.pi * variance).log()).sum(-1)
        return across, variance, log_normal

    def _turn(self, across: Tensor) -> Tensor:
        """From coordinates along the axes back to values, (B, K, D)."""
        return (self.axes * across[..., None, :]).sum(-1)


def mixture(
    means: Tensor,
    covs: Tensor,
    weights: Tensor,
    *,
    schedule: Schedule | None = None,
    kind: str = "flow",
    names: Sequence[str] | None = None,
) -> Model:
    """The model of a mixture: ``means`` (K, *shape), ``covs`` (K, D, D), ``weights`` (K,).

    ``schedule`` is the rectified flow by default; ``kind`` names what the network predicts. ``names`` are the
    prompts of the components, "0", "1" ... by default. Means of the shape (K, 3, H, W) make it a model of pictures
    that Text2Image can use. Computes in float64 and answers in the dtype of x. Raises InvalidRequest where the
    parts do not fit.
    """
    schedule = Flow() if schedule is None else schedule
    network = Mixture(means, covs, weights, prediction(kind))
    shape = network.shape
    height, width = shape[1:] if len(shape) == 3 else (1, 1)
    held = (network.means, network.axes, network.spread, network.logits)
    return Model(
        name="gaussian",
        hash=hashlib.sha256(b"".join(part.numpy().tobytes() for part in held)).hexdigest(),
        denoiser=Denoiser(network, schedule, prediction(kind), clock="level"),
        codec=Identity(shape),
        conditioner=_conditioner([str(k) for k in range(len(means))] if names is None else names, len(means)),
        defaults=Defaults(
            steps=20,
            sampler="dpmpp_2m",
            grid="karras" if schedule.level(schedule.t_max).alpha > 0 else "linspace",
            guidance=1.0,
            width=width,
            height=height,
            multiple=1,
            least=min(width, height),
            most=max(width, height),
        ),
    )


async def sample(
    model: Model,
    walk: Walk,
    grid: Sequence[Level],
    seeds: Sequence[int],
    prompt: str = "",
) -> Tensor:
    """One row for each seed, (B, *shape) float64: the task of models whose rows are not pictures."""
    noise = Stream(seeds, model.codec.shape(0, 0), torch.float64)
    want = await model.embed([prompt])

    async def denoise(x: Vector, at: Level) -> Estimate:
        (estimate,) = await model.denoise(x, at, want)
        return estimate

    x: Tensor = await walk(grid[0].sigma * noise.start(), grid, denoise, noise)
    return await model.decode(x)


def _conditioner(names: Sequence[str], count: int) -> Conditioner:
    if len(set(names)) != count or "" in names:
        raise InvalidRequest(f"{count} components need {count} different names, none of them empty")
    labels = {**{name: k for k, name in enumerate(names)}, "": count}

    def condition(prompts: Sequence[str]) -> Cond:
        for prompt in prompts:
            if prompt not in labels:
                raise UnknownName("component", prompt, names)
        return Cond(label=torch.tensor([labels[prompt] for prompt in prompts]))

    return condition
