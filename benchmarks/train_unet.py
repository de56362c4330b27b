"""Training steps on 32x32 pictures with the DDPM-CIFAR-10 U-Net: sfumato beside diffusers' example.

``python -m benchmarks.train_unet``. The diffusers side is the step of its example train_unconditional.py (AdamW
with its betas, mse on eps, add_noise, clipping to 1): float32 as it is shipped, and under bf16 autocast. Ours is
sfumato.train.loop.Run, which also keeps a moving average; the example does so only on demand (``--ema``).
``--lucidrains`` adds denoising-diffusion-pytorch, another network: compare by GFLOP/s.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, UNet2DModel
from diffusers.training_utils import EMAModel
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.diffusers_names import redraw, unet_from
from benchmarks.lucidrains import trainer
from benchmarks.timing import alternate, relative, report
from sfumato.condition import Cond
from sfumato.denoiser import Denoiser
from sfumato.nn.kernels.memory import keep_memory
from sfumato.process.level import Level
from sfumato.process.prediction import prediction
from sfumato.process.schedule import linear
from sfumato.train.loop import Hyper, Loss, Run

BETAS = (0.95, 0.999)


def cifar() -> UNet2DModel:
    """google/ddpm-cifar10-32's network, 35.7M parameters, drawn anew."""
    net = UNet2DModel(
        sample_size=32,
        in_channels=3,
        out_channels=3,
        layers_per_block=2,
        block_out_channels=(128, 256, 256, 256),
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=None,
        flip_sin_to_cos=False,
        freq_shift=1,
        downsample_padding=0,
        norm_eps=1e-6,
    )
    redraw(net)
    return net


def diffusers_step(pictures: Tensor, *, bf16: bool, ema: bool) -> Callable[[], float]:
    """A training step as in the example."""
    net = cifar().train()
    scheduler = DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear")
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-4, betas=BETAS, weight_decay=1e-6, eps=1e-8)
    average = EMAModel(net.parameters(), decay=0.9999, use_ema_warmup=True) if ema else None

    def step() -> float:
        noise = torch.randn(pictures.shape)
        t = torch.randint(0, 1000, (len(pictures),))
        noisy = scheduler.add_noise(pictures, noise, t)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            out = net(noisy, t).sample
        loss = F.mse_loss(out.float(), noise)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        if average is not None:
            average.step(net.parameters())
        return float(loss.detach())

    return step


class OnPictures:
    """The eps objective on fixed pictures at uniform indices, as the example's."""

    def __init__(self, denoiser: Denoiser, pictures: Tensor) -> None:
        self.module, self.denoiser, self.pictures = denoiser, denoiser, pictures
        rows = [denoiser.schedule.level(float(i)) for i in range(1000)]
        self.table = Level(*(torch.tensor(column) for column in zip(*rows, strict=True)))

    def loss(self, step: int, size: int, generator: torch.Generator) -> Loss:
        """Mean squared error of eps on all pictures."""
        index = torch.randint(0, 1000, (size,), generator=generator)
        eps = torch.randn(self.pictures.shape, generator=generator)
        at = Level(*(column[index] for column in self.table))
        return Loss(value=self.denoiser.loss(self.pictures, eps, at, Cond()).mean(), figures={})


def our_step(pictures: Tensor, dtype: torch.dtype) -> Callable[[], object]:
    """A step of sfumato's training loop on the same network."""
    net = unet_from(cifar()).to(memory_format=torch.channels_last)
    denoiser = Denoiser(net, linear(), prediction("eps"))
    hyper = Hyper(steps=10**6, batch=len(pictures), rate=1e-4, betas=BETAS, weight_decay=1e-6)
    run = Run(OnPictures(denoiser, pictures), hyper, dtype, {})
    denoiser.train()
    return run.advance


def lucidrains_step(pictures: Tensor, *, bf16: bool) -> Callable[[], float] | None:
    """A step of denoising-diffusion-pytorch's Trainer: Adam with its betas, clipping to 1."""
    made = trainer()
    if made is None:
        return None
    net, loss_of = made
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-4, betas=(0.9, 0.99))

    def step() -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = loss_of(pictures / 2 + 0.5)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        return float(loss.detach())

    return step


@torch.inference_mode()
def differences() -> dict[str, object]:
    """How far the two networks' outputs are apart, with equal weights."""
    theirs = cifar().eval()
    ours = unet_from(theirs).to(memory_format=torch.channels_last)
    x, t = torch.randn(2, 3, 32, 32), torch.tensor([10, 900])
    inner = x.contiguous(memory_format=torch.channels_last)
    want, found = theirs(x, t).sample, ours(inner, t)
    low = ours.to(torch.bfloat16)(inner.to(torch.bfloat16), t)
    with torch.autocast("cpu", torch.bfloat16):
        cast = theirs(x, t).sample
    return {
        "output difference, sfumato float32": f"{relative(found, want):.1e}",
        "output difference, sfumato bf16": f"{relative(low, want):.1e}",
        "output difference, diffusers bf16 autocast": f"{relative(cast, want):.1e}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--ema", action="store_true", help="the moving average of diffusers' example too")
    parser.add_argument("--lucidrains", action="store_true")
    parser.add_argument("--malloc", action="store_true", help="sfumato's keep_memory, for all contenders")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    facts = differences()
    facts |= {"batch": options.batch, "keep_memory": options.malloc and keep_memory()}

    torch.manual_seed(0)
    pictures = torch.rand(options.batch, 3, 32, 32) * 2 - 1
    ema = options.ema
    contenders: dict[str, Callable[[], object]] = {
        "diffusers float32 (as shipped)": diffusers_step(pictures, bf16=False, ema=ema),
        "diffusers bf16 autocast": diffusers_step(pictures, bf16=True, ema=ema),
        "sfumato float32": our_step(pictures, torch.float32),
        "sfumato bf16": our_step(pictures, torch.bfloat16),
    }
    if options.lucidrains:
        for name, bf16 in (("lucidrains float32 (as shipped)", False), ("lucidrains bf16 autocast", True)):
            step = lucidrains_step(pictures, bf16=bf16)
            if step is not None:
                contenders[name] = step
    work = {}
    for name, step in contenders.items():
        with FlopCounterMode(display=False) as counter:
            step()
        work[name] = counter.get_total_flops()
    for base in ("diffusers float32 (as shipped)",):
        lines = alternate(contenders, base, options.rounds, warm=0)
        for line in lines:
            rate = work[line.name] / 1e9
            facts[f"{line.name}: GFLOP a step, GFLOP/s of CPU time"] = f"{rate:.0f}, {rate / line.cpu:.0f}"
        report("Training step, DDPM-CIFAR-10 U-Net", lines, facts, options.json)


if __name__ == "__main__":
    main()
