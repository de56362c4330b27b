"""L6: alone is in company, over random mixes of requests; ``python -m tests.engine.mixes`` for longer runs."""

from __future__ import annotations

import torch

from sfumato.engine.engine import Engine
from sfumato.engine.run import run
from sfumato.samplers import SAMPLERS
from tests.engine.mixes import WORDS, WORDS_OF_TOYS, compare, networks, picture, toys, wishes

CHOOSES_STEPS = {name for name, entry in SAMPLERS.items() if entry.evaluations is None}
"""Samplers that accept or refuse a step by its error: a rounding can turn a decision, within their tolerance."""


def test_a_thousand_mixes_of_closed_form_models_are_equal_to_the_bit() -> None:
    worst, made, refused = compare(
        toys(), ("", *WORDS_OF_TOYS), times=1000, seed=0, dtype=torch.float64, longest=5
    )
    assert worst.total() == 0
    assert made.keys() == SAMPLERS.keys()
    assert refused.total() < 0.1 * made.total()


def test_mixes_of_networks_are_equal_to_rounding() -> None:
    worst, made, refused = compare(
        networks(), WORDS, times=10, seed=1, dtype=torch.float32, pool=len(SAMPLERS), longest=3
    )
    assert made.total() - refused.total() > 25
    assert max([0.0, *(far for name, far in worst.items() if name not in CHOOSES_STEPS)]) < 1e-5
    assert max([0.0, *worst.values()]) < 0.05


def test_the_exact_mode_gives_the_bits_of_run() -> None:
    pairs = networks()
    known = wishes(pairs, WORDS, 12, seed=5, longest=3)
    known = [wish for wish in known if wish.sampler not in CHOOSES_STEPS]
    engine = Engine(exact=True)
    tasks = [lambda wish=wish: picture(pairs[wish.model][0], wish, torch.float32) for wish in known]
    requests = [engine.submit(task()) for task in tasks]
    engine.run_until_idle()
    for task, request in zip(tasks, requests, strict=True):
        assert torch.equal(request.result(), run(task()))
