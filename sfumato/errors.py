"""Every error that sfumato raises on purpose.

::

    SfumatoError                 something that a person can act on; its text is one sentence or two
    ├── InvalidRequest           an argument is outside what is allowed (exit code 2)
    │   └── UnknownName          a name that is not in a table; says which names are nearest
    ├── DataError                a file of pictures or records is damaged or not what it says
    ├── WeightsError             a weights file is truncated, altered, or of another model
    ├── OutputError              a result cannot be written: unwritable folder, full disk
    ├── OutOfMemory              a single row of what was asked does not fit in memory (exit code 6)
    ├── MissingExtra             an optional package is needed; names the extra that brings it
    └── Cancelled                a request was stopped before its end

The command line turns each into one line on standard error and the exit code in ``exit_code``.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SfumatoError(Exception):
    """The root of all errors raised on purpose; ``exit_code`` is what the command line returns."""

    exit_code = 1


class InvalidRequest(SfumatoError, ValueError):
    """An argument is outside what is allowed; the text names it, its value and what would do."""

    exit_code = 2


class UnknownName(InvalidRequest):
    """A name that a table does not have, with the nearest names that it has."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        """``kind`` is what the name should be one of ("sampler"); ``known`` are the names that exist."""
        names = sorted(known)
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"known: {', '.join(names)}"
        super().__init__(f"unknown {kind} {name!r}; {hint}")
        self.kind, self.name, self.near = kind, name, near


class DataError(SfumatoError):
    """A file of pictures, captions or labels is damaged or not of the form it should have."""

    exit_code = 5


class WeightsError(SfumatoError):
    """A weights file is missing, truncated, altered (its hash differs) or belongs to another model."""

    exit_code = 5


class OutputError(SfumatoError):
    """A result could not be written; nothing half-written was left behind."""

    exit_code = 7


class OutOfMemory(SfumatoError, MemoryError):
    """What was asked does not fit in memory, even by itself; the text names its size and what would do."""

    exit_code = 6


class MissingExtra(SfumatoError, ImportError):
    """An optional package is needed for what was asked."""

    exit_code = 2

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        """Say which ``extra`` of sfumato brings ``package``, and for what ``purpose`` it is needed."""
        super().__init__(
            f"{purpose} needs the package {package!r}; install it with: pip install 'sfumato[{extra}]'"
        )
        self.package, self.extra = package, extra


class Cancelled(SfumatoError):
    """The request was stopped before its end."""

    exit_code = 130
