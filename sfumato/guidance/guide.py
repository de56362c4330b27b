"""What there is to know of a named way of guidance, and the table of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from sfumato.errors import InvalidRequest
from sfumato.guidance.classifier_free import Branches, Combine, combined, extrapolated, never
from sfumato.guidance.constraints import dynamic_threshold
from sfumato.guidance.interval import interval
from sfumato.guidance.plus import interpolated
from sfumato.guidance.projected import projected
from sfumato.guidance.rescale import rescaled
from sfumato.guidance.zero_star import fitted, standing
from sfumato.process.estimate import Denoise
from sfumato.process.level import Level
from sfumato.process.prediction import Prediction
from sfumato.process.spec import Value, options_of


@dataclass(frozen=True)
class Pair:
    """What is to be guided: a model's branches, what is wanted and avoided, how strongly, and on which grid."""

    denoise: Branches
    want: Any
    avoid: Any
    scale: float
    prediction: Prediction
    grid: Sequence[Level]

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
    unless 0, lets x stand still for as many steps, which only a sampler that draws no noise can.
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
    ) -> Denoise:
        """The guided denoiser for one walk of ``grid``; ``denoise(x, level, *conditions)`` answers all branches.

        ``prediction`` is what the network predicts. Make a new one for every walk.
        """
        made: Denoise = self.make(Pair(denoise, want, avoid, scale, prediction, grid), **self.given)
        return made


def cfg(
    pair: Pair,
    *,
    lo: float = 0.0,
    hi: float = 1.0,
    rescale: float = 0.0,
    threshold: float = 0.0,
    bound: float = 1.0,
) -> Denoise:
    """Classifier-free guidance."""
    combine = rescaled(extrapolated(pair.scale), rescale, pair.prediction)
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


def _pressed(denoise: Denoise, threshold: float, bound: float, keep_eps: bool = False) -> Denoise:
    return dynamic_threshold(denoise, threshold, bound, keep_eps) if threshold else denoise


@dataclass(frozen=True)
class Option:
    """An option of a way of guidance: what it does and the values that it may have."""

    does: str
    least: float
    most: float


OPTIONS: dict[str, Option] = {
    "bound": Option(
        "the largest value that x0 should have, for `threshold`: 1 for pixels", 1e-6, float("inf")
    ),
    "eta": Option("how much of the guidance along the picture is kept; 1 is all", -100, 100),
    "hi": Option("guidance up to this noise, sigma / hypot(alpha, sigma)", 0, 1),
    "lo": Option("guidance from this noise on, sigma / hypot(alpha, sigma)", 0, 1),
    "momentum": Option("how much of the guidance before is added; 0 is off", -0.999, 0.999),
    "norm": Option("the greatest length of a picture's guidance; 0 is no limit", 0, float("inf")),
    "rescale": Option("how far the deviation of the output is brought back; 0 is off (0.7 is usual)", 0, 1),
    "threshold": Option("dynamic thresholding at this quantile of x0; 0 is off (0.995 is usual)", 0, 1),
    "zero": Option("how many steps stand still at first; 0 is off", 0, 1000),
}
"""The options of all ways of guidance, by name."""

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


def check(guide: Guide, sampler: Sampler, *, scale: float, steps: int) -> None:
    """Refuse a way of guidance that does not go with ``sampler``, ``scale`` or ``steps``, with the reason."""
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
