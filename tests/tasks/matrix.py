"""Every task with every sampler and every guide on the closed-form family: ``python -m tests.tasks.matrix``.

Each cell runs and keeps what is promised (sizes, exact masks, a picture of its own for each seed, alone as in
company), or is refused with a sentence that names what would work. The whole is written into docs/tasks.md, with the
table of fields.
"""

from __future__ import annotations

import dataclasses
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from sfumato.engine.run import run
from sfumato.errors import InvalidRequest
from sfumato.guidance import GUIDES
from sfumato.model import Model
from sfumato.samplers import SAMPLERS
from sfumato.tasks.given import picture_fields
from sfumato.tasks.table import TASKS
from sfumato.tasks.task import make
from tests.tasks.toys import alike, corner, picture, toy

PAGE = Path(__file__).parents[2] / "docs" / "tasks.md"
SCALES = {"cfgpp": 0.6}
SMALL = picture(3, 4)

CELLS: dict[str, dict[str, Any]] = {
    "text2image": {"prompt": "left", "count": 2},
    "class2image": {"label": "left", "count": 2},
    "unconditional": {"count": 2},
    "image2image": {"image": SMALL, "prompt": "left", "strength": 0.75, "count": 2},
    "instruct": {"image": SMALL, "prompt": "left"},
    "control": {"image": SMALL, "prompt": "left"},
    "inpaint": {"image": SMALL, "mask": corner(3, 4), "prompt": "left", "count": 2},
    "outpaint": {"image": picture(3, 3), "left": 1, "prompt": "left", "count": 2},
    "vary": {"prompt": "left", "amount": 0.5, "count": 2},
    "animate": {"prompts": ("left", "right"), "count": 2},
    "interpolate": {"prompt": "left", "prompt_to": "right", "count": 3},
    "upscale": {"image": SMALL, "prompt": "left", "factor": 2, "strength": 0.75, "count": 2},
    "restore": {
        "image": picture(2, 2),
        "damage": "average(factor=2)",
        "prompt": "left",
        "method": "mmps(iterations=2)",
        "count": 2,
    },
    "resample": {"image": SMALL, "prompt": "left", "source": "right"},
    "style": {"image": SMALL, "prompt": "left", "count": 2},
    "compose": {
        "prompt": "left",
        "regions": ("rect(0, 0, 50%, 100%): right", "rect(50%, 0, 50%, 50%): left"),
        "count": 2,
    },
    "tile": {"prompt": "left", "count": 2},
}
"""What each task is asked for."""

SIZES = {"image2image": (4, 3), "inpaint": (4, 3), "outpaint": (3, 4), "upscale": (8, 6), "resample": (4, 3)}


def check(task: str, sampler: str, guide: str, model: Model) -> str:
    """The cell's refusal, or nothing where it runs; AssertionError where it does not keep what is promised."""
    fields = CELLS[task]
    scale = {} if task == "unconditional" else {"guidance": SCALES.get(guide, 2.0)}
    common = {"sampler": sampler, "guide": guide, "steps": 4, **scale}
    try:
        made = run(make(TASKS[task], **fields, **common)(model))
    except InvalidRequest as error:
        told = str(error)
        assert re.search(r"use |choose |leave |such as", told), f"names nothing that would work: {told}"
        return told
    assert len(made.pixels) == fields.get("count", 1)
    assert {p.shape for p in made.pixels} == {(*SIZES.get(task, (4, 4)), 3)}
    assert len({p.tobytes() for p in made.pixels}) == len(made.pixels)
    if task == "inpaint":
        kept = ~fields["mask"]
        assert all(np.array_equal(p[kept], fields["image"][kept]) for p in made.pixels)
    if task == "outpaint":
        assert all(np.array_equal(p[:, 1:], fields["image"]) for p in made.pixels)
    alike(
        TASKS[task],
        made,
        model,
        **{name: fields[name] for name in picture_fields(TASKS[task]) if name in fields},
    )
    return ""


def kind_of(refusal: str) -> str:
    """A refusal without the names of its cell, so that equal reasons are told once."""
    return re.sub(r"the sampler '\w+'", "the sampler", refusal)


def letters(number: int) -> str:
    """a to z, then aa, ab and so on."""
    first, last = divmod(number, 26)
    return (letters(first - 1) if first else "") + chr(97 + last)


def matrix() -> tuple[dict[tuple[str, str, str], str], list[str]]:
    """For every cell (task, sampler, guide) the letter of its refusal, or nothing; and the refusals in order."""
    model = toy()
    reasons: list[str] = []
    cells = {}
    for guide in GUIDES:
        for sampler in SAMPLERS:
            for task in CELLS:
                refusal = kind_of(check(task, sampler, guide, model))
                if refusal and refusal not in reasons:
                    reasons.append(refusal)
                cells[task, sampler, guide] = letters(reasons.index(refusal)) if refusal else ""
            print(guide, sampler, file=sys.stderr, flush=True)
    return cells, reasons


def tables(cells: dict[tuple[str, str, str], str], reasons: list[str]) -> str:
    """The matrix as Markdown: a table for each guide, a row for each sampler, and what the letters say."""
    lines = []
    for guide in GUIDES:
        lines += [f"### `{guide}`", "", f"| sampler | {' | '.join(CELLS)} |", "|" + "---|" * (len(CELLS) + 1)]
        for sampler in SAMPLERS:
            marks = [cells[task, sampler, guide] or "yes" for task in CELLS]
            lines.append(f"| `{sampler}` | {' | '.join(marks)} |")
        lines.append("")
    lines += [f"* **{letters(k)}**: {reason}" for k, reason in enumerate(reasons)]
    return "\n".join(lines)


def fields_table() -> str:
    """Tasks and fields as Markdown, from the dataclasses' JSON schemas."""
    lines = []
    for name, task in TASKS.items():
        schema = TypeAdapter(task).json_schema()
        lines += [f"### `{name}`", "", (task.__doc__ or "").split("\n")[0], ""]
        lines += ["| field | what it is | default |", "|---|---|---|"]
        for field in dataclasses.fields(task):
            shown = schema["properties"][field.name]
            default = "required" if field.name in schema.get("required", ()) else f"`{shown.get('default')}`"
            lines.append(f"| `{field.name}` | {shown['description']} | {default} |")
        lines.append("")
    return "\n".join(lines).rstrip()


def placed(page: str, mark: str, text: str) -> str:
    """``page`` with ``text`` between the comments that open and close ``mark``."""
    opened, closed = f"<!-- {mark} -->", f"<!-- end of {mark} -->"
    before, rest = page.split(opened)
    return f"{before}{opened}\n\n{text}\n\n{closed}{rest.split(closed)[1]}"


def main() -> None:
    """Write both tables into docs/tasks.md; with ``--fields`` the fields alone."""
    told = None if "--fields" in sys.argv else tables(*matrix())
    page = placed(PAGE.read_text("utf-8"), "fields", fields_table())
    PAGE.write_text(page if told is None else placed(page, "matrix", told), "utf-8")


if __name__ == "__main__":
    main()
