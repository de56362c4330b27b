"""Every form of guidance on a mixture in closed form, whose components are the prompts; all in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sfumato.engine.run import run
from sfumato.errors import InvalidRequest
from sfumato.guidance.classifier import classifier
from sfumato.guidance.classifier_free import classifier_free
from sfumato.guidance.guide import GUIDES, Pair
from sfumato.guidance.interval import interval, share
from sfumato.guidance.plus import plus_plus
from sfumato.guidance.projected import adaptive_projected
from sfumato.guidance.several import autoguidance, composed
from sfumato.guidance.zero_star import standing, zero_star
from sfumato.process.estimate import Denoise, Estimate
from sfumato.process.grid import make_grid
from sfumato.process.level import CLEAN, Level
from sfumato.process.prediction import prediction
from sfumato.process.schedule import Flow
from sfumato.samplers import SAMPLERS
from tests.guidance.closed import (
    EVERY,
    LEVELS,
    SCHEDULES,
    Model,
    at_level,
    close,
    on_line,
    points,
)

FORMS: dict[str, Callable[[Model, float], Denoise]] = {
    "cfg": lambda m, w: classifier_free(m.denoise, "a", "", w),
    "zero_star": lambda m, w: zero_star(m.denoise, "a", "", w, prediction("flow")),
    "apg": lambda m, w: adaptive_projected(m.denoise, "a", "", w),
    "composed": lambda m, w: composed(m.denoise, [("a", 1.0)], [("", 1.0)], w),
    "autoguidance": lambda m, w: autoguidance(m.one("a"), m.one(""), w),
}


@pytest.mark.parametrize("form", FORMS)
def test_scale_1_evaluates_what_is_wanted_and_changes_nothing(form: str) -> None:
    model = Model()
    x, at = at_level("flow", 1)
    found = run(FORMS[form](model, 1.0)(x, at))
    assert model.asked == [(at, ("a",))]
    plain = run(model.one("a")(x, at))
    assert torch.equal(found.x0, plain.x0)
    assert torch.equal(found.eps, plain.eps)


@pytest.mark.parametrize("form", FORMS)
def test_guided_estimates_stay_on_the_line_of_x(form: str) -> None:
    for schedule, which in EVERY:
        x, at = at_level(schedule, which)
        on_line(x, run(FORMS[form](Model(schedule), 3.5)(x, at)))


def log_prob(model: Model, label: int) -> Callable[[Tensor, Level], Tensor]:
    """log p(component | x) up to a constant, in closed form."""
    network = model.model.denoiser.network

    def told(x: Tensor, at: Level) -> Tensor:
        return network.log_density(x, at, label=label) - network.log_density(x, at)

    return told


@pytest.mark.parametrize(("schedule", "which"), EVERY)
def test_a_true_classifier_makes_the_conditional_model_of_the_unconditional(
    schedule: str, which: int
) -> None:
    model = Model(schedule)
    x, at = at_level(schedule, which)
    found = run(classifier(model.one(""), log_prob(model, 1), 1.0)(x, at))
    close(found, run(model.one("b")(x, at)))


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 4.0])
@pytest.mark.parametrize(("schedule", "which"), EVERY)
def test_classifier_guidance_is_classifier_free_guidance(schedule: str, which: int, scale: float) -> None:
    """Bayes' rule: grad log p(y | x) is the difference of the conditional and the unconditional score."""
    model = Model(schedule)
    x, at = at_level(schedule, which)
    found = run(classifier(model.one(""), log_prob(model, 2), scale)(x, at))
    close(found, run(classifier_free(model.denoise, "c", "", scale)(x, at)))


def test_a_classifier_at_pure_noise_leaves_the_estimate_and_at_0_is_not_asked() -> None:
    model, at = Model(), Flow().level(1.0)
    plain = run(model.one("")(points(), at))
    close(run(classifier(model.one(""), log_prob(model, 0), 3.0)(points(), at)), plain, 0)
    off = classifier(model.one(""), lambda x, at: pytest.fail("asked"), 0.0)
    close(run(off(points(), at)), plain, 0)


def test_a_classifiers_gradient_is_taken_where_gradients_are_off_and_leaves_none_behind() -> None:
    model = Model()
    x, at = at_level("flow", 1)
    with torch.no_grad():
        found = run(classifier(model.one(""), log_prob(model, 1), 1.0)(x, at))
    assert not found.x0.requires_grad
    assert not x.requires_grad


