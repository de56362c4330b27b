"""The schedules by name: ``scaled_linear(zero_snr=true)``, ``flow(shift=3)``; users reach them as sfumato.schedules.

Each is a function whose parameters, all with defaults, are the options that a person may set.
"""

from __future__ import annotations

from collections.abc import Callable

from sfumato.errors import InvalidRequest, UnknownName
from sfumato.process.schedule import VP, Cosine, Exploding, Flow, Laplace, Schedule, shift_between, shift_for
from sfumato.process.spec import check_options, parse
from sfumato.process.table import Table, from_betas, linear, scaled_linear, sigmoid, squared_cosine, zero_snr


def cosine(t_min: float = 1e-3, t_max: float = 1.0) -> Cosine:
    """alpha = cos(pi t / 2), sigma = sin(pi t / 2).

    (Salimans & Ho 2022, section 3.)
    """
    return Cosine(t_min, t_max)


def vp(beta_min: float = 0.1, beta_max: float = 20.0, t_min: float = 1e-3, t_max: float = 1.0) -> VP:
    """alpha^2 = e^-B, sigma^2 = 1 - e^-B, B the integral of betas on a line.

    (Song et al. 2021b, equation 33.)
    """
    return VP(beta_min, beta_max, t_min, t_max)


def laplace(mu: float = 0.0, b: float = 0.5, t_min: float = 1e-3, t_max: float = 1.0) -> Laplace:
    """log(alpha^2 / sigma^2) with a Laplace distribution of middle mu and width b.

    (Hang et al. 2024, table 1.)
    """
    return Laplace(mu, b, t_min, t_max)


def flow(shift: float = 1.0, tokens: int = 0, t_min: float = 1e-3, t_max: float = 1.0) -> Flow:
    """alpha = 1 - s, sigma = s, s = shift t / (1 + (shift - 1) t).

    (Liu et al. 2022; the shift is Esser et al. 2024, equation 23.) ``tokens``, where it is not 0, chooses the shift
    as Flux does, by ``shift_for(tokens)``; give only one of both.
    """
    if tokens and shift != 1:
        raise InvalidRequest(
            f"shift = {shift:g} and tokens = {tokens} both choose the shift: give one of them"
        )
    return Flow(shift_for(tokens) if tokens else shift, t_min, t_max)


def exploding(t_min: float = 0.002, t_max: float = 80.0) -> Exploding:
    """alpha = 1, sigma = t, from t_min to t_max: EDM's process.

    (Karras et al. 2022, table 1.) Song et al. 2021b's variance-exploding process has the same levels; its even
    steps in time are the grid ``exponential`` here.
    """
    return Exploding(t_min, t_max)


def edm(t_min: float = 0.002, t_max: float = 80.0) -> Exploding:
    """alpha = 1, sigma = t: ``exploding`` by EDM's own name.

    (Karras et al. 2022, table 1.)
    """
    return Exploding(t_min, t_max)


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "linear": linear,
    "scaled_linear": scaled_linear,
    "squared_cosine": squared_cosine,
    "sigmoid": sigmoid,
    "cosine": cosine,
    "vp": vp,
    "laplace": laplace,
    "flow": flow,
    "exploding": exploding,
    "edm": edm,
}
"""The schedules by name: functions whose parameters are options."""


def schedule(text: str) -> Schedule:
    """The schedule called ``text``, with options where they are given: ``"scaled_linear(zero_snr=true)"``.

    Raises UnknownName with the nearest names for a name or an option that does not exist, and InvalidRequest for
    an option outside what is allowed.
    """
    name, options = parse(text, "schedule")
    if name not in SCHEDULES:
        raise UnknownName("schedule", name, SCHEDULES)
    check_options(name, SCHEDULES[name], options)
    return SCHEDULES[name](**options)


__all__ = [
    "SCHEDULES",
    "VP",
    "Cosine",
    "Exploding",
    "Flow",
    "Laplace",
    "Schedule",
    "Table",
    "cosine",
    "edm",
    "exploding",
    "flow",
    "from_betas",
    "laplace",
    "linear",
    "scaled_linear",
    "schedule",
    "shift_between",
    "shift_for",
    "sigmoid",
    "squared_cosine",
    "vp",
    "zero_snr",
]
