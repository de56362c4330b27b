"""A share of the matrix, chosen so that every task, sampler and guide is in it, and that docs/tasks.md is fresh."""

from __future__ import annotations

import dataclasses

import pytest
from pydantic import TypeAdapter

from sfumato.guidance import GUIDES
from sfumato.samplers import SAMPLERS
from sfumato.tasks.given import picture_fields
from sfumato.tasks.table import TASKS
from tests.tasks.matrix import CELLS, PAGE, check, fields_table, kind_of, placed
from tests.tasks.toys import toy

SHARE = [
    (task, sampler, list(GUIDES)[(k + n) % len(GUIDES)])
    for k, sampler in enumerate(SAMPLERS)
    for n, task in enumerate(CELLS)
    if (k + 5 * n) % 11 == 0
]


def test_the_share_has_everything() -> None:
    assert {task for task, _, _ in SHARE} == set(TASKS) == set(CELLS)
    assert {sampler for _, sampler, _ in SHARE} == set(SAMPLERS)
    assert {guide for _, _, guide in SHARE} == set(GUIDES)


@pytest.mark.parametrize(("task", "sampler", "guide"), SHARE)
def test_a_cell_runs_or_is_refused_as_the_page_says(task: str, sampler: str, guide: str) -> None:
    refusal = kind_of(check(task, sampler, guide, toy()))
    page = PAGE.read_text("utf-8").split("<!-- matrix -->")[1]
    rows = page.split(f"### `{guide}`")[1].split("###")[0].splitlines()
    row = next(line for line in rows if line.startswith(f"| `{sampler}` |"))
    mark = row.split("|")[2 + list(CELLS).index(task)].strip()
    assert (f"* **{mark}**: {refusal}" in page) if refusal else (mark == "yes")


def test_the_page_has_the_fields_as_they_are() -> None:
    page = PAGE.read_text("utf-8")
    assert placed(page, "fields", fields_table()) == page, "run: python -m tests.tasks.matrix --fields"


@pytest.mark.parametrize("name", TASKS)
def test_the_schema_is_the_dataclass(name: str) -> None:
    task = TASKS[name]
    schema = TypeAdapter(task).json_schema()
    assert list(schema["properties"]) == [field.name for field in dataclasses.fields(task)]
    assert schema["additionalProperties"] is False
    assert all(shown["description"] for shown in schema["properties"].values())
    for field in picture_fields(task):
        shown = schema["properties"][field]
        assert (shown if "type" in shown else shown["anyOf"][0])["contentMediaType"] == "image/png"
