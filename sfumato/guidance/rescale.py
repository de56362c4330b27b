"""Guidance rescale (Lin et al. 2024): the guided output keeps the deviation that the network gave it."""

from __future__ import annotations

from torch import Tensor

from sfumato.errors import InvalidRequest
from sfumato.guidance.classifier_free import Combine
from sfumato.guidance.rows import each_row, ratio
from sfumato.process.estimate import Estimate
from sfumato.process.prediction import Prediction


def rescaled(combine: Combine, phi: float, prediction: Prediction) -> Combine:
    """``phi (std(p) / std(g)) g + (1 - phi) g`` (Lin et al. 2024, section 3.4, equations 15 and 16).

    g is the guided output of the network and p that for what is wanted; the deviations are those of each row's
    values. It acts on the network's own output, of ``prediction``: at alpha = 0 the branches of a v network differ
    in x0 and not in eps, so that on eps it would do nothing where it is needed most. phi = 0 is off and 1 keeps
    the deviation of p; the paper uses 0.7. InvalidRequest for phi outside 0 to 1.
    """
    if not 0 <= phi <= 1:
        raise InvalidRequest(f"rescale = {phi:g} is outside what is allowed: 0 to 1 (0.7 is usual)")
    if phi == 0:
        return combine

    def calmed(x: Tensor, wanted: Estimate, avoided: Estimate) -> Estimate:
        found, at = combine(x, wanted, avoided), wanted.at
        guided = prediction.target(found.x0, found.eps, at)
        told = prediction.target(wanted.x0, wanted.eps, at)
        factor = ratio(each_row(_deviation, told), each_row(_deviation, guided), empty=1.0)
        return prediction.estimate(x, (phi * factor + (1 - phi)) * guided, at)

    return calmed


def _deviation(values: Tensor) -> Tensor:
    return values.std(correction=0)
