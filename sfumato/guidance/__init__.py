"""Guidance: functions that wrap a denoiser; one table of the ways to combine two prompts."""

from __future__ import annotations

from dataclasses import replace

from sfumato.errors import InvalidRequest, UnknownName
from sfumato.guidance.classifier import classifier
from sfumato.guidance.classifier_free import classifier_free
from sfumato.guidance.constraints import clip, dynamic_threshold, known
from sfumato.guidance.guide import GUIDES, Guide, check, option
from sfumato.guidance.interval import interval
from sfumato.guidance.operators import Observation
from sfumato.guidance.options import OPTIONS
from sfumato.guidance.perturbed import perturbed
from sfumato.guidance.plus import plus_plus
from sfumato.guidance.posterior import diffpir, dps, mmps, pigdm
from sfumato.guidance.projected import adaptive_projected
from sfumato.guidance.several import autoguidance, composed
from sfumato.guidance.zero_star import zero_star
from sfumato.process.spec import check_options, parse


def guide(text: str) -> Guide:
    """The way of guidance called ``text``, with options where it has some: ``"cfg(rescale=0.7, hi=0.8)"``.

    Raises UnknownName with the nearest names for a name or an option that does not exist, and InvalidRequest for a
    value outside what its option allows.
    """
    name, given = parse(text, "guide")
    if name not in GUIDES:
        raise UnknownName("guide", name, GUIDES)
    entry = GUIDES[name]
    numbers = {key: value for key, value in given.items() if not (key == "layers" and entry.attends)}
    check_options(name, entry.make, numbers)
    for key, value in given.items():
        about = OPTIONS[key]
        if (
            key not in numbers
        ):  # words, a number or a list; which of them there are, the network says (guide.check)
            allowed = isinstance(value, (str, int, list)) and not isinstance(value, bool)
        else:
            allowed = isinstance(value, (int, float)) and about.least <= value <= about.most
        if not allowed:
            raise InvalidRequest(f"{key} = {value} of the guide {name!r} is not allowed: {about.values}")
    chosen = replace(entry, given=given)
    interval(option(chosen, "lo"), option(chosen, "hi"))
    if entry.attends and option(chosen, "start") > option(chosen, "stop"):
        raise InvalidRequest(f"guide = {text!r}: start must not be above stop")
    return chosen


__all__ = [
    "GUIDES",
    "OPTIONS",
    "Guide",
    "Observation",
    "adaptive_projected",
    "autoguidance",
    "check",
    "classifier",
    "classifier_free",
    "clip",
    "composed",
    "diffpir",
    "dps",
    "dynamic_threshold",
    "guide",
    "interval",
    "known",
    "mmps",
    "perturbed",
    "pigdm",
    "plus_plus",
    "zero_star",
]
