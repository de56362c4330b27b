"""Law L6 at length: random mixes of requests, each held against itself alone.

``python -m tests.engine.mixes --times 1000`` on closed-form models, where every bit must be equal; with ``--network``
on small networks with random weights, where the distance is told.
"""

from __future__ import annotations

import argparse
import random
import time
from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sfumato.ask import gather
from sfumato.codec import Identity
from sfumato.condition import Cond
from sfumato.denoiser import Denoiser
from sfumato.engine.engine import Engine
from sfumato.engine.run import run
from sfumato.errors import SfumatoError
from sfumato.families.gaussian import mixture
from sfumato.guidance.classifier_free import classifier_free
from sfumato.model import Defaults, Model
from sfumato.nn.dit import DiT, DiTConfig
from sfumato.nn.unet import UNet, UNetConfig
from sfumato.noise import Stream
from sfumato.process.grid import make_grid
from sfumato.process.prediction import prediction
from sfumato.process.schedule import Flow, scaled_linear
from sfumato.samplers import SAMPLERS

WORDS = ("a cat", "a red heart on a yellow square", "", "rocket")
TOKENS, VECTOR, LONGEST = 12, 8, 7
Pair = tuple[Model, tuple[int, ...]]


@dataclass(frozen=True)
class Wish:
    """One request: everything in it is its own."""

    model: int
    sampler: str
    steps: int
    part: float
    guidance: float
    prompt: str
    negative: str
    seed: int
    count: int
    shape: tuple[int, ...]


def toys() -> list[Pair]:
    """Two closed-form models of different shapes, processes and predictions, in float64."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for shape, schedule, kind in (((3, 2, 2), Flow(), "flow"), ((5,), scaled_linear(), "v")):
        size = torch.Size(shape).numel()
        means = torch.randn(3, *shape, dtype=torch.float64, generator=generator)
        roots = torch.randn(3, size, size, dtype=torch.float64, generator=generator)
        covs, weights = 0.1 * roots @ roots.mT, torch.tensor([1.0, 2.0, 3.0])
        made.append((mixture(means, covs, weights, schedule=schedule, kind=kind, names=WORDS_OF_TOYS), shape))
    return made


WORDS_OF_TOYS = ("cat", "heart", "rocket")


def redrawn(net: nn.Module, seed: int = 0) -> nn.Module:
    """``net`` with random weights everywhere: layers that begin at zero would hide what is before them."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for part in net.parameters():
            fan = part[0].numel() if part.ndim > 1 else 16
            part.copy_(torch.randn(part.shape, generator=generator) / fan**0.5)
            part.add_(1.0 if part.ndim == 1 else 0.0)
    return net.eval().requires_grad_(False)


def words(prompts: tuple[str, ...]) -> Cond:
    """A text encoder of random tables: each word has its state, rows are padded to one length."""
    tokens = torch.zeros(len(prompts), LONGEST, TOKENS)
    mask = torch.zeros(len(prompts), LONGEST, dtype=torch.bool)
    vector = torch.zeros(len(prompts), VECTOR)
    for i, prompt in enumerate(prompts):
        for k, word in enumerate(["<start>", *prompt.split()][:LONGEST]):
            generator = torch.Generator().manual_seed(sum(map(ord, word)))
            tokens[i, k] = torch.randn(TOKENS, generator=generator)
            vector[i] += torch.randn(VECTOR, generator=generator)
            mask[i, k] = True
    return Cond(tokens=tokens, mask=mask, vector=vector)


def unet() -> nn.Module:
    """A small U-Net that reads text."""
    return redrawn(
        UNet(
            UNetConfig(
                inner=4,
                outer=4,
                widths=(16, 32),
                blocks=1,
                attention=("none", "text"),
                middle="text",
                tokens=TOKENS,
                vector=VECTOR,
                groups=8,
                head=16,
            )
        )
    )


def dit() -> nn.Module:
    """A small transformer that reads text."""
    config = DiTConfig(
        inner=4, outer=4, width=32, depth=2, heads=2, tokens=TOKENS, vector=VECTOR, features=32
    )
    return redrawn(DiT(config))


def bundle(net: nn.Module, schedule=None, kind: str = "flow", clock: str = "thousand") -> Model:
    """``net`` as a model on latents of any size, decoded by nothing."""
    return Model(
        name="random",
        identity="",
        denoiser=Denoiser(net, schedule or Flow(), prediction(kind), clock=clock),
        codec=Identity((4, 8, 8)),
        conditioner=words,
        defaults=Defaults(steps=4, sampler="ddim", grid="linspace", guidance=1.0, width=8, height=8),
    )


