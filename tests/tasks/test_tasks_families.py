"""Tasks, samplers and guides on families with tiny weights: every pair of values; ``make matrix`` runs every cell."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest

from sfumato.guidance import GUIDES
from sfumato.model import Model
from sfumato.samplers import SAMPLERS
from sfumato.tasks.table import TASKS
from tests.tasks.families_matrix import FAMILIES, Cell, builder, check, check_company, share

SHARE = share()


def test_every_pair_of_values_is_in_the_share() -> None:
    values = (FAMILIES, tuple(TASKS), tuple(SAMPLERS), tuple(GUIDES))
    for a, b in ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)):
        assert {(cell[a], cell[b]) for cell in SHARE} == set(product(values[a], values[b]))


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Model]:
    return builder(tmp_path_factory.mktemp("families"))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("task", TASKS)
def test_a_familys_cells_run_or_say_what_would(family: str, task: str, build: Callable[[str], Model]) -> None:
    cells: list[Cell] = [cell for cell in SHARE if cell[:2] == (family, task)]
    assert cells
    for cell in cells:
        check(cell, build(family))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("task", [task for task in TASKS if task != "resample"])
def test_a_picture_is_the_same_alone(family: str, task: str, build: Callable[[str], Model]) -> None:
    check_company(family, task, build(family))
