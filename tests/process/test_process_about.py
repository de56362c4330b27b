"""docs/grids.md says what the code says."""

from __future__ import annotations

from pathlib import Path

import pytest

from sfumato.process import about
from sfumato.process.grid import SPACINGS
from sfumato.process.schedules import SCHEDULES

PAGE = (Path(__file__).parents[2] / "docs" / "grids.md").read_text("utf-8")


@pytest.mark.parametrize("rows", [about.schedules, about.grids])
def test_the_page_has_the_table(rows) -> None:
    table = about.table(rows())
    assert table in PAGE, f"put this table into docs/grids.md:\n{table}"


def test_every_schedule_and_grid_has_a_row_with_a_definition_and_a_peer() -> None:
    assert [row["name"] for row in about.schedules()] == list(SCHEDULES) == list(about.SCHEDULE_SOURCES)
    assert [row["name"] for row in about.grids()] == list(SPACINGS) == list(about.GRID_SOURCES)
    for row in (*about.schedules(), *about.grids()):
        assert len(row["definition"].split()) > 5
        assert row["peer"]
        assert row["source"] or row["name"] == "custom"
