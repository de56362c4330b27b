"""Grids with options and lists of levels, as a person gives them to the task."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sfumato.engine.run import run
from sfumato.errors import InvalidRequest
from sfumato.families.gaussian import mixture
from sfumato.process.schedules import Flow, schedule
from sfumato.tasks.task import Result
from sfumato.tasks.text2image import Text2Image


def model(name: str, kind: str) -> Any:
    means = torch.linspace(-0.8, 0.8, 2 * 12, dtype=torch.float64).view(2, 3, 2, 2)
    covs = 0.01 * torch.eye(12, dtype=torch.float64).expand(2, 12, 12)
    return mixture(means, covs, torch.ones(2), schedule=schedule(name), kind=kind)


def make(made: Any, **fields: Any) -> Result:
    found: Result = run(Text2Image(prompt="0", **fields)(made))
    return found


def test_a_list_of_levels_says_how_many_steps_there_are() -> None:
    made = model("scaled_linear", "eps")
    grid = "custom(sigmas=[14.6, 3.2, 0.5])"
    alone = make(made, grid=grid)
    assert alone.arguments[0]["steps"] == 3
    assert alone.arguments[0]["grid"] == grid
    again = make(made, **{k: alone.arguments[0][k] for k in ("grid", "steps", "seed", "sampler", "guidance")})
    assert (again.pixels[0] == alone.pixels[0]).all()
    assert make(made, grid="karras").arguments[0]["steps"] == made.defaults.steps
    with pytest.raises(InvalidRequest, match="steps = 7, but the list makes 3"):
        make(made, grid=grid, steps=7)


def test_options_change_the_picture() -> None:
    made = model("scaled_linear", "eps")
    one, other = (make(made, grid=grid, steps=4).pixels[0] for grid in ("karras", "karras(rho=1)"))
    assert (one != other).any()


def test_a_network_of_eps_is_not_asked_in_pure_noise() -> None:
    with pytest.raises(InvalidRequest, match="predicts eps says nothing"):
        make(model("scaled_linear(zero_snr=true)", "eps"), grid="trailing")
    assert len(make(model("scaled_linear(zero_snr=true)", "v"), grid="trailing").pixels) == 1
    assert isinstance(model("flow", "flow").denoiser.schedule, Flow)
