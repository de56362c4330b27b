"""The ask: what a coroutine hands down at an ``await``, and what the engine answers."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, eq=False)
class Ask:
    """A question to the engine: a model's verb with its arguments. ``await ask`` returns the answer."""

    verb: str
    model: Any
    arguments: tuple[Any, ...] = field(default=())

    def __await__(self) -> Generator[Ask, Any, Any]:
        """Hand this ask to whoever drives the coroutine and return what comes back."""
        answer = yield self
        return answer
