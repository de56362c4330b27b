"""From a folder to the first call of the denoiser: ours beside diffusers, each in processes of its own, in turn.

    python -m benchmarks.load_checkpoint [--runs 5] [--folder FOLDER]

A pipeline of Stable Diffusion 1.5's full size with drawn weights in float16 is written once (2.1 GB) and is in the
page cache afterwards. Each run opens it in bfloat16, embeds a prompt and stops when the U-Net is called for the first
time; whole pipelines are loaded on both sides, nothing is left for later. Told are seconds: the imports, from there to
the loaded pipeline and to the first call, what processors worked from the imports to the first call ("cpu"), and all;
and the peak of memory above what `import torch` takes.

"floor" is a third contender that knows nothing of networks: it reads all bytes of the files, casts them and writes
them to fresh memory, by as many threads. No loader that keeps its own copy in another dtype can be quicker.

At the end the weights that both loaded are compared.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PROMPT = "A futuristic cityscape at sunrise, ultra-realistic, 8K details"


class Reached(Exception):
    """The denoiser was called."""


def write(folder: Path) -> None:
    """Write the pipeline."""
    import diffusers
    import torch
    import transformers

    from sfumato.families import settings

    torch.set_default_dtype(torch.float16)
    torch.manual_seed(0)
    text = transformers.CLIPTextConfig(
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        projection_dim=768,
    )
    unet = diffusers.UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
    vae = diffusers.AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
    )
    torch.set_default_dtype(torch.float32)
    words = folder / "words"
    words.mkdir(parents=True)
    for name, data in settings.clip_tokenizer("<|endoftext|>", 77).items():
        (words / name).write_bytes(data)
    diffusers.StableDiffusionPipeline(
        vae=vae.half(),
        text_encoder=transformers.CLIPTextModel(text).half(),
        tokenizer=transformers.CLIPTokenizer.from_pretrained(words),
        unet=unet.half(),
        scheduler=diffusers.PNDMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            skip_prk_steps=True,
            steps_offset=1,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)


def floor(folder: Path) -> None:
    """Read all weights and cast them into fresh memory, and nothing else."""
    from concurrent.futures import ThreadPoolExecutor

    import torch

    piece = 2**21

    def copy(path: Path, first: int, target: torch.Tensor) -> None:
        held, wide = torch.empty(piece // 2, dtype=torch.float16), torch.empty(2**17)
        view = held.view(torch.uint8).numpy().data
        with open(path, "rb", buffering=0) as file:
            file.seek(2 * first)
            for at in range(0, len(target), piece // 2):
                part = target[at : at + piece // 2]
                file.readinto(view[: 2 * len(part)])
                for run in range(0, len(part), len(wide)):
                    values = held[run : min(run + len(wide), len(part))]
                    part[run : run + len(values)].copy_(wide[: len(values)].copy_(values))

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with ThreadPoolExecutor(threads) as pool:
        tasks = []
        for path in sorted(folder.rglob("*.safetensors")):
            out = torch.empty(path.stat().st_size // 2, dtype=torch.bfloat16)
            share = 16 * piece
            tasks += [pool.submit(copy, path, at, out[at : at + share]) for at in range(0, len(out), share)]
        for task in tasks:
            task.result()


def different(folder: Path) -> tuple[int, int]:
    """How many tensors were loaded, and how many of them differ from diffusers'."""
    import torch
    from diffusers import StableDiffusionPipeline
    from safetensors.torch import load_file

    from sfumato.families.checkpoint import open_checkpoint
    from sfumato.weights.load import load_into
    from sfumato.weights.save import save_module
    from sfumato.weights.source import open_source

    pipeline = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.bfloat16)
    theirs = {"denoiser": pipeline.unet, "vae": pipeline.vae, "text": pipeline.text_encoder}
    count = wrong = 0
    for place, part in open_checkpoint(open_source(folder)).parts.items():
        net = load_into(part.make, part.source, part.table, part.layout, dtype=torch.bfloat16)
        with tempfile.TemporaryDirectory() as temporary:
            ours = load_file(save_module(Path(temporary) / "ours.safetensors", net, part.table, "diffusers"))
            # transformers 5 leaves the first word of a text encoder's names out
            theirs_of = {key.removeprefix("text_model."): v for key, v in theirs[place].state_dict().items()}
            ours_of = {key.removeprefix("text_model."): value for key, value in ours.items()}
            for key in ours_of.keys() | theirs_of.keys():
                if key.endswith("position_ids"):
                    continue
                count += 1
                mine, other = ours_of.get(key), theirs_of.get(key)
                wrong += mine is None or other is None or not torch.equal(mine, other)
    return count, wrong


