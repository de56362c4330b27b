"""What there is to know of a named sampler."""

from __future__ import annotations

from dataclasses import dataclass

from sfumato.process.estimate import Walk


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """A named sampler: its coroutine and what there is to know of it.

    The keyword-only parameters of ``walk`` are the options that a person may set, ``name(eta=0.5)``.

    ``order`` is that of its error in the step of log(alpha / sigma), of the law of the samples where it is
    ``stochastic``, that is, draws noise; 0 where there is no order: few-step samplers of distilled models, and ``pc``.
    ``evaluations`` of the network a step (the last step may take fewer), None where the sampler chooses.
    ``cite`` are keys of sfumato.references. ``off_line`` samplers only ever move along estimates and so accept
    those whose ends do not lie on one line with x (CFG++). ``by_row`` samplers choose their steps by what they
    see, so every picture is walked by itself.
    """

    name: str
    walk: Walk
    order: int
    evaluations: int | None
    stochastic: bool
    reference: str
    cite: tuple[str, ...]
    aliases: tuple[str, ...] = ()
    off_line: bool = False
    by_row: bool = False
