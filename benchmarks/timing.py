"""Alternating measurement: every round runs each contender once, and ratios are taken inside rounds.

Wall-clock seconds and the CPU seconds of the calling thread are both recorded. On a machine that other work
shares, only ratios mean anything, and with one thread the CPU seconds are the steadier of the two.
"""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """How many times faster than the base: median over rounds, least and greatest."""

    median: float
    least: float
    most: float


@dataclass(frozen=True, kw_only=True)
class Line:
    """One contender: median seconds, and speed relative to the base of its comparison, by either clock."""

    name: str
    base: str
    wall: float
    cpu: float
    wall_ratio: Ratio
    cpu_ratio: Ratio


def alternate(
    contenders: dict[str, Callable[[], object]], base: str, rounds: int, warm: int = 1
) -> list[Line]:
    """Time ``contenders`` in turn for ``rounds`` rounds and compare each with ``base``."""
    for run in contenders.values():
        for _ in range(warm):
            run()
    wall: dict[str, list[float]] = {name: [] for name in contenders}
    cpu: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            began, spent = time.perf_counter(), time.thread_time()
            run()
            wall[name].append(time.perf_counter() - began)
            cpu[name].append(time.thread_time() - spent)
    return [
        Line(
            name=name,
            base=base,
            wall=statistics.median(wall[name]),
            cpu=statistics.median(cpu[name]),
            wall_ratio=_ratio(wall[base], wall[name]),
            cpu_ratio=_ratio(cpu[base], cpu[name]),
        )
        for name in contenders
    ]


def _ratio(base: list[float], other: list[float]) -> Ratio:
    ratios = [b / o for b, o in zip(base, other, strict=True)]
    return Ratio(median=statistics.median(ratios), least=min(ratios), most=max(ratios))


def report(title: str, lines: list[Line], facts: dict[str, object], path: Path | None) -> None:
    """Print a comparison, and write it as JSON to ``path`` if that is given."""
    facts = {"date": f"{datetime.now(UTC):%Y-%m-%d}", **machine(), **facts}
    print(title)
    for key, value in facts.items():
        print(f"  {key}: {value}")
    for line in lines:
        c, w = line.cpu_ratio, line.wall_ratio
        print(
            f"  {line.name:34s} {line.cpu * 1e3:10.1f} ms cpu {line.wall * 1e3:10.1f} ms wall"
            f"   {c.median:5.2f}x [{c.least:.2f}..{c.most:.2f}] cpu {w.median:5.2f}x wall, over {line.base}"
        )
    if path is not None:
        table = {"title": title, "facts": facts, "lines": [asdict(line) for line in lines]}
        path.write_text(json.dumps(table, indent=1) + "\n")


def machine() -> dict[str, object]:
    """What the figures depend on."""
    return {
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor()


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    """``|a - b| / |b|``."""
    return float((a.double() - b.double()).norm() / b.double().norm())
