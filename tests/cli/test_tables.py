"""The commands that list what can be chosen."""

from __future__ import annotations

import json

import pytest

from sfumato.cli.main import main
from sfumato.process.grid import SPACINGS
from sfumato.process.schedules import SCHEDULES


@pytest.mark.parametrize(("command", "table"), [("grids", SPACINGS), ("schedules", SCHEDULES)])
def test_grids_and_schedules_are_listed(
    command: str, table: dict, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command]) == 0
    shown = capsys.readouterr().out
    assert main([command, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == list(table)
    for row in rows:
        assert f"{row['name']:16} {row['definition']}" in shown
        assert not row["options"] or f"options: {row['options']}" in shown


@pytest.mark.parametrize("command", ["grids", "schedules"])
def test_the_lists_load_nothing_heavy(command: str) -> None:
    import subprocess
    import sys

    code = (
        f"import sys; from sfumato.cli.main import main; main(['{command}']); "
        "print([m for m in ('torch', 'numpy', 'pydantic') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