@pytest.mark.parametrize("scale", [0.0, 0.3, 1.0])
def test_cfgpp_with_ddim_is_the_papers_update(scale: float) -> None:
    """Chung et al. 2024, algorithm 2, from noise predictions and alpha-bars alone."""
    model = Model("sd", "eps")
    grid = make_grid("leading", steps=9, schedule=SCHEDULES["sd"])
    start = points()
    found = run(SAMPLERS["ddim"].walk(start, grid, plus_plus(model.denoise, "a", "b", scale), None))  # type: ignore[arg-type]
    x = start
    for at, to in pairwise(grid):
        bar, bar_to = at.alpha**2, to.alpha**2
        noise, empty = (run(model.one(name)(x, at)).eps for name in ("a", "b"))
        mixed = empty + scale * (noise - empty)
        tweedie = (x - math.sqrt(1 - bar) * mixed) / math.sqrt(bar)
        x = math.sqrt(bar_to) * tweedie + math.sqrt(1 - bar_to) * empty
    torch.testing.assert_close(found, x, rtol=1e-11, atol=1e-11)


def test_cfgpp_at_scale_1_is_not_off() -> None:
    model = Model()
    x, at = at_level("flow", 1)
    found = run(GUIDES["cfgpp"].make(Pair(model.denoise, "a", "b", 1.0, prediction("flow"), ()))(x, at))
    assert model.asked == [(at, ("a", "b"))]
    wanted, avoided = (run(model.one(name)(x, at)) for name in ("a", "b"))
    close(found, Estimate(at, wanted.x0, avoided.eps), 1e-14)


def test_cfgpp_leaves_the_noise_alone_under_a_threshold_too() -> None:
    model = Model()
    x, at = at_level("flow", 1)
    pair = Pair(model.denoise, "a", "b", 0.7, prediction("flow"), ())
    plain, pressed = (
        run(GUIDES["cfgpp"].make(pair, threshold=part, bound=0.1)(x, at)) for part in (0.0, 0.8)
    )
    assert torch.equal(pressed.eps, run(model.one("b")(x, at)).eps)
    assert torch.equal(plain.eps, pressed.eps)
    assert float(plain.x0.abs().max()) > 0.2
    assert float(pressed.x0.abs().max()) < 0.1001


@pytest.mark.parametrize("scale", [-0.1, 1.1, 7.5, math.nan])
def test_cfgpp_is_an_interpolation(scale: float) -> None:
    with pytest.raises(InvalidRequest, match=r"0 to 1"):
        plus_plus(Model().denoise, "a", "b", scale)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_guidance_has_its_interval_and_one_branch_outside(schedule: str) -> None:
    grid = make_grid("linspace", steps=16, schedule=SCHEDULES[schedule])
    shares = [share(at) for at in grid[:-1]]
    assert shares == sorted(shares, reverse=True)
    lo, hi = shares[11], shares[4]
    # Those that perturb attention have theirs in test_guidance_perturbed.py.
    for name in (name for name, entry in GUIDES.items() if not entry.attends):
        model, options = Model(schedule), {"lo": lo, "hi": hi}
        if name == "zero_star":
            options["zero"] = 0
        made = GUIDES[name].make
        scale = 0.6 if name == "cfgpp" else 3.0
        denoise = made(Pair(model.denoise, "a", "", scale, prediction("v"), grid), **options)
        for i, at in enumerate(grid[:-1]):
            model.asked.clear()
            x = at.alpha * points(seed=2) + at.sigma * points()
            found = run(denoise(x, at))
            names = ("a", "") if 4 <= i <= 11 else ("a",)
            assert model.asked == [(at, names)], (name, i)
            plain = run(model.one("a")(x, at))
            assert torch.equal(found.x0, plain.x0) == (len(names) == 1)


@given(st.floats(0, 1), st.floats(0, 1), st.floats(-0.2, 1.4))
@settings(max_examples=200, deadline=None)
def test_an_interval_holds_what_lies_between_its_ends(lo: float, hi: float, angle: float) -> None:
    at = Level(0.0, abs(math.cos(angle)), abs(math.sin(angle)))
    if lo > hi:
        with pytest.raises(InvalidRequest, match="lo"):
            interval(lo, hi)
        return
    assert interval(lo, hi)(at) == (lo <= share(at) <= hi)
    assert interval(0, 1)(at)


@pytest.mark.parametrize("lo", [math.nan, -0.1])
def test_an_interval_of_nothing_is_refused(lo: float) -> None:
    with pytest.raises(InvalidRequest, match="0 <= lo <= hi <= 1"):
        interval(lo, 0.5)


