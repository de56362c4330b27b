"""What a task says of how often it will ask the network, for the bar: as often as it does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import sfumato
from sfumato.loaded import Loaded
from sfumato.tasks.table import request

SMALL = np.random.default_rng(0).integers(0, 255, (128, 128, 3), np.uint8)
LARGE = np.tile(SMALL, (1, 2, 1))
HOLE = np.zeros(LARGE.shape[:2], np.uint8)
HOLE[40:90, 40:90] = 255


@pytest.fixture(scope="module")
def model() -> Loaded:
    return sfumato.load("emoji")


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("text2image", {}),
        ("interpolate", {"seed_to": 2, "count": 3}),
        ("interpolate", {"prompt_to": "a dog", "count": 3}),
        ("interpolate", {"prompt": "a [cat:cow:0.5]", "dialect": "a1111", "prompt_to": "a dog", "count": 2}),
        ("interpolate", {"image": SMALL, "image_to": SMALL[::-1].copy(), "count": 2, "sampler": "ddim"}),
        ("animate", {"prompt": None, "prompts": ("a cat", "a dog", "a cow"), "count": 4}),
        ("animate", {"prompt": None, "prompts": ("a cat", "a dog"), "count": 4, "loop": True}),
        ("animate", {"prompt": None, "prompts": ("a cat", "a dog", "a cow"), "count": 4, "pick": 2}),
        ("upscale", {"factor": 1.5, "strength": 0.5}),
        ("upscale", {"image": SMALL, "factor": 1.5, "strength": 0.5}),
        ("image2image", {"image": LARGE, "tile": True, "strength": 0.5}),
        ("resample", {"image": LARGE, "tile": True, "source": "a dog", "strength": 0.5, "sampler": "ddim"}),
        ("outpaint", {"image": SMALL, "tile": True, "left": 32}),
        ("inpaint", {"image": LARGE, "mask": HOLE, "tile": True}),
        ("inpaint", {"image": LARGE, "mask": HOLE, "around": 16}),
        ("vary", {"image": SMALL, "sampler": "ddim"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value) or "plain",
)
def test_the_bar_ends_where_the_work_does(model: Loaded, name: str, fields: dict[str, Any]) -> None:
    given = {"prompt": "a cat", "steps": 2, **fields}
    task, _ = request(name, **{key: value for key, value in given.items() if value is not None})
    seen: list[int] = []
    model.run(task, lambda done, preview: seen.append(done))
    assert seen == list(range(1, task.evaluations(model.model) + 1))
