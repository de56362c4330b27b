"""A share of the hostile files of fuzz.py, in a process with little memory, as ``make test`` can afford it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is bounded by what Linux tells")
def test_hostile_files_are_refused_within_200_megabytes() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.weights.fuzz", "--times", "300", "--seed", "7"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.startswith("300 files")
    assert " opened" in done.stdout
    assert " refused" in done.stdout