@given(st.floats(1e-3, 1e3), st.floats(0, 1.57))
def test_the_share_of_noise_does_not_depend_on_the_frame(factor: float, angle: float) -> None:
    at = Level(0.0, math.cos(angle), math.sin(angle))
    assert share(Level(0.0, factor * at.alpha, factor * at.sigma)) == pytest.approx(at.sigma, abs=1e-12)


def deviation(values: Tensor) -> Tensor:
    return values.var(dim=-1, correction=0).sqrt()


RESCALED = [(kind, schedule, False) for kind in ("eps", "x0", "v", "flow") for schedule in ("flow", "cosine")]
RESCALED += [(kind, schedule, True) for kind, schedule, _ in RESCALED if kind != "eps"]
RESCALED += [("edm", "edm", False)]


@pytest.mark.parametrize(("kind", "schedule", "top"), RESCALED)
def test_rescale_keeps_the_deviation_of_the_networks_output(kind: str, schedule: str, top: bool) -> None:
    """At phi = 1 the guided output has the deviation of the conditional one, at alpha = 0 too."""
    at = SCHEDULES[schedule].level(1.0 if top else 0.7)
    x, known = points(), prediction(kind)
    model = Model(schedule, kind)
    grid = make_grid("linspace", steps=4, schedule=SCHEDULES[schedule])
    outputs, guided = {}, {}
    for phi in (0.0, 0.5, 1.0):
        denoise = GUIDES["cfg"].make(_pair(model, known, grid, 5.0), rescale=phi)
        guided[phi] = run(denoise(x, at))
        on_line(x, guided[phi])
        outputs[phi] = known.target(guided[phi].x0, guided[phi].eps, at)
    plain = run(model.one("a")(x, at))
    told = deviation(known.target(plain.x0, plain.eps, at))
    torch.testing.assert_close(deviation(outputs[1.0]), told, rtol=1e-10, atol=1e-12)
    assert not torch.allclose(deviation(outputs[0.0]), told, rtol=1e-3)
    torch.testing.assert_close(outputs[0.5], 0.5 * (outputs[0.0] + outputs[1.0]), rtol=1e-10, atol=1e-10)
    if top and kind == "v":
        # Both branches have the eps x there, so a rescale of eps would not have changed x0.
        assert torch.equal(guided[1.0].eps, x)
        assert not torch.allclose(guided[1.0].x0, guided[0.0].x0, rtol=1e-3)


def _pair(model: Model, known, grid, scale: float) -> Pair:
    return Pair(model.denoise, "a", "", scale, known, grid)


@pytest.mark.parametrize("phi", [-0.1, 1.1, math.nan])
def test_rescale_outside_0_to_1_is_refused(phi: float) -> None:
    with pytest.raises(InvalidRequest, match="rescale"):
        GUIDES["cfg"].make(_pair(Model(), prediction("flow"), (), 2.0), rescale=phi)


