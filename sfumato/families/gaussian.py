"""A mixture of Gaussians as a complete model, in closed form: every sampler can be held against the truth.

If x0 is drawn from a mixture of N(mean_k, cov_k) with weights w_k, then ``x = alpha x0 + sigma eps`` is drawn from
the mixture of N(alpha mean_k, alpha^2 cov_k + sigma^2 1), and the best denoiser, E[x0 | x], is known. Prompts choose
a component by its name; the empty prompt is the whole mixture.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from sfumato.codec import Identity
from sfumato.condition import Cond, Prompt, texts
from sfumato.denoiser import Denoiser, row_levels
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

    def flow_map(self, x: Tensor, at: Level, to: Level, label: int | None = None) -> Tensor:
        """Where the probability-flow ODE carries rows ``x`` (B, *shape) from ``at`` to ``to``, float64, exactly.

        Along each axis of a Gaussian the flow keeps the quantile: the distance from the mean grows as the
        deviation ``sqrt(alpha^2 spread + sigma^2)`` does (Song et al. 2021b, appendix D.1, solved). InvalidRequest
        for a mixture of several, whose flow has no closed form, without the ``label`` of a component; and where
        ``at`` has no spread at all.
        """
        if label is None and len(self.means) > 1:
            raise InvalidRequest(
                "the flow has a closed form for one Gaussian alone: give the label of a component"
            )
        k = self._component(label)
        before, after = (level.alpha**2 * self.spread[k] + level.sigma**2 for level in (at, to))
        if not bool((before > 0).all()):
            raise InvalidRequest(f"at t = {at.t:g} the Gaussian has no spread along some axis, and no flow")
        off = (self._rows(x) - at.alpha * self.means[k]) @ self.axes[k]
        carried = to.alpha * self.means[k] + (off * (after / before).sqrt()) @ self.axes[k].mT
        return carried.view(x.shape)

    def conditioned(self, operator: Tensor, y: Tensor, noise_std: float) -> Mixture:
        """The law of x0 given ``y = operator x0 + noise_std n``: a mixture again, of as many components.

        ``operator`` (M, D) acts on the D values of a row, ``y`` (M,) is one observation. Each component becomes
        its Gaussian posterior, and its weight grows with the likelihood of y under it. Its own ``posterior`` is
        then E[x0 | x, y] at any level, since x adds nothing to y once x0 is known. InvalidRequest for shapes that
        do not fit, and where y leaves no noise: ``noise_std`` 0 and an operator that sees a value without spread.
        """
        size = self.means.shape[1]
        operator, y = operator.to(torch.float64), y.to(torch.float64)
        if operator.ndim != 2 or operator.shape[1] != size or y.shape != operator.shape[:1]:
            raise InvalidRequest(
                f"an operator (M, {size}) and y (M,) are needed; these are {tuple(operator.shape)} and {tuple(y.shape)}"
            )
        if not 0 <= noise_std < math.inf:
            raise InvalidRequest(f"noise_std = {noise_std:g} is outside what is allowed: 0 and above, finite")
        covs = (self.axes * self.spread[:, None]) @ self.axes.mT
        across = covs @ operator.mT
        seen = operator @ across + noise_std**2 * torch.eye(len(y), dtype=torch.float64)
        factor, failed = torch.linalg.cholesky_ex(seen)
        if bool((failed != 0).any()):
            raise InvalidRequest("y has no density under the mixture: give a noise_std above 0")
        away = y - self.means @ operator.mT
        gain = torch.cholesky_solve(across.mT, factor).mT
        means = self.means + (gain @ away[..., None])[..., 0]
        left = covs - gain @ across.mT
        unit = torch.linalg.solve_triangular(factor, away[..., None], upper=False)[..., 0]
        logits = (
            self.logits[-1] - 0.5 * unit.square().sum(-1) - factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        )
        # A weight of 0 is none; the least positive float keeps the component, and its label, in place.
        weights = (logits - logits.max()).exp().clamp_min(torch.finfo(torch.float64).tiny)
        return Mixture(means.view(-1, *self.shape), (left + left.mT) / 2, weights, self.kind)

    def _component(self, label: int | None) -> int:
        """The index of the component ``label``; None is the only one."""
        k = 0 if label is None else label
        if not 0 <= k < len(self.means):
            raise InvalidRequest(
                f"label = {k} is outside what is allowed: 0 to {len(self.means) - 1}, a component"
            )
        return k

    def _rows(self, x: Tensor) -> Tensor:
        """``x`` flat, (B, D) float64, if it is rows of the mixture's shape; InvalidRequest otherwise."""
        if tuple(x.shape[1:]) != self.shape or x.ndim < 2:
            raise InvalidRequest(
                f"x must be rows (B, {', '.join(map(str, self.shape))}), not {tuple(x.shape)}"
            )
        return x.to(torch.float64).flatten(1)

    def _components(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of each component: x - alpha mean along its axes, variances there (B, K, D), log density (B, K)."""
        off = self._rows(x)[:, None] - alpha * self.means
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
        identity=hashlib.sha256(b"".join(part.numpy().tobytes() for part in held)).hexdigest(),
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


def denoise_of(model: Model, cond: Cond | None = None) -> Callable[[Tensor, Level], Estimate]:
    """The denoiser of ``model`` as a plain function ``(x, level) -> Estimate`` in float64, without engine or task.

    For notebooks, tests and ``sfumato.sample``: x is rows (B, *shape), the level is of floats, all rows go through
    the network in one call, and the answer can be differentiated. ``cond`` is the condition for all rows or for
    each (``model.conditioner(["left"])``), the empty prompt by default. InvalidRequest for x that is no floating
    tensor, and for a level of rows.
    """
    wanted = model.conditioner([""]) if cond is None else cond

    def denoise(x: Tensor, at: Level) -> Estimate:
        if not isinstance(x, Tensor) or not x.is_floating_point() or x.ndim < 2:
            raise InvalidRequest("x must be a tensor of rows of floats, (B, ...)")
        if not all(isinstance(part, (int, float)) for part in at):
            raise InvalidRequest("the level must be of floats, one level for all rows")
        if wanted.rows not in (None, 1, len(x)):
            raise InvalidRequest(f"x has {len(x)} rows, and its condition has {wanted.rows}")
        found = model.denoiser(x.to(torch.float64), row_levels([at] * len(x)), wanted.expand(len(x)))
        return Estimate(at, found.x0, found.eps)

    return denoise


def _conditioner(names: Sequence[str], count: int) -> Conditioner:
    if len(set(names)) != count or "" in names:
        raise InvalidRequest(f"{count} components need {count} different names, none of them empty")
    labels = {**{name: k for k, name in enumerate(names)}, "": count}

    def condition(prompts: Sequence[str | Prompt]) -> Cond:
        for prompt in (wanted := texts(prompts)):
            if prompt not in labels:
                raise UnknownName("component", prompt, names)
        return Cond(label=torch.tensor([labels[prompt] for prompt in wanted]))

    return condition
