"""Switching adapters: 1,000 times, time and memory, beside diffusers with PEFT in the same run.

    python -m benchmarks.adapters [--times 1000]

A U-Net of Stable Diffusion 1's form with narrow levels (64, 128, 256, 256) and rank 16 on all its attention. Times are
medians of a switch from one adapter to another; memory is the process' resident size after 100 switches and at the end.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from sfumato.adapters import Network, apply, trained
from sfumato.adapters.formula import Lora
from sfumato.families.keys.unet import table
from sfumato.nn.unet import UNet, UNetConfig
from sfumato.weights.links import links

WIDTHS, RANK = (64, 128, 256, 256), 16


def resident() -> float:
    """MiB of memory that the process holds."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def timed(switch: Callable[[int], object], times: int) -> tuple[float, float, float]:
    """Median milliseconds of a switch, resident MiB after a tenth of them, and at the end."""
    took, early = [], 0.0
    for number in range(times):
        start = time.perf_counter()
        switch(number)
        took.append(time.perf_counter() - start)
        if number == times // 10:
            early = resident()
    return 1000 * statistics.median(took), early, resident()


def show(name: str, found: tuple[float, float, float]) -> None:
    median, early, late = found
    print(f"{name:<34} {median:9.2f} ms   {early:8.1f} MiB {late:8.1f} MiB")


def theirs() -> nn.Module:
    import diffusers

    made: nn.Module = diffusers.UNet2DConditionModel(
        block_out_channels=WIDTHS, cross_attention_dim=768, attention_head_dim=8
    )
    return made.eval().requires_grad_(False)


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--times", type=int, default=1000)
    times = options.parse_args().times
    torch.set_num_threads(1)
    text: tuple[str, ...] = ("text", "text", "text", "none")
    config = UNetConfig(
        inner=4,
        outer=4,
        widths=WIDTHS,
        attention=text,
        middle="text",
        tokens=768,
        heads=8,  # type: ignore[arg-type]
    )
    net = UNet(config).eval().requires_grad_(False)
    names = table(config, linear=False)
    parts = {"denoiser": Network(net, names)}
    wanted = [n for n, m in net.named_modules() if isinstance(m, nn.Linear) and "attention" in n]
    spelled = {
        link.ours[0].removesuffix(".weight"): link.theirs[0].removesuffix(".weight")
        for link in links(names, "diffusers", [f"{n}.weight" for n in wanted])
    }

    def factors(seed: int) -> dict[str, tuple[Tensor, Tensor]]:
        draws = torch.Generator().manual_seed(seed)
        shapes = {n: net.get_submodule(n).weight.shape for n in wanted}
        return {
            n: (torch.randn(RANK, s[1], generator=draws) * 0.01, torch.randn(s[0], RANK, generator=draws))
            for n, s in shapes.items()
        }

    drawn = [factors(seed) for seed in range(2)]
    adapters = [trained({"denoiser": {n: Lora(*pair) for n, pair in own.items()}}) for own in drawn]
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    print(f"{len(wanted)} layers, rank {RANK}; median of {times} switches, memory early and late")
    for merged in (False, True):
        applied = apply(parts, [(adapters[0], 1.0)], merged=merged)
        show(
            f"sfumato {'merged' if merged else 'live'}",
            timed(lambda n, a=applied: a.switch([(adapters[n % 2], 1.0)]), times),  # type: ignore[misc]
        )
        applied.remove()
        same = all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
        print(f"{'':<34} weights bit-equal after removal: {same}")
    peer = theirs()
    for number, own in enumerate(drawn):
        state = {}
        for name, (down, up) in own.items():
            state |= {f"{spelled[name]}.lora_A.weight": down, f"{spelled[name]}.lora_B.weight": up}
        peer.load_lora_adapter(state, prefix=None, adapter_name=f"a{number}")  # type: ignore[operator]
    at_first = {n: m.base_layer.weight.clone() for n, m in peer.named_modules() if hasattr(m, "base_layer")}
    show("diffusers set_adapters (live)", timed(lambda n: peer.set_adapters([f"a{n % 2}"]), times))  # type: ignore[operator]

    def fuse(number: int) -> None:
        peer.unfuse_lora()  # type: ignore[operator]
        peer.fuse_lora(adapter_names=[f"a{number % 2}"])  # type: ignore[operator]

    peer.fuse_lora(adapter_names=["a0"])  # type: ignore[operator]
    show("diffusers unfuse_lora + fuse_lora", timed(fuse, times))
    peer.unfuse_lora()  # type: ignore[operator]
    left = max(
        float((m.base_layer.weight - at_first[n]).abs().max())
        for n, m in peer.named_modules()
        if hasattr(m, "base_layer")
    )
    print(f"{'':<34} largest change of a weight after unfusing: {left:.1e}")


if __name__ == "__main__":
    main()
