"""Every task with every sampler and guide on published families with tiny weights: ``make matrix``.

``python -m tests.tasks.families_matrix --families sd1 --tasks tile vary`` runs a part of it.

Networks are redrawn at random, so pictures show nothing; what is checked is what holds for any weights: the size that
was asked for, pixels outside a mask as they were, a picture of its own for each seed, alone as in company, and else a
refusal that names what would work. ``test_tasks_families.py`` runs a share in which every pair of values is found.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sfumato.engine.run import run
from sfumato.errors import InvalidRequest
from sfumato.guidance import GUIDES
from sfumato.model import Model
from sfumato.samplers import SAMPLERS
from sfumato.tasks.table import TASKS
from sfumato.tasks.task import Result, make
from tests.peers.further import further
from tests.peers.pipelines import PIPELINES, Case, peer
from tests.tasks.toys import picture

FURTHER = ("pixart sigma", "chroma", "lumina", "z-image", "sana")
FAMILIES = ("sd1", "sdxl", "sd3", "flux", "inpaint", "instruct", "dit", *FURTHER)
SCALES = {"cfgpp": 0.6}
Cell = tuple[str, str, str, str]
"""A family, a task, a sampler and a guide."""


def fields(family: str, task: str, side: int) -> dict[str, Any]:
    """What ``task`` is asked for, with pictures of about ``side`` pixels, none of them a multiple of anything.

    The prompts of a family with classes are their names.
    """
    cat, dog = ("goldfish", "tench") if family == "dit" else ("a cat", "a dog")
    wide, high = side, side - 3
    image, hole = picture(wide, high), np.zeros((high, wide), bool)
    hole[: high // 2, 5:] = True
    asked: dict[str, dict[str, Any]] = {
        "text2image": {"prompt": cat},
        "class2image": {"label": "goldfish"},
        "unconditional": {},
        "image2image": {"image": image, "prompt": cat, "strength": 0.5},
        "instruct": {"image": image, "prompt": dog},
        "control": {"image": image, "prompt": cat},
        "inpaint": {"image": image, "mask": hole, "prompt": cat},
        "outpaint": {"image": picture(wide - 7, high), "left": 7, "prompt": cat},
        "vary": {"prompt": cat, "amount": 0.5},
        "animate": {"prompts": (cat, dog), "count": 2},
        "interpolate": {"prompt": cat, "prompt_to": dog, "count": 2},
        "upscale": {"image": picture(side // 2, side // 2), "prompt": cat, "factor": 2, "strength": 0.5},
        "restore": {
            "image": picture(side // 2, side // 2),
            "damage": "average(factor=2)",
            "prompt": cat,
            "method": "mmps(iterations=1)",
        },
        "resample": {"image": image, "prompt": cat, "source": dog},
        "style": {"image": image, "prompt": cat},
        "compose": {"prompt": cat, "regions": (f"rect(0, 0, 50%, 100%): {dog}",)},
        "tile": {"prompt": cat},
    }
    return asked[task]


SIZED = (
    "text2image",
    "class2image",
    "unconditional",
    "vary",
    "animate",
    "interpolate",
    "style",
    "compose",
    "tile",
)
"""Tasks whose pictures are as large as ``size`` says."""


def asked(cell: Cell, model: Model, **more: Any) -> Any:
    """The request of ``cell``, with fields of its own."""
    family, task, sampler, guide = cell
    side = model.defaults.least
    told = {**fields(family, task, side), "sampler": sampler, "guide": guide, "steps": 2}
    if task != "unconditional":
        told["guidance"] = SCALES.get(guide, 2.0)
    if task in SIZED:
        told["size"] = f"{side}x{side}"
    return make(TASKS[task], **{**told, **more})


def check(cell: Cell, model: Model) -> str:
    """The cell's refusal, or nothing where it runs; AssertionError where it does not keep what is promised."""
    task, side = cell[1], model.defaults.least
    request = asked(cell, model)
    try:
        made: Result = run(request(model))
    except InvalidRequest as error:
        told = str(error)
        assert re.search(r"use |choose |leave |such as|give |lower |is for the task", told), (
            f"names nothing that would work: {told}"
        )
        return told
    given = fields(cell[0], task, side)
    assert len(made.pixels) == given.get("count", 1)
    for pixels in made.pixels:
        size = side, side
        if task in ("image2image", "instruct", "control", "inpaint", "outpaint", "resample"):
            size = side - 3, side
        assert pixels.shape == (*size, 3)
        if task == "inpaint":
            assert np.array_equal(pixels[~given["mask"]], given["image"][~given["mask"]])
        if task == "outpaint":
            assert np.array_equal(pixels[:, 7:], given["image"])
    return ""


