"""What networks predict: each kind is a pair (p, q) such that the output is ``p x0 + q eps``.

=====  =================  =================  ====================================================
kind   p                  q                  source
=====  =================  =================  ====================================================
eps    0                  1                  Ho et al. 2020, equation 14
x0     1                  0                  Ho et al. 2020, section 3.2
v      -sigma / h         alpha / h          Salimans & Ho 2022, appendix D; h = hypot(alpha, sigma)
flow   -1                 1                  Liu et al. 2022; Lipman et al. 2022
edm    sigma / (sd h)     -sd / h            Karras et al. 2022, equation 7; alpha = 1,
                                             h = hypot(sigma, sd), sd the deviation of the data
=====  =================  =================  ====================================================

With ``x = alpha x0 + sigma eps`` this is two equations for two unknowns, so one 2 x 2 solve turns any output
into an Estimate, and the same (p, q) make the target in training.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from sfumato.errors import InvalidRequest, UnknownName
from sfumato.process.estimate import Estimate
from sfumato.process.level import Level
from sfumato.process.vector import Vector, blend

Pair = tuple[Vector, Vector]


def _root(x: Vector) -> Vector:
    """The square root of a float, or of anything with a ``sqrt`` method (a tensor of levels)."""
    return math.sqrt(x) if isinstance(x, (float, int)) else x.sqrt()


def _v(at: Level) -> Pair:
    h = _root(at.alpha * at.alpha + at.sigma * at.sigma)
    return -at.sigma / h, at.alpha / h


@dataclass(frozen=True)
class Prediction:
    """A kind of network output; ``pair(level)`` gives (p, q), which may be plain numbers for a vector level."""

    kind: str
    pair: Callable[[Level], Pair]

    def target(self, x0: Vector, eps: Vector, at: Level) -> Vector:
        """What the network should say: ``p x0 + q eps``."""
        p, q = self.pair(at)
        return p * x0 + q * eps

    def estimate(self, x: Vector, output: Vector, at: Level) -> Estimate:
        """Solve ``[alpha sigma; p q] [x0; eps] = [x; output]``.

        Raises InvalidRequest where that has no answer: an eps network says nothing of x0 at alpha = 0, an x0
        network nothing of eps at sigma = 0.
        """
        p, q = self.pair(at)
        det = at.alpha * q - at.sigma * p
        singular: Vector = det == 0
        if singular if isinstance(singular, bool) else singular.any():
            end = "in pure noise (alpha = 0)" if self.kind == "eps" else "without noise (sigma = 0)"
            raise InvalidRequest(
                f"a network that predicts {self.kind} cannot be asked {end}; "
                f"choose a grid whose levels avoid that end"
            )
        x0 = blend(q / det, x, -(at.sigma / det), output)
        eps = blend(at.alpha / det, output, -(p / det), x)
        return Estimate(at, x0, eps)


def edm(data_std: float = 0.5) -> Prediction:
    """The output F of EDM's preconditioned network for data of deviation ``data_std``."""

    def pair(at: Level) -> Pair:
        h = _root(at.sigma * at.sigma + data_std * data_std)
        return at.sigma / (data_std * h), -data_std / h

    return Prediction("edm", pair)


PREDICTIONS: dict[str, Prediction] = {
    "eps": Prediction("eps", lambda at: (0.0, 1.0)),
    "x0": Prediction("x0", lambda at: (1.0, 0.0)),
    "v": Prediction("v", _v),
    "flow": Prediction("flow", lambda at: (-1.0, 1.0)),
    "edm": edm(),
}
"""Predictions by name; ``edm`` here is for data of deviation 0.5, ``edm(data_std)`` for any other."""


def prediction(kind: str) -> Prediction:
    """The prediction named ``kind``; UnknownName with the nearest names otherwise."""
    if kind not in PREDICTIONS:
        raise UnknownName("prediction", kind, PREDICTIONS)
    return PREDICTIONS[kind]
