"""Tiny pipelines of diffusers, and our models of the folders they are saved to."""

from __future__ import annotations

import pytest

from tests.peers.pipelines import PIPELINES, Case, peer


@pytest.fixture(scope="module")
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """The case of a name, for ``parametrize("case", names, indirect=True)``: built once for all tests of a module."""
    return Case(request.param, peer(PIPELINES[request.param], tmp_path_factory.mktemp("peer")))