def stop(*_: Any) -> None:
    """End the run at the first call."""
    raise Reached


def one(who: str, folder: str) -> dict[str, float]:
    """Load and go to the first call, in this process."""
    import torch

    before = peak()
    began = time.perf_counter()
    if who == "floor":
        imported, spent = time.perf_counter(), cpu()
        floor(Path(folder))
        loaded = ended = time.perf_counter()
    elif who == "sfumato":
        import sfumato
        from sfumato import api  # noqa: F401
        from sfumato.families import published  # noqa: F401

        imported, spent = time.perf_counter(), cpu()
        model = sfumato.load(folder, dtype="bfloat16")
        loaded = time.perf_counter()
        network: Any = model.model.denoiser.network
        network.register_forward_pre_hook(stop)
        try:
            model(PROMPT, steps=1, seed=0)
        except Reached:
            ended = time.perf_counter()
    else:
        import diffusers
        from diffusers import StableDiffusionPipeline

        imported, spent = time.perf_counter(), cpu()
        diffusers.utils.logging.disable_progress_bar()
        pipeline = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.bfloat16)
        loaded = time.perf_counter()
        pipeline.unet.register_forward_pre_hook(stop)
        try:
            pipeline(PROMPT, num_inference_steps=1)
        except Reached:
            ended = time.perf_counter()
    return {
        "imports": imported - began,
        "load": loaded - imported,
        "first call": ended - imported,
        "all": ended - began,
        "cpu": cpu() - spent,
        "peak MB": peak() - before,
    }


def cpu() -> float:
    """Seconds of processors that this process has used; unlike the clock they say little of who else computes."""
    return sum(os.times()[:2])


def peak() -> float:
    """The most memory that this process has held, in MB (getrusage would tell its parent's, if that held more)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024 / 1e6


def spread(runs: list[dict[str, float]], key: str) -> str:
    """The least and greatest of ``key``."""
    values = [run[key] for run in runs]
    return f"[{min(values):,.2f}..{max(values):,.2f}]"


def main() -> None:
    """Run all, print the medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where the pipeline is, or is to be written")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one(options.one, str(options.folder))))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary) / "sd15"
        if not (folder / "model_index.json").is_file():
            write(folder)
        weights = sum(path.stat().st_size for path in folder.rglob("*.safetensors")) / 1e6
        for path in folder.rglob("*.safetensors"):
            path.read_bytes()  # into the page cache
        told: dict[str, list[dict[str, float]]] = {"sfumato": [], "diffusers": [], "floor": []}
        for _ in range(options.runs):
            for who, runs in told.items():
                command = [sys.executable, "-m", "benchmarks.load_checkpoint", "--one", who]
                done = subprocess.run(
                    [*command, "--folder", str(folder)], capture_output=True, text=True, check=True
                )
                runs.append(json.loads(done.stdout.splitlines()[-1]))
                print(who, {key: round(value, 2) for key, value in runs[-1].items()}, flush=True)
        count, wrong = different(folder)
    medians = {
        who: {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        for who, runs in told.items()
    }
    print(f"weights in bfloat16: {weights:,.0f} MB")
    for who, row in medians.items():
        print(
            f"{who:10}"
            + "  ".join(f"{key} {value:,.2f} {spread(told[who], key)}" for key, value in row.items())
        )
        print(f"{'':10}peak over weights {row['peak MB'] / weights:.3f}")
    for key in ("load", "first call", "cpu", "all"):
        ratios = [
            mine[key] / other[key] for mine, other in zip(told["sfumato"], told["diffusers"], strict=True)
        ]
        print(
            f"{key}: ours is {medians['sfumato'][key] / medians['diffusers'][key]:.2f} of theirs "
            f"[{min(ratios):.2f}..{max(ratios):.2f}]; the floor {medians['floor'][key] / medians['diffusers'][key]:.2f}"
        )
    print(f"{count:,} tensors, {wrong} of them different")


if __name__ == "__main__":
    main()
