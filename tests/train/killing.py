"""Kill a training run again and again; at the end its weights must be those of an undisturbed run, bit for bit.

Run it at length with ``python -m tests.train.killing --times 25``.
"""

from __future__ import annotations

import argparse
import gzip
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from sfumato.train.checkpoint import checkpoints, load_checkpoint

STEPS = 24
# The command line as it is, with fewer channels: a checkpoint of some megabytes, not 76.
SMALL = """
import functools, sys
from sfumato.cli.main import main
from sfumato.recipes import labelled
labelled.network = functools.partial(labelled.network, widths=(64, 64))
sys.exit(main())
"""


def write_idx(folder: Path, count: int = 120, side: int = 12, classes: int = 3) -> Path:
    """A tiny labelled data set in IDX files: noisy squares, one size a class."""
    rng = np.random.default_rng(0)
    labels = rng.integers(classes, size=count).astype(np.uint8)
    pictures = rng.integers(0, 40, size=(count, side, side), dtype=np.uint8)
    for picture, label in zip(pictures, labels, strict=True):
        picture[2 : 4 + 2 * label, 2 : 4 + 2 * label] = 220
    folder.mkdir(parents=True, exist_ok=True)
    header = struct.pack(">IIII", 0x803, count, side, side)
    with gzip.open(folder / "train-images-idx3-ubyte.gz", "wb") as file:
        file.write(header + pictures.tobytes())
    with gzip.open(folder / "train-labels-idx1-ubyte.gz", "wb") as file:
        file.write(struct.pack(">II", 0x801, count) + labels.tobytes())
    return folder


def command(data: Path, out: Path) -> list[str]:
    """The command line of a short run that writes a checkpoint after every step."""
    numbers = {"steps": STEPS, "batch": 4, "warmup": 5}
    return [
        *(sys.executable, "-c", SMALL, "train", "digits", "--data", str(data), "--out", str(out)),
        *("--resume", "--save-seconds", "0", "--json", "--dtype", "float32"),
        *(part for name, value in numbers.items() for part in ("--set", f"{name}={value}")),
    ]


def environment() -> dict[str, str]:
    """One thread, so that two runs add in the same order."""
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def undisturbed(data: Path, out: Path) -> None:
    """Train without being killed."""
    subprocess.run(command(data, out), check=True, env=environment(), capture_output=True)


def kill_often(data: Path, out: Path, times: int, seed: int) -> list[int]:
    """Start, kill -9, start again ...; then let it end. How many files the kills left half-written, one a kill.

    Every process is let to make a step first, so that the run gets on. Every second kill comes at a random
    moment after that; the others come as soon as a checkpoint is seen being written (its ``.part`` file), so
    that they fall into the writing or just behind. Checkpoints that are visible must load.
    """
    chance, halves = random.Random(seed), []
    for number in range(times):
        process = subprocess.Popen(
            command(data, out), env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        try:
            before, deadline = newest_step(out), time.monotonic() + 300
            while newest_step(out) == before and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.002)
            if number % 2:
                time.sleep(chance.random() * 0.1)
            else:
                while not parts(out) and process.poll() is None and time.monotonic() < deadline:
                    pass
        finally:
            process.kill()
        _, complaint = process.communicate()
        assert process.returncode in (0, -signal.SIGKILL), complaint.decode()
        halves.append(len(parts(out)))
        assert checkpoints(out)
        for path in checkpoints(out):
            load_checkpoint(path)
    undisturbed(data, out)
    return halves


def parts(out: Path) -> list[str]:
    """The checkpoints that are being written."""
    return [name for name in (os.listdir(out) if out.is_dir() else ()) if name.endswith(".part")]


def newest_step(out: Path) -> int:
    """The number in the name of the newest checkpoint, -1 if there is none."""
    names = checkpoints(out)
    return int(names[-1].stem.removeprefix("step-")) if names else -1


def same(a: Path, b: Path, step: int = STEPS) -> bool:
    """Whether the last checkpoints of two runs hold the same bits."""
    one, two = load_checkpoint(checkpoints(a)[-1]), load_checkpoint(checkpoints(b)[-1])
    return one.step == two.step == step and all(
        (one.tensors[name] == two.tensors[name]).all() for name in one.tensors | two.tensors
    )


def leftovers(out: Path) -> list[str]:
    """Files of the run that are neither checkpoints, log nor sheets."""
    return [p.name for p in out.iterdir() if not p.name.startswith(("step-", "log.jsonl", "sheet-"))]


def main() -> None:
    """Kill ``--times`` times and say what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    try:
        data = write_idx(folder / "data")
        undisturbed(data, folder / "calm")
        found = kill_often(data, folder / "killed", chosen.times, chosen.seed)
        within = sum(map(bool, found))
        print(
            f"{chosen.times} kills, {within} of them while a checkpoint was written; all that were visible loaded"
        )
        print("bit-equal to the undisturbed run:", same(folder / "calm", folder / "killed"))
        print("left over:", leftovers(folder / "killed"))
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