NO_LABELS = ("class2image", "control", "instruct")
REFUSED: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("sd1", "sdxl", "sd3", "flux", *FURTHER), NO_LABELS),
    "dit": ("control", "instruct"),
    "inpaint": tuple(task for task in TASKS if task not in ("inpaint", "outpaint")),
    "instruct": tuple(task for task in TASKS if task != "instruct"),
}
"""What a family cannot do, whatever the sampler: it reads no class, no map, no instruction, or needs them."""


def check_company(family: str, task: str, model: Model) -> None:
    """Two pictures of a family's ``task`` with its own defaults: each as it is alone, and neither as the other.

    Tasks of REFUSED, and no others, are refused. Not for ``resample``, which draws no noise and makes one picture.
    """
    defaults = model.defaults
    cell = (family, task, defaults.sampler, defaults.guide)
    request = asked(cell, model, count=2)
    if task in REFUSED[family]:
        try:
            run(request(model))
        except InvalidRequest:
            return
        raise AssertionError(f"{family} does {task}")
    both: Result = run(request(model))
    assert len(both.pixels) == 2
    assert not np.array_equal(*both.pixels)
    for pixels, arguments in zip(both.pixels, both.arguments, strict=True):
        parents = {name: fields(family, task, defaults.least)[name] for name in arguments.get("parents", ())}
        plain = {name: value for name, value in arguments.items() if name != "parents"}
        alone: Result = run(make(TASKS[task], **plain, **parents)(model))
        # Restoring differentiates the decoder for all pictures at once, whose sums are rounded by how many there are.
        most = 1 if task == "restore" else 0
        assert np.abs(alone.pixels[0].astype(int) - pixels).max() <= most


def share() -> list[Cell]:
    """Cells in which every pair of values of two of the four is found."""
    samplers, guides = list(SAMPLERS), list(GUIDES)
    cells = [
        (FAMILIES[(i + j) % len(FAMILIES)], task, sampler, guides[(i + 3 * j) % len(guides)])
        for i, task in enumerate(TASKS)
        for j, sampler in enumerate(samplers)
    ]
    values = (FAMILIES, list(TASKS), samplers, guides)
    for (a, left), (b, right) in combinations(enumerate(values), 2):
        found = {(cell[a], cell[b]) for cell in cells}
        for number, pair in enumerate((x, y) for x in left for y in right):
            if pair not in found:
                more = [each[number % len(each)] for each in values]
                more[a], more[b] = pair
                cells.append((more[0], more[1], more[2], more[3]))
    return cells


def builder(folder: Path) -> Callable[[str], Model]:
    """Models by family, each built once below ``folder``."""
    models: dict[str, Model] = {}

    def build(family: str) -> Model:
        if family not in models:
            place = folder / family
            place.mkdir()
            case = (
                Case(family, peer(PIPELINES[family], place))
                if family in PIPELINES
                else further(family, place)
            )
            models[family] = case.model(torch.float32)
        return models[family]

    return build


def main() -> None:
    """Run every cell and say how many ran, how many were refused and why; exit code 1 if a promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--families", nargs="*", default=FAMILIES, choices=FAMILIES)
    parser.add_argument("--tasks", nargs="*", default=tuple(TASKS), choices=tuple(TASKS))
    options = parser.parse_args()
    broken, reasons, ran = [], Counter[str](), 0
    with tempfile.TemporaryDirectory() as folder:
        build = builder(Path(folder))
        for family in options.families:
            for task in options.tasks:
                for sampler in SAMPLERS:
                    for guide in GUIDES:
                        cell = (family, task, sampler, guide)
                        try:
                            refusal = check(cell, build(family))
                        except Exception as error:
                            broken.append((cell, repr(error)[:300]))
                            continue
                        ran += not refusal
                        if refusal:
                            reasons[re.sub(r"the sampler '\w+'", "the sampler", refusal)] += 1
                print(family, task, ran, sum(reasons.values()), len(broken), file=sys.stderr, flush=True)
    for reason, count in reasons.most_common():
        print(f"{count:6d}  {reason}")
    for cell, error in broken:
        print("BROKEN", *cell, error)
    print(f"{ran} cells ran, {sum(reasons.values())} were refused, {len(broken)} broke a promise")
    sys.exit(bool(broken))


if __name__ == "__main__":
    main()
