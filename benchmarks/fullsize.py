"""Published networks in their full size: written by the reference, loaded by us, one forward beside it.

    make fullsize                                     # all, within an hour, 20 GB of memory, 40 GB of disk
    python -m benchmarks.fullsize --only sd15-unet    # one; may be repeated

Of each network the reference is built with drawn weights (norms 1 + 0.3 n, matrices by their width, all else 0.3 n; n
from four million normal numbers, begun elsewhere for each tensor) in bfloat16, saved by its own library, loaded by us
without a config of ours, and both compute the same input: a latent of 16 x 16, 8 tokens. FLUX.1, T5-XXL and Stable
Diffusion 3.5 large are compared by keys and shapes in both layouts alone. A line that says FAR, or an error, makes the
exit code 1.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from sfumato.families.checkpoint import part_of
from sfumato.families.signatures import recognise
from sfumato.weights.load import FILLS, load_into
from sfumato.weights.source import open_source

MOST = 2e-2  # of the deviation of the reference's output, root of the mean square
WITH_VALUES = [
    "sd15-unet",
    "vae-c4",
    "clip-l",
    "sdxl-unet",
    "clip-bigg",
    "sd35-medium",
    "vae-c16",
    "clip-l-projected",
]
BY_KEYS = ("t5-xxl", "flux-dev", "flux-schnell", "flux-fill", "sd35-large")


class Unfilled(TorchFunctionMode):
    """Leaves large tensors as they are while a network is built: they are drawn afterwards, all of them."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call ``func`` unless it would initialise a large tensor."""
        options = kwargs or {}
        if func in FILLS or getattr(func, "__module__", None) == "torch.nn.init":
            target = args[0] if args else options.get("tensor")
            if isinstance(target, Tensor) and target.numel() > 10_000:
                return target
        return func(*args, **options)


def redraw(module: nn.Module) -> None:
    """Draw every parameter again, so that none is 0 or 1 throughout."""
    block = torch.randn(2**22 + 15, generator=torch.Generator().manual_seed(7))
    begin = 0
    with torch.no_grad():
        for name, tensor in module.named_parameters():
            mean, deviation = 0.0, 0.3
            if tensor.ndim >= 2:
                deviation = tensor[0].numel() ** -0.5
            elif "norm" in name and name.endswith("weight"):
                mean = 1.0
            flat, at = tensor.view(-1), 0
            while at < len(flat):
                part = block[begin : begin + len(flat) - at]
                flat[at : at + len(part)] = mean + deviation * part
                at, begin = at + len(part), (begin + len(part)) % len(block)


def forward(kind: str, ours: Any, theirs: Any) -> tuple[Tensor, Tensor, float, float]:
    """What both give for one input, and how many seconds each takes."""
    draws = torch.Generator().manual_seed(3)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draws).bfloat16()

    clock = torch.tensor([500.0])
    if kind == "unet":
        config = ours.config
        x, tokens = normal(1, config.inner, 16, 16), normal(1, 8, config.tokens)
        mine: dict[str, Any] = {"tokens": tokens}
        told: dict[str, Any] = {}
        if config.vector:
            from sfumato.nn.embed import sinusoid

            ids = torch.tensor([[1024.0, 1024, 0, 0, 1024, 1024]])
            pooled = normal(1, config.vector - 6 * 256)
            mine["vector"] = torch.cat((pooled, sinusoid(ids[0], 256).flatten()[None].bfloat16()), dim=1)
            told["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": ids}
        calls = (lambda: ours(x, clock, **mine), lambda: theirs(x, clock, tokens, **told).sample)
    elif kind == "mmdit":
        x, tokens, vector = normal(1, 16, 16, 16), normal(1, 8, 4096), normal(1, 2048)
        calls = (
            lambda: ours(x, clock, tokens=tokens, vector=vector),
            lambda: theirs(x, tokens, vector, clock).sample,
        )
    elif kind == "vae":
        x = normal(1, ours.config.latent, 16, 16)
        calls = (lambda: ours.decode(x), lambda: theirs.decode(x).sample)
    else:
        ids = torch.tensor([[49406, 320, 8383, 269, 1000, 2000, 3000, 49407]])
        calls = (lambda: ours(ids)[0], lambda: theirs(ids).last_hidden_state)
    answers, seconds = [], []
    for call in calls:
        began = time.perf_counter()
        answers.append(call().float())
        seconds.append(time.perf_counter() - began)
    return answers[0], answers[1], seconds[0], seconds[1]


@torch.no_grad()
def with_values(name: str, folder: Path) -> bool:
    """Build, save, load and compare one network; print a line; True if it agrees."""
    from tests.families.published_keys.make import NETWORKS

    before = time.perf_counter()
    torch.set_default_dtype(torch.bfloat16)
    with Unfilled():
        theirs: Any = NETWORKS[name][1]().eval()
    torch.set_default_dtype(torch.float32)
    redraw(theirs)
    built = time.perf_counter()
    theirs.save_pretrained(folder / name)
    saved = time.perf_counter()
    with open_source(folder / name) as source:
        part = part_of(recognise(source, name), name)
        ours = load_into(part.make, part.source, part.table, part.layout, dtype=torch.bfloat16)
    loaded = time.perf_counter()
    got, want, mine, other = forward(part.kind, ours, theirs)
    far = float((got - want).square().mean().sqrt() / want.std())
    count = sum(tensor.numel() for tensor in ours.parameters())
    good = got.shape == want.shape and float(want.std()) > 1e-3 and far < MOST
    print(
        f"{name:18}{count / 1e6:10,.1f} M  build {built - before:6.1f} s  save {saved - built:6.1f} s  "
        f"load {loaded - saved:6.1f} s  forward {mine:6.2f} s, theirs {other:6.2f} s  "
        f"apart {far:.1e}  peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:5.1f} GB  "
        f"{'' if good else 'FAR'}",
        flush=True,
    )
    shutil.rmtree(folder / name)
    return good


def by_keys(name: str) -> bool:
    """Compare one network's keys and shapes in both layouts with the reference's; print a line."""
    from tests.families.published_keys import read
    from tests.families.published_keys.fake import part_from
    from tests.families.published_keys.make import ours, readers_answer, theirs

    module, folder = theirs(name)
    part = part_from(name, folder)
    good = ours(part, "diffusers") == folder == read(name, "diffusers")
    if part.kind != "t5":
        original = ours(part, "original")
        good = good and original == read(name, "original")
        good = good and readers_answer(part.kind, module, original) == folder
    count = sum(torch.Size(shape).numel() for shape in folder.values())
    print(f"{name:18}{count / 1e6:10,.1f} M  keys and shapes {'agree' if good else 'FAR'}", flush=True)
    return good


def main() -> int:
    """Run what was asked for, each network in a process of its own, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [*WITH_VALUES, *BY_KEYS]
    parser.add_argument("--only", action="append", choices=names, help="one network; may be repeated")
    parser.add_argument(
        "--folder", type=Path, help="where files are kept meanwhile (default: a temporary folder)"
    )
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    wanted = options.only or names
    if options.here:
        try:
            (name,) = wanted
            good = with_values(name, options.folder) if name in WITH_VALUES else by_keys(name)
        except Exception:
            traceback.print_exc()
            return 1
        return 0 if good else 1
    failed = []
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        for name in wanted:  # alone, so that memory is given back and the peak is its own
            command = [sys.executable, "-m", "benchmarks.fullsize", "--here", "--only", name]
            if subprocess.run([*command, "--folder", temporary], check=False).returncode:
                failed.append(name)
    print(f"failed: {', '.join(failed)}" if failed else f"all {len(wanted)} agree")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
