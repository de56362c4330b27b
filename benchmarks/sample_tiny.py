"""One picture of a 6.4M-parameter pixel U-Net by 20 DDIM steps: sfumato beside diffusers' DDIMPipeline.

``python -m benchmarks.sample_tiny``; the weights, the starting noise and the 20 levels are the same.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel
from torch import Tensor

from benchmarks.diffusers_names import redraw, unet_from
from benchmarks.timing import alternate, relative, report
from sfumato.codec import Identity
from sfumato.condition import Cond
from sfumato.denoiser import Denoiser
from sfumato.engine.run import run
from sfumato.model import Defaults, Model
from sfumato.nn.pack import pack
from sfumato.process.grid import make_grid
from sfumato.process.prediction import prediction
from sfumato.process.schedule import linear
from sfumato.samplers import sampler

SHAPE = (3, 32, 32)


def tiny() -> UNet2DModel:
    """The network of both."""
    net = UNet2DModel(
        sample_size=32,
        in_channels=3,
        out_channels=3,
        layers_per_block=2,
        block_out_channels=(48, 96, 160),
        norm_num_groups=16,
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    )
    redraw(net)
    return net.eval().requires_grad_(False)


def diffusers_sampler(net: UNet2DModel, steps: int) -> Callable[[], Tensor]:
    """DDIMPipeline as it is; only clipping is off, since random weights leave the range of pixels."""
    pipeline = DDIMPipeline(net, DDIMScheduler(clip_sample=False, steps_offset=1))
    pipeline.set_progress_bar_config(disable=True)

    def sample() -> Tensor:
        generator = torch.Generator().manual_seed(0)
        pixels = pipeline(generator=generator, num_inference_steps=steps, output_type="np").images
        return torch.from_numpy(pixels).permute(0, 3, 1, 2)

    return sample


def diffusers_loop(net: UNet2DModel, steps: int) -> Callable[[], Tensor]:
    """What a user would write to sample in the network's dtype: DDIMPipeline cannot return bf16 pictures."""
    scheduler = DDIMScheduler(clip_sample=False, steps_offset=1)
    scheduler.set_timesteps(steps)

    @torch.inference_mode()
    def sample() -> Tensor:
        x = torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(0))
        for t in scheduler.timesteps:
            out = net(x.to(net.dtype), t).sample
            x = scheduler.step(out.to(x.dtype), t, x).prev_sample
        return (x / 2 + 0.5).clamp(0, 1)

    return sample


def our_sampler(net: torch.nn.Module, steps: int) -> Callable[[], Tensor]:
    """The engine and the DDIM sampler of sfumato around ``net``."""
    denoiser = Denoiser(net, linear(), prediction("eps"))
    model = Model(
        name="tiny",
        identity="0" * 64,
        denoiser=denoiser,
        codec=Identity(SHAPE),
        conditioner=lambda prompts: Cond(),
        defaults=Defaults(steps=steps, sampler="ddim", grid="leading", guidance=1.0, width=32, height=32),
    )
    grid, walk = make_grid("leading", steps=steps, schedule=denoiser.schedule), sampler("ddim").walk

    async def denoise(x: Tensor, at: Any) -> Any:
        (estimate,) = await model.denoise(x, at, Cond())
        return estimate

    async def task() -> Tensor:
        x = torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(0))
        x = await walk(x, grid, denoise, lambda at, to: torch.zeros(()))
        return (x / 2 + 0.5).clamp(0, 1)

    return lambda: run(task())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    theirs = tiny()
    ours = unet_from(theirs).requires_grad_(False).to(memory_format=torch.channels_last)
    low = copy.deepcopy(ours).to(torch.bfloat16)
    steps = options.steps
    contenders = {
        "diffusers DDIMPipeline float32": diffusers_sampler(theirs, steps),
        "diffusers loop bf16": diffusers_loop(copy.deepcopy(theirs).to(torch.bfloat16), steps),
        "sfumato float32": our_sampler(ours, steps),
        "sfumato float32 packed": our_sampler(pack(ours), steps),
        "sfumato bf16": our_sampler(low, steps),
        "sfumato bf16 packed": our_sampler(pack(low), steps),
    }
    base = "diffusers DDIMPipeline float32"
    want = contenders[base]()
    facts: dict[str, object] = {
        f"difference of {n}": f"{relative(f(), want):.1e}" for n, f in contenders.items()
    }
    lines = alternate(contenders, base, options.rounds)
    report(f"One 32x32 picture, {steps} DDIM steps, batch 1, 6.4M parameters", lines, facts, options.json)


if __name__ == "__main__":
    main()