def networks() -> list[Pair]:
    """Both networks, each at two sizes; only rows of equal model and size may meet."""
    models = (bundle(unet()), bundle(dit(), scaled_linear(), "v", "t"))
    return [(model, (4, side, side)) for model in models for side in (8, 6)]


async def picture(model: Model, wish: Wish, dtype: torch.dtype) -> Tensor:
    """What a task does: embed, start on a part of a grid, walk under guidance, decode."""
    want, avoid = await model.embed([wish.prompt]), await model.embed([wish.negative])
    denoise = classifier_free(model.denoise, want, avoid, wish.guidance)
    whole = make_grid("linspace", steps=wish.steps, schedule=model.denoiser.schedule)
    grid = whole[-(max(1, round(wish.part * wish.steps)) + 1) :]
    sampler = SAMPLERS[wish.sampler]

    async def walked(seeds: range) -> Tensor:
        noise = Stream(seeds, wish.shape, dtype)
        start = await model.encode(torch.full((len(seeds), *wish.shape), 0.3, dtype=dtype))
        return await sampler.walk(grid[0].alpha * start + grid[0].sigma * noise.start(), grid, denoise, noise)

    seeds = range(wish.seed, wish.seed + wish.count)
    if sampler.by_row:
        x = torch.cat(await gather([walked(range(seed, seed + 1)) for seed in seeds]))
    else:
        x = await walked(seeds)
    return await model.decode(x)


def wishes(
    pairs: list[Pair], prompts: tuple[str, ...], count: int, seed: int, longest: int = 8
) -> list[Wish]:
    """``count`` random requests in which every sampler of the table comes up."""
    dice, names = random.Random(seed), list(SAMPLERS)
    made = []
    for i in range(count):
        model = dice.randrange(len(pairs))
        made.append(
            Wish(
                model=model,
                sampler=names[i % len(names)],
                steps=dice.randint(1, longest),
                part=dice.choice((1.0, 1.0, 0.6, 0.3)),
                guidance=dice.choice((1.0, 1.0, 2.5, 5.0)),
                prompt=dice.choice(prompts),
                negative=dice.choice(("", prompts[0])),
                seed=dice.randrange(1000),
                count=dice.randint(1, 3),
                shape=pairs[model][1],
            )
        )
    return made


def outcome(get) -> Tensor | str:
    """A result, or the sentence with which a combination is refused."""
    try:
        return get()
    except SfumatoError as error:
        return str(error)


def compare(
    pairs: list[Pair],
    prompts: tuple[str, ...],
    *,
    times: int,
    seed: int,
    dtype: torch.dtype,
    pool: int = 150,
    longest: int = 8,
) -> tuple[Counter[str], Counter[str], Counter[str]]:
    """By sampler: the worst distance, relative to the picture's scale, and how many requests were made and refused.

    Each of ``times`` mixes takes 2 to 6 of ``pool`` requests and an engine of other numbers. Refusals must be equal.
    """
    dice = random.Random(seed + 1)
    known = wishes(pairs, prompts, pool, seed, longest)

    def task(wish: Wish):
        return picture(pairs[wish.model][0], wish, dtype)

    alone = [outcome(lambda wish=wish: run(task(wish))) for wish in known]
    worst, made, refused = Counter[str](), Counter[str](), Counter[str]()
    for _ in range(times):
        chosen = [dice.randrange(pool) for _ in range(dice.randint(2, 6))]
        engine = Engine(max_rows=dice.choice((2, 3, 5, 8, 16, 32)), share=dice.choice((None, 1, 4)))
        requests = [engine.submit(task(known[i])) for i in chosen]
        engine.run_until_idle()
        for i, request in zip(chosen, requests, strict=True):
            found, before, name = outcome(request.result), alone[i], known[i].sampler
            made[name] += 1
            if isinstance(before, str) or isinstance(found, str):
                assert found == before, (known[i], found)
                refused[name] += 1
            elif not torch.equal(found, before):
                scale = float(before.abs().max())
                distance = float((found - before).abs().max()) / scale
                assert distance == distance, known[i]
                worst[name] = max(worst[name], distance)
    return worst, made, refused


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--network", action="store_true")
    chosen = parser.parse_args()
    pairs, prompts, dtype = (
        (networks(), WORDS, torch.float32)
        if chosen.network
        else (toys(), ("", *WORDS_OF_TOYS), torch.float64)
    )
    worst, made, refused = compare(pairs, prompts, times=chosen.times, seed=chosen.seed, dtype=dtype)
    print(
        f"{chosen.times} mixes, {made.total()} requests, {len(made)} samplers, {time.process_time():.0f} s of CPU"
    )
    print(
        "worst distances:",
        {name: f"{far:.1e}" for name, far in worst.most_common(4)} or "none, all bits equal",
    )
    print("refused alike:", dict(refused))


if __name__ == "__main__":
    main()
