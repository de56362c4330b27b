"""What posterior guidance refuses: denoisers, observations, options and samplers that do not go with it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sfumato.engine.run import run
from sfumato.errors import InvalidRequest, UnknownName
from sfumato.families.gaussian import denoise_of
from sfumato.guidance.operators import Observation
from sfumato.guidance.posterior import POSTERIOR, check, diffpir, dps, mmps, pigdm, posterior
from sfumato.process.estimate import Estimate
from sfumato.process.level import Level
from sfumato.samplers import SAMPLERS
from tests.guidance.test_guidance_posterior import LEVELS, SEEN, SIZE, TWO, A, Y, awaited, normal, observation


def test_what_cannot_be_guided_is_refused() -> None:
    at, x = LEVELS[0], normal(2, SIZE)
    plain = awaited(denoise_of(TWO))

    async def without(x: Tensor, at: Level) -> Estimate:
        return (await TWO.denoise(x, at, TWO.conditioner([""])))[0]

    with pytest.raises(InvalidRequest, match="grad=True"):
        run(mmps(without, observation())(x, at))
    for wrong in (
        Observation(lambda x0: x0, Y[None]),
        Observation(lambda x0: x0 @ A.T, Y.expand(3, SEEN)),
        Observation(lambda x0: (x0 @ A.T).detach(), Y[None]),
    ):
        with pytest.raises(InvalidRequest, match="the operator"):
            run(diffpir(plain, wrong)(x, at))
    with pytest.raises(InvalidRequest, match="rows"):
        run(mmps(plain, observation())(x[0], at))
    with torch.inference_mode(), pytest.raises(InvalidRequest, match="inference_mode"):
        run(mmps(plain, observation())(x.clone(), at))


@pytest.mark.parametrize(
    "build",
    [
        lambda d, o: dps(d, o, [], eta=1.5),
        lambda d, o: pigdm(d, o, weight="scores"),
        lambda d, o: diffpir(d, o, lambda_=0.0),
        lambda d, o: run(mmps(d, o, iterations=0)(normal(1, SIZE), LEVELS[0])),
        lambda d, o: Observation(o.operator, o.y, -1.0),
        lambda d, o: Observation(o.operator, o.y, math.inf),
        lambda d, o: Observation(o.operator, torch.tensor([[1, 2]])),
        lambda d, o: Observation(o.operator, torch.tensor(1.0)),
        lambda d, o: posterior("mmps(scale=2)", d, o, []),
    ],
)
def test_options_outside_their_range_are_refused(build) -> None:
    with pytest.raises(InvalidRequest):
        build(awaited(denoise_of(TWO)), observation())


def test_methods_have_names() -> None:
    with pytest.raises(UnknownName, match="pigdm"):
        posterior("pgdm", awaited(denoise_of(TWO)), observation(), [])
    assert list(POSTERIOR) == sorted(POSTERIOR)


def test_methods_and_samplers_that_do_not_go_together_are_refused() -> None:
    for entry in SAMPLERS.values():
        for text in ("mmps", "pigdm", "diffpir", "pigdm(weight=score)"):
            check(text, entry)
        for text, fits in (
            ("pigdm(weight=adaptive)", entry.off_line),
            ("dps", entry.evaluations is not None),
        ):
            if fits:
                check(text, entry)
            else:
                with pytest.raises(InvalidRequest, match="do not go together"):
                    check(text, entry)
