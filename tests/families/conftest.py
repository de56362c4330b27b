"""Tiny pipelines of diffusers, and our models of the folders they are saved to."""

from __future__ import annotations

import pytest

from tests.peers.pipelines import PIPELINES, Case, peer


@pytest.fixture(scope="session")
def built() -> dict[str, Case]:
    """The cases that were built, by name: one pipeline serves all modules, which leave it as it is."""
    return {}


@pytest.fixture(scope="module")
def case(
    request: pytest.FixtureRequest, built: dict[str, Case], tmp_path_factory: pytest.TempPathFactory
) -> Case:
    """The case of a name, for ``parametrize("case", names, indirect=True)``."""
    name = request.param
    if name not in built:
        built[name] = Case(name, peer(PIPELINES[name], tmp_path_factory.mktemp("peer")))
    return built[name]