def test_zero_star_scales_the_avoided_velocity_to_the_nearest_of_its_multiples() -> None:
    model = Model()
    x, at = at_level("flow", 0)
    velocity = {name: (e := run(model.one(name)(x, at))).eps - e.x0 for name in ("a", "b")}
    avoided = run(zero_star(model.denoise, "a", "b", 0.0, prediction("flow"))(x, at))
    fitted = avoided.eps - avoided.x0
    # s n is parallel to n, and what is left of p is at right angles to it.
    rows = zip(fitted, velocity["a"], velocity["b"], strict=True)
    for s, p, n in rows:
        assert float(torch.linalg.matrix_rank(torch.stack((s, n)), tol=1e-9)) == 1
        assert float((p - s) @ n) == pytest.approx(0, abs=1e-12)
    # And it is a line in w, through s n at 0 and p at 1.
    guided = run(zero_star(model.denoise, "a", "b", 3.0, prediction("flow"))(x, at))
    torch.testing.assert_close(
        guided.eps - guided.x0, fitted + 3 * (velocity["a"] - fitted), rtol=1e-11, atol=1e-11
    )


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("sampler", ["euler", "ddim", "heun"])
def test_x_stands_still_in_the_first_steps(sampler: str, schedule: str) -> None:
    """x / (alpha + sigma) is what it was, and no network was asked; on a flow that is x itself."""
    grid = make_grid("linspace", steps=8, schedule=SCHEDULES[schedule])
    model = Model(schedule)
    seen: list[tuple[Level, Tensor]] = []

    async def first(x: Tensor, at: Level) -> Estimate:
        seen.append((at, x))
        return (await model.denoise(x, at, "a"))[0]

    start = grid[0].sigma * points()
    run(SAMPLERS[sampler].walk(start, grid, standing(first, grid, 3), None))  # type: ignore[arg-type]
    # Heun's third step looks from there too, and that is the first that the network sees.
    at, x = seen[0]
    assert at == grid[3]
    still = start * (at.alpha + at.sigma) / (grid[0].alpha + grid[0].sigma)
    torch.testing.assert_close(x, still, rtol=1e-13, atol=1e-13)
    if schedule == "flow":
        torch.testing.assert_close(x, start, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("steps", [-1, 4, 9])
def test_a_walk_that_only_stands_is_refused(steps: int) -> None:
    with pytest.raises(InvalidRequest, match="fewer than the steps"):
        standing(Model().one("a"), make_grid("linspace", steps=4, schedule=Flow()), steps)


@pytest.mark.parametrize(("schedule", "which"), EVERY)
def test_apg_without_its_three_changes_is_classifier_free_guidance(schedule: str, which: int) -> None:
    model = Model(schedule)
    x, at = at_level(schedule, which)
    found = run(adaptive_projected(model.denoise, "a", "b", 4.0, eta=1.0, norm=0.0, momentum=0.0)(x, at))
    close(found, run(classifier_free(model.denoise, "a", "b", 4.0)(x, at)))


def test_apg_keeps_what_lies_across_the_picture_and_limits_its_length() -> None:
    model = Model()
    x, at = at_level("flow", 1)
    p, n = (run(model.one(name)(x, at)).x0 for name in ("a", "b"))
    across = run(adaptive_projected(model.denoise, "a", "b", 3.0, norm=0.0, momentum=0.0)(x, at)).x0 - p
    assert (across * p).sum(-1).abs().max() < 1e-12
    for row, d, q in zip(across / 2, p - n, p, strict=True):
        # The rest of the guidance is a multiple of p.
        assert float(torch.linalg.matrix_rank(torch.stack((d - row, q)), tol=1e-9)) == 1
    lengths = (p - n).norm(dim=-1)
    norm = float(lengths.median())
    denoise = adaptive_projected(model.denoise, "a", "b", 3.0, eta=1.0, norm=norm, momentum=0.0)
    limited = run(denoise(x, at)).x0 - p
    torch.testing.assert_close((limited / 2).norm(dim=-1), lengths.clamp(max=norm), rtol=1e-12, atol=1e-12)
    assert lengths.min() < norm < lengths.max()


def test_apg_without_noise_is_what_is_wanted() -> None:
    async def denoise(x: Tensor, at: Level, *names: str) -> tuple[Estimate, ...]:
        return tuple(Estimate(at, x, x * i) for i in range(len(names)))

    found = run(adaptive_projected(denoise, "a", "b", 3.0)(points(), CLEAN))
    close(found, Estimate(CLEAN, points(), 0 * points()), 0)


def test_apgs_momentum_averages_over_a_walk_and_begins_anew_with_the_next() -> None:
    """A walk by hand, with the average as its closed sum, twice through one denoiser."""
    model, momentum = Model(), -0.5
    denoise = adaptive_projected(model.denoise, "a", "b", 3.0, eta=1.0, norm=0.0, momentum=momentum)
    for _ in range(2):
        gaps: list[Tensor] = []
        for at in make_grid("linspace", steps=5, schedule=Flow())[:-1]:
            x = at.alpha * points(seed=2) + at.sigma * points()
            p, n = (run(model.one(name)(x, at)).x0 for name in ("a", "b"))
            gaps.append(p - n)
            mean = sum(momentum ** (len(gaps) - 1 - i) * gap for i, gap in enumerate(gaps))
            torch.testing.assert_close(run(denoise(x, at)).x0, p + 2 * mean, rtol=1e-11, atol=1e-11)


def test_what_the_network_says_of_the_noise_is_the_wanted_branchs() -> None:
    async def denoise(x: Tensor, at: Level, *names: str) -> tuple[Estimate, ...]:
        return tuple(Estimate(at, x * (i + 1), x, learned=torch.full_like(x, i)) for i in range(len(names)))

    async def alone(x: Tensor, at: Level) -> Estimate:
        return (await denoise(x, at, "a"))[0]

    for made in (
        classifier_free(denoise, "a", "b", 1.0),
        classifier_free(denoise, "a", "b", 3.0),
        composed(denoise, [("a", 1.0), ("c", 1.0)], [("b", 1.0)], 3.0),
        classifier(autoguidance(alone, alone, 3.0), lambda x, at: x.sum(-1), 2.0),
    ):
        found = run(made(points(), LEVELS["flow"][1]))
        assert found.learned is not None
        assert not found.learned.any()
