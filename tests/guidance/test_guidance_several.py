"""Several prompts and several models, on a mixture in closed form."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sfumato.engine.run import run
from sfumato.errors import InvalidRequest
from sfumato.families.gaussian import mixture
from sfumato.guidance.classifier_free import classifier_free
from sfumato.guidance.several import autoguidance, composed
from tests.guidance.closed import (
    COVS,
    EVERY,
    MEANS,
    WEIGHTS,
    Model,
    at_level,
    close,
    on_line,
)


@pytest.mark.parametrize("scale", [0.0, 1.0, 3.5])
def test_one_prompt_composed_is_classifier_free_guidance(scale: float) -> None:
    for schedule, which in EVERY:
        model = Model(schedule)
        x, at = at_level(schedule, which)
        found = run(composed(model.denoise, [("a", 1.0)], [("b", 1.0)], scale)(x, at))
        close(found, run(classifier_free(model.denoise, "a", "b", scale)(x, at)), 1e-12)


NAMED = st.lists(st.tuples(st.sampled_from("abc"), st.floats(-3, 3)), min_size=1, max_size=4)
AVOIDED = st.lists(st.tuples(st.sampled_from(["", "a", "c"]), st.floats(0.1, 3)), min_size=1, max_size=3)


@given(NAMED, AVOIDED, st.floats(0, 5), st.randoms())
@settings(max_examples=40, deadline=None)
def test_composition_is_the_papers_sum_in_any_order(wants, avoids, scale, random) -> None:
    model = Model()
    x, at = at_level("flow", 1)
    found = run(composed(model.denoise, wants, avoids, scale)(x, at))
    on_line(x, found)
    eps = {name: run(model.one(name)(x, at)).eps for name in ["", "a", "b", "c"]}
    base = sum(w * eps[n] for n, w in avoids) / sum(w for _, w in avoids)
    paper = base + scale * sum((w * (eps[n] - base) for n, w in wants), torch.zeros(()))
    torch.testing.assert_close(found.eps, paper, rtol=1e-10, atol=1e-10)
    random.shuffle(wants)
    random.shuffle(avoids)
    close(run(composed(model.denoise, wants, avoids, scale)(x, at)), found, 1e-11)


def test_a_prompt_that_counts_for_nothing_is_not_evaluated() -> None:
    model = Model()
    x, at = at_level("flow", 1)
    run(composed(model.denoise, [("a", 0.5), ("b", 0.0), ("c", 0.5)], [("", 1.0)], 1.0)(x, at))
    run(composed(model.denoise, [("a", 1.0)], [("", 1.0), ("b", 3.0)], 0.0)(x, at))
    assert [names for _, names in model.asked] == [("a", "c"), ("", "b")]


def test_a_product_of_gaussians_is_composed_exactly() -> None:
    """p(x | a) p(x | b) / p(x): the score of the composition at scale 1 is the sum of scores, by autograd."""
    model = Model()
    x, at = at_level("flow", 1)
    found = run(composed(model.denoise, [("a", 1.0), ("b", 1.0)], [("", 1.0)], 1.0)(x, at))
    network, free = model.model.denoiser.network, x.clone().requires_grad_()
    total = (
        network.log_density(free, at, 0) + network.log_density(free, at, 1) - network.log_density(free, at)
    )
    (score,) = torch.autograd.grad(total.sum(), free)
    torch.testing.assert_close(-found.eps / at.sigma, score, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("wants", "avoids"),
    [
        ([], [("", 1.0)]),
        ([("a", 1.0)], []),
        ([("a", math.nan)], [("", 1.0)]),
        ([("a", math.inf)], [("", 1.0)]),
        ([("a", 1.0)], [("", 0.0)]),
        ([("a", 1.0)], [("", 1.0), ("b", -1.0)]),
    ],
)
def test_weights_that_say_nothing_are_refused(wants, avoids) -> None:
    with pytest.raises(InvalidRequest):
        composed(Model().denoise, wants, avoids, 2.0)


@given(st.floats(0, 20))
@settings(max_examples=20, deadline=None)
def test_a_model_guides_itself_to_nothing(scale: float) -> None:
    model = Model()
    x, at = at_level("flow", 1)
    found = run(autoguidance(model.one("a"), model.one("a"), scale)(x, at))
    plain = run(model.one("a")(x, at))
    assert torch.equal(found.x0, plain.x0)
    assert torch.equal(found.eps, plain.eps)


def test_autoguidance_goes_away_from_the_weaker_model() -> None:
    strong, weak = Model(), Model()
    weak.model = mixture(MEANS, 3 * COVS, WEIGHTS, names=("a", "b", "c"))
    x, at = at_level("flow", 1)
    good, bad = run(strong.one("a")(x, at)), run(weak.one("a")(x, at))
    found = run(autoguidance(strong.one("a"), weak.one("a"), 2.0)(x, at))
    torch.testing.assert_close(found.x0 - good.x0, good.x0 - bad.x0, rtol=1e-12, atol=1e-12)
