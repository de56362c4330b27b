"""What holds for all tests: torch's usual dtype stays as it is; and how property tests draw.

Property tests: the same cases in every run, so that a change that breaks one is the change under test.

``HYPOTHESIS_PROFILE=search python -m pytest -k ...`` draws new cases, ten times as many, and remembers what failed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

settings.register_profile("steady", deadline=None, derandomize=True, database=None)
settings.register_profile("search", deadline=None, max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "steady"))


@pytest.fixture(autouse=True)
def usual_dtype() -> Iterator[None]:
    """No test, and nothing that it calls, leaves torch with another default dtype."""
    before = torch.get_default_dtype()
    yield
    after = torch.get_default_dtype()
    torch.set_default_dtype(before)
    assert after == before
