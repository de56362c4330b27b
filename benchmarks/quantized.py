"""Memory and time of a transformer whose weights stay packed, beside bf16: ``python -m benchmarks.quantized``.

A network of FLUX.1's shape with 201 million parameters, drawn at random, is written as bf16, as 8-bit floats with a
scale for each matrix, and as GGUF in Q8_0, Q4_0 (by the package gguf) and Q4_K (by ``q4_k`` below, a plain rounding
without ggml's search, which is better). Each file is then loaded in a process of its own, which computes one forward
pass several times. Memory is of that process, over what it has after its imports: resident when the network is loaded
and after the passes, and the most it ever was. The difference is the root mean square of ``output - output of bf16``,
over that of the latter.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from sfumato.families.keys.joint import flux_table
from sfumato.nn.flux import Flux, FluxConfig
from sfumato.nn.quantized import quantized
from sfumato.weights.load import load_into
from sfumato.weights.source import open_source

CONFIG = FluxConfig(double=2, single=8, width=1024, heads=16, tokens=1024, axes=(16, 24, 24))
LINES = {
    "bf16": ("bf16.safetensors", False),
    "fp8 with scales, packed": ("fp8.safetensors", True),
    "Q8_0, unpacked to bf16": ("Q8_0.gguf", False),
    "Q8_0, packed": ("Q8_0.gguf", True),
    "Q4_K, packed": ("Q4_K.gguf", True),
    "Q4_0, packed": ("Q4_0.gguf", True),
}


def q4_k(values: np.ndarray) -> np.ndarray:
    """Rows of ``values`` (n, 256 k) as blocks of Q4_K, every part rounded between its least and greatest value."""
    parts = values.reshape(-1, 8, 32)
    least, most = np.minimum(parts.min(2), 0), np.maximum(parts.max(2), 0)
    steps = (most - least) / 15
    d, low = (
        np.maximum(each.max(1, keepdims=True) / 63, 1e-12).astype(np.float16) for each in (steps, -least)
    )
    s, m = (
        np.round(a / b.astype(np.float32)).clip(0, 63).astype(np.uint8)
        for a, b in ((steps, d), (-least, low))
    )
    scale, minimum = d.astype(np.float32) * s, low.astype(np.float32) * m
    q = (
        np.round((parts + minimum[..., None]) / np.maximum(scale, 1e-30)[..., None])
        .clip(0, 15)
        .astype(np.uint8)
    )
    sixes = (
        s[:, :4] | (s[:, 4:] >> 4) << 6,
        m[:, :4] | (m[:, 4:] >> 4) << 6,
        (s[:, 4:] & 15) | (m[:, 4:] & 15) << 4,
    )
    nibbles = q[:, 0::2] | q[:, 1::2] << 4
    blocks = (d.view(np.uint8), low.view(np.uint8), *sixes, nibbles.reshape(len(q), 128))
    return np.concatenate(blocks, axis=1).reshape(len(values), -1)


def write(folder: Path) -> None:
    """The files, of one network."""
    import gguf
    from safetensors.torch import load_file, save_file

    from sfumato.weights.save import save_module

    torch.manual_seed(0)
    net = Flux(CONFIG)
    for parameter in net.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
    table = flux_table(CONFIG)
    state = load_file(save_module(folder / "bf16.safetensors", net, table, "original", dtype=torch.bfloat16))
    eight: dict[str, torch.Tensor] = {}
    for name, tensor in state.items():
        eight[name] = tensor
        if tensor.ndim == 2:
            scale = tensor.float().abs().max() / 448
            eight[name] = (tensor.float() / scale).to(torch.float8_e4m3fn)
            eight[name.removesuffix("weight") + "scale_weight"] = scale
    save_file(eight, folder / "fp8.safetensors")
    for kind in ("Q8_0", "Q4_0", "Q4_K"):
        writer = gguf.GGUFWriter(folder / f"{kind}.gguf", "flux")
        number = gguf.GGMLQuantizationType[kind]
        for name, tensor in state.items():
            values = tensor.float().numpy()
            if tensor.ndim == 2 and tensor.shape[1] % 256 == 0:
                packed = q4_k(values) if kind == "Q4_K" else gguf.quants.quantize(values, number)
                writer.add_tensor(name, packed, raw_dtype=number)
            else:
                writer.add_tensor(name, values)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def memory() -> tuple[int, int]:
    """Resident bytes of this process, now and at most."""
    lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    told = {line.split(":")[0]: line.split() for line in lines}
    return int(told["VmRSS"][1]) * 1024, int(told["VmHWM"][1]) * 1024


def inputs() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    drawn = {"x": (1, 16, 32, 32), "tokens": (1, 64, 1024), "vector": (1, 768)}
    made = {name: torch.randn(shape, generator=generator).bfloat16() for name, shape in drawn.items()}
    return {**made, "clock": torch.tensor([0.7]), "guidance": torch.tensor([3.5])}


def measure(path: Path, packed: bool, threads: int, rounds: int, out: Path) -> dict[str, float]:
    """One line, in this process."""
    torch.set_num_threads(threads)
    source, told = open_source(path), inputs()
    base = memory()[0]
    began = time.perf_counter()
    how = quantized if packed else None
    net = load_into(
        lambda: Flux(CONFIG), source, flux_table(CONFIG), "original", dtype=torch.bfloat16, packed=how
    )
    loading, loaded = time.perf_counter() - began, memory()[0] - base
    walls, spent = [], []
    with torch.inference_mode():
        for _ in range(rounds + 1):
            began, cpu = time.perf_counter(), time.process_time()
            result = net(**told)
            walls.append(time.perf_counter() - began)
            spent.append(time.process_time() - cpu)
    after, most = memory()
    torch.save(result.float(), out)
    held = sum(tensor.nbytes for tensor in (*net.parameters(), *net.buffers()))
    return {
        "file": path.stat().st_size,
        "weights": held,
        "loaded": loaded,
        "after": after - base,
        "most": most - base,
        "loading": loading,
        "wall": sorted(walls[1:])[rounds // 2],
        "cpu": sorted(spent[1:])[rounds // 2],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--folder", type=Path, help="keep the files here, and use those that are there")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="only write the files")
    parser.add_argument("--line", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    folder: Path = asked.folder or Path(tempfile.mkdtemp(prefix="quantized"))
    folder.mkdir(exist_ok=True)
    if asked.line:
        file, packed = LINES[asked.line]
        print(
            json.dumps(
                measure(folder / file, packed, asked.threads, asked.rounds, folder / f"{asked.line}.pt")
            )
        )
        return
    if not (folder / "Q4_K.gguf").exists():
        write(folder)
    if asked.write:
        return
    base = None
    print(
        "| | file MB | weights MB | loaded MB | after a pass | most | loading s | pass s | CPU s | difference |"
    )
    for line in LINES:
        command = [sys.executable, "-m", "benchmarks.quantized", "--folder", str(folder), "--line", line]
        command += ["--threads", str(asked.threads), "--rounds", str(asked.rounds)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        got = json.loads(done.stdout)
        out = torch.load(folder / f"{line}.pt")
        base = out if base is None else base
        difference = float((out - base).square().mean().sqrt() / base.square().mean().sqrt())
        sizes = " | ".join(f"{got[k] / 1e6:.0f}" for k in ("file", "weights", "loaded", "after", "most"))
        times = " | ".join(f"{got[k]:.2f}" for k in ("loading", "wall", "cpu"))
        print(f"| {line} | {sizes} | {times} | {difference:.2e} |", flush=True)


if __name__ == "__main__":
    main()
