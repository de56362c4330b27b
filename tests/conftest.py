"""Property tests: the same cases in every run, so that a change that breaks one is the change under test.

``HYPOTHESIS_PROFILE=search python -m pytest -k ...`` draws new cases, ten times as many, and remembers what failed.
"""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile("steady", deadline=None, derandomize=True, database=None)
settings.register_profile("search", deadline=None, max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "steady"))
