"""From a folder to the first call of the denoiser: ours beside diffusers, each in processes of its own, in turn.

    python -m benchmarks.load_checkpoint [--runs 3] [--folder FOLDER]

A pipeline of Stable Diffusion 1.5's full size with drawn weights in float16 is written once (2.1 GB) and is in the
page cache afterwards. Each run opens it in bfloat16, embeds a prompt and stops when the U-Net is called for the first
time. Told are seconds: the imports, from there to the loaded pipeline and to the first call, what processors worked
from the imports to the first call ("cpu"), and all; and the peak of memory above what `import torch` takes.
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


def stop(*_: Any) -> None:
    """End the run at the first call."""
    raise Reached


def one(who: str, folder: str) -> dict[str, float]:
    """Load and go to the first call, in this process."""
    import torch

    before = peak()
    began = time.perf_counter()
    if who == "sfumato":
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


def main() -> None:
    """Run all, print the medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
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
        told: dict[str, list[dict[str, float]]] = {"sfumato": [], "diffusers": []}
        for _ in range(options.runs):
            for who, runs in told.items():
                command = [sys.executable, "-m", "benchmarks.load_checkpoint", "--one", who]
                done = subprocess.run(
                    [*command, "--folder", str(folder)], capture_output=True, text=True, check=True
                )
                runs.append(json.loads(done.stdout.splitlines()[-1]))
                print(who, {key: round(value, 2) for key, value in runs[-1].items()}, flush=True)
    medians = {
        who: {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        for who, runs in told.items()
    }
    print(f"weights in bfloat16: {weights:,.0f} MB")
    for who, row in medians.items():
        print(f"{who:10}" + "  ".join(f"{key} {value:,.2f}" for key, value in row.items()))
        print(f"{'':10}peak over weights {row['peak MB'] / weights:.3f}")
    for key in ("load", "first call", "cpu", "all"):
        print(f"{key}: ours is {medians['sfumato'][key] / medians['diffusers'][key]:.2f} of theirs")


if __name__ == "__main__":
    main()
