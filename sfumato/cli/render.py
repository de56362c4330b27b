"""What people see while they wait: a progress bar with time left, and the picture as it grows."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from sfumato.picture.png import save_png


class Bar:
    """A progress bar on standard error; silent where that is not a terminal."""

    def __init__(
        self, total: int | None, *, preview: bool | None, quiet: bool, beside: Path | None = None
    ) -> None:
        """Expect ``total`` evaluations (None: unknown); ``preview`` shows the picture, ``quiet`` shows nothing.

        The file ``beside`` always has the newest picture, or the one before, whole.
        """
        self.console, self.beside = Console(stderr=True), beside
        self.preview = bool(preview) and not quiet
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=quiet or not self.console.is_terminal or self.preview,
        )
        self.task = self.bar.add_task("sampling", total=total)
        self.total, self.shown, self.lines = total, 0.0, 0

    def __enter__(self) -> Bar:
        """Begin to draw."""
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the bar away."""
        self.bar.stop()

    def update(self, done: int, picture: Callable[[], Any]) -> None:
        """``done`` evaluations are made; ``picture()`` gives the current estimate."""
        self.bar.update(self.task, completed=done)
        if not (self.preview or self.beside):
            return
        if done == self.total or time.monotonic() - self.shown > 0.5:
            pixels = picture()
            if self.preview:
                self._show(pixels, done)
            if self.beside is not None:
                save_png(self.beside, pixels)
            self.shown = time.monotonic()

    def _show(self, pixels: Any, done: int) -> None:
        from sfumato.picture.terminal import show, supports_colour

        colour = supports_colour(sys.stderr, dict(os.environ))
        text = show(pixels, colour=colour)
        if not text:
            print(f"step {done} of {self.total or '?'}", file=sys.stderr)
            return
        if self.lines:
            sys.stderr.write(f"\033[{self.lines}A")
        lines = text.rstrip("\n").count("\n") + 1
        sys.stderr.write(text.rstrip("\n") + "\n")
        sys.stderr.flush()
        self.lines = lines
