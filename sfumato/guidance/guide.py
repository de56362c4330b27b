"""What there is to know of a named way of guidance, and the table of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from sfumato.errors import InvalidRequest
from sfumato.guidance.classifier_free import Branches, Combine, combined, extrapolated, never
from sfumato.guidance.constraints import dynamic_threshold
from sfumato.guidance.interval import interval
from sfumato.guidance.kept import kept
from sfumato.guidance.perturbed import perturbed, steps_from
from sfumato.guidance.plus import interpolated
from sfumato.guidance.projected import projected
from sfumato.guidance.rescale import rescaled
from sfumato.guidance.zero_star import fitted, standing
from sfumato.manner import chosen, told
from sfumato.process.estimate import Denoise
from sfumato.process.level import Level
from sfumato.process.prediction import Prediction
from sfumato.process.spec import Value, options_of


@dataclass(frozen=True)
class Pair:
    """What is to be guided: a model's branches, what is wanted and avoided, how strongly, and on which grid.

    ``layers`` are the names of the network's attention layers, in order.
    """

    denoise: Branches
    want: Any
    avoid: Any
    scale: float
    prediction: Prediction
    grid: Sequence[Level]
    layers: Sequence[str] = ()

    def by(self, combine: Combine, lo: float, hi: float, off: bool) -> Denoise:
        """``combine`` within the interval of guidance; ``off`` evaluates what is wanted alone."""
        return combined(self.denoise, self.want, self.avoid, combine, never if off else interval(lo, hi))


@dataclass(frozen=True, kw_only=True)
class Guide:
    """A named way of guidance: what makes a denoiser of a Pair, and what there is to know of it.

    The keyword-only parameters of ``make`` are the options that a person may set, ``name(rescale=0.7)``; ``given``
    are those that were set. ``cite`` are keys of sfumato.references. The scale may be from 0 to ``most``.
    ``off_line`` ways give estimates off the line of x, which only samplers with ``Sampler.off_line`` take. ``memory``
    is an option that, unless 0, remembers the last evaluation and so wants one a step. ``stands`` is one that,
    unless 0, lets x stand still for as many steps, which only a sampler that draws no noise can. ``attends`` ways
    change a network's attention layers, and so want one that has some.
    """

    name: str
    make: Callable[..., Denoise]
    does: str
    reference: str
    cite: tuple[str, ...]
    most: float = 100.0
    off_line: bool = False
    memory: str | None = None
    stands: str | None = None
    attends: bool = False
    given: Mapping[str, Value] = field(default_factory=dict)

    def __call__(
        self,
        denoise: Branches,
        want: Any,
        avoid: Any,
        *,
        scale: float,
        prediction: Prediction,
        grid: Sequence[Level],
        layers: Sequence[str] = (),
    ) -> Denoise:
        """The guided denoiser for one walk of ``grid``; ``denoise(x, level, *conditions)`` answers all branches.

        ``prediction`` is what the network predicts, ``layers`` the names of its attention layers. Make a new one for
        every walk.
        """
        made: Denoise = self.make(Pair(denoise, want, avoid, scale, prediction, grid, layers), **self.given)
        return made


def cfg(
    pair: Pair,
    *,
    lo: float = 0.0,
    hi: float = 1.0,
    rescale: float = 0.0,
    keep: int = 0,
    grow: int = 1,
    threshold: float = 0.0,
    bound: float = 1.0,
) -> Denoise:
    """Classifier-free guidance."""
    held = kept(extrapolated(pair.scale), keep, bool(grow), pair.prediction)
    combine = rescaled(held, rescale, pair.prediction)
    return _pressed(pair.by(combine, lo, hi, pair.scale == 1), threshold, bound)


def cfgpp(
    pair: Pair, *, lo: float = 0.0, hi: float = 1.0, threshold: float = 0.0, bound: float = 1.0
) -> Denoise:
    """CFG++; a threshold leaves the noise alone too."""
    return _pressed(pair.by(interpolated(pair.scale), lo, hi, False), threshold, bound, keep_eps=True)


def zero_star(
    pair: Pair,
    *,
    zero: int = 1,
    lo: float = 0.0,
    hi: float = 1.0,
    rescale: float = 0.0,
    threshold: float = 0.0,
    bound: float = 1.0,
) -> Denoise:
    """CFG-Zero*; the first steps stand still inside or outside the interval of guidance."""
    combine = rescaled(fitted(pair.scale, pair.prediction), rescale, pair.prediction)
    guided = _pressed(pair.by(combine, lo, hi, pair.scale == 1), threshold, bound)
    return standing(guided, pair.grid, zero)


def apg(
    pair: Pair,
    *,
    eta: float = 0.0,
    norm: float = 15.0,
    momentum: float = -0.5,
    lo: float = 0.0,
    hi: float = 1.0,
    rescale: float = 0.0,
    threshold: float = 0.0,
    bound: float = 1.0,
) -> Denoise:
    """Adaptive projected guidance."""
    combine = rescaled(projected(pair.scale, eta, norm, momentum), rescale, pair.prediction)
    return _pressed(pair.by(combine, lo, hi, pair.scale == 1), threshold, bound)


def pag(
    pair: Pair,
    *,
    scale: float = 3.0,
    layers: str = "middle",
    start: float = 0.0,
    stop: float = 1.0,
    lo: float = 0.0,
    hi: float = 1.0,
    rescale: float = 0.0,
    threshold: float = 0.0,
    bound: float = 1.0,
) -> Denoise:
    """Perturbed-attention guidance."""
    worse = told(pair.want, identity=chosen(pair.layers, layers))
    return _pressed(_away(pair, worse, scale, start, stop, lo, hi, rescale), threshold, bound)


def seg(
    pair: Pair,
    *,
    scale: float = 3.0,
    layers: str = "middle",
    blur: float = 1e6,
    start: float = 0.0,
    stop: float = 1.0,
    lo: float = 0.0,
    hi: float = 1.0,
    rescale: float = 0.0,
    threshold: float = 0.0,
    bound: float = 1.0,
) -> Denoise:
    """Smoothed-energy guidance."""
    worse = told(pair.want, smooth=chosen(pair.layers, layers), blur=blur)
    return _pressed(_away(pair, worse, scale, start, stop, lo, hi, rescale), threshold, bound)


def slg(
    pair: Pair,
    *,
    scale: float = 2.8,
    layers: str = "middle",
    start: float = 0.01,
    stop: float = 0.2,
    lo: float = 0.0,
    hi: float = 1.0,
    rescale: float = 0.0,
    threshold: float = 0.0,
    bound: float = 1.0,
) -> Denoise:
    """Skip-layer guidance."""
    worse = told(pair.want, skip=chosen(pair.layers, layers))
    return _pressed(_away(pair, worse, scale, start, stop, lo, hi, rescale), threshold, bound)


def _away(
    pair: Pair, worse: Any, push: float, start: float, stop: float, lo: float, hi: float, rescale: float
) -> Denoise:
    """Classifier-free guidance, and ``push`` times away from ``worse`` in the steps from ``start`` to ``stop``."""
    return perturbed(
        pair.denoise,
        pair.want,
        pair.avoid,
        worse,
        scale=pair.scale,
        push=push,
        prediction=pair.prediction,
        rescale=rescale,
        guides=interval(lo, hi),
        pushes=steps_from(pair.grid, start, stop),
    )


def _pressed(denoise: Denoise, threshold: float, bound: float, keep_eps: bool = False) -> Denoise:
    return dynamic_threshold(denoise, threshold, bound, keep_eps) if threshold else denoise


_ALL = (
    Guide(
        name="apg",
        make=apg,
        does="guides x0 less along itself, so that high scales saturate less",
        reference="Sadat et al. 2024, Eliminating Oversaturation and Artifacts of High Guidance Scales",
        cite=("sadat2024apg",),
        memory="momentum",
    ),
    Guide(
        name="cfg",
        make=cfg,
        does="from the negative prompt past the prompt, n + w (p - n); w = 1 is off",
        reference="Ho & Salimans 2022, Classifier-Free Diffusion Guidance, eq. 6",
        cite=("ho2022cfg",),
    ),
    Guide(
        name="cfgpp",
        make=cfgpp,
        does="guides the picture and not the noise; the scale is an interpolation, 0 to 1",
        reference="Chung et al. 2024, CFG++, alg. 2",
        cite=("chung2024cfgpp",),
        most=1.0,
        off_line=True,
    ),
    Guide(
        name="pag",
        make=pag,
        does="cfg, and away from the network whose places see themselves alone",
        reference="Ahn et al. 2024, Self-Rectifying Diffusion Sampling with Perturbed-Attention Guidance",
        cite=("ahn2024pag",),
        attends=True,
    ),
    Guide(
        name="seg",
        make=seg,
        does="cfg, and away from the network whose attention is blurred",
        reference="Hong 2024, Smoothed Energy Guidance",
        cite=("hong2024seg",),
        attends=True,
    ),
    Guide(
        name="slg",
        make=slg,
        does="cfg, and away from the network without some of its layers",
        reference="Stability AI 2024, Stable Diffusion 3.5; Hyung et al. 2024, Spatiotemporal Skip Guidance",
        cite=("stability2024sd35", "hyung2024stg"),
        attends=True,
    ),
    Guide(
        name="zero_star",
        make=zero_star,
        does="scales the negative branch to fit the prompt's; the first steps stand still",
        reference="Fan et al. 2025, CFG-Zero*",
        cite=("fan2025zerostar",),
        stands="zero",
    ),
)

GUIDES: dict[str, Guide] = {entry.name: entry for entry in _ALL}
"""Every way of guidance by name."""


class Sampler(Protocol):
    """What must be known of a sampler to say whether it can be guided in some way."""

    @property
    def name(self) -> str:
        """Its name."""
        ...

    @property
    def evaluations(self) -> int | None:
        """Evaluations of the network a step, None where the sampler chooses."""
        ...

    @property
    def stochastic(self) -> bool:
        """Whether it draws noise."""
        ...

    @property
    def off_line(self) -> bool:
        """Whether it takes estimates off the line of x."""
        ...


def check(
    guide: Guide, sampler: Sampler, *, scale: float, steps: int, layers: Sequence[str] | None = None
) -> None:
    """Refuse a way of guidance that does not go with ``sampler``, ``scale`` or ``steps``, with the reason.

    Nor with the network whose attention ``layers`` have these names, where they are known.
    """
    if guide.attends and layers is not None:
        if not layers:
            raise InvalidRequest(
                f"the guide {guide.name!r} changes a network's attention layers, and this model's network has none "
                "that are told: use 'cfg'"
            )
        chosen(layers, {**options_of(guide.make), **guide.given}["layers"])
    if not 0 <= scale <= guide.most:
        raise InvalidRequest(
            f"guidance = {scale:g} is outside what the guide {guide.name!r} allows: 0 to {guide.most:g}"
            + (" (0.6 is usual)" if guide.most == 1 else "")
        )
    if guide.off_line and not sampler.off_line:
        raise InvalidRequest(
            f"the guide {guide.name!r} and the sampler {sampler.name!r} do not go together: it gives a picture and a "
            f"noise that do not add up to x, and this sampler uses x itself; use 'ddim', 'euler' or 'dpmpp_2m'"
        )
    if option(guide, guide.memory) and sampler.evaluations != 1:
        raise InvalidRequest(
            f"the guide {guide.name!r} averages over steps, and the sampler {sampler.name!r} asks the network more "
            f"than once in one: use {guide.name}({guide.memory}=0), or a sampler of one evaluation a step"
        )
    still = option(guide, guide.stands)
    if still and sampler.stochastic:
        raise InvalidRequest(
            f"the guide {guide.name!r} lets x stand still at first, and the sampler {sampler.name!r} would add noise "
            f"to it: use {guide.name}({guide.stands}=0), or a sampler that draws none"
        )
    if still >= max(steps, 1):
        raise InvalidRequest(
            f"{guide.stands} = {still:g} of the guide {guide.name!r} stands still for all of {steps} steps: use fewer "
            f"than the steps"
        )


def option(guide: Guide, name: str | None) -> float:
    """The value of a number among the options of ``guide``, given or by default; 0 if it has none such."""
    value: Any = {**options_of(guide.make), **guide.given}.get(name or "", 0)
    return float(value)
