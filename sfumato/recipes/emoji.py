"""The recipe of the built-in model's denoiser: stored examples, then rectified flow on latents."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sfumato.codec import Latent
from sfumato.data.compose import BACKGROUNDS, colour
from sfumato.data.pictures import PictureSet
from sfumato.data.record import Record
from sfumato.device import compute_dtype
from sfumato.engine.run import run
from sfumato.families import emoji as family
from sfumato.families.table import ASSETS, write_manifest
from sfumato.model import Model
from sfumato.nn.autoencoder import Autoencoder
from sfumato.recipes.recipe import Pictures, Say, TrainRecipe, rgba_tensor
from sfumato.tasks.text2image import Text2Image
from sfumato.text.encoder import TextEncoder
from sfumato.train.augment import compose, jitter
from sfumato.train.denoise import DenoiseObjective, Times, validation
from sfumato.train.loop import Hyper
from sfumato.train.pool import Pool, embed, load_pool
from sfumato.weights.packed import load_packed, save_packed

SIDE = 128
VARIANTS = 6
# Flags are many and alike and teach little about other things; their pictures are drawn less often.
FLAG_WEIGHT = 0.3
# What a picture shows is settled at high noise, where half the rows would otherwise learn little of the text.
TIMES = Times(mean=0.5)
# None of these is among the prompts of the blind naming (docs/judge), so watching them costs it nothing.
SHOWN = ("a house, 3d style", "cat face, pastel style", "bread, flat style", "snow-capped mountain, 3d style")


def denoiser_recipe() -> TrainRecipe:
    """Train the denoiser of the built-in model on top of its codec and text encoder."""
    return TrainRecipe(
        name="emoji",
        summary="the built-in model's denoiser: text to 16 x 16 x 8 latents by rectified flow",
        hyper=Hyper(steps=9000, batch=64, rate=1e-3, warmup=300, average=0.9993, weight_decay=0.02),
        prepare=PreparedDenoiser,
    )


class PreparedDenoiser:
    """The denoiser's recipe on some pictures."""

    def __init__(self, pictures: PictureSet, folder: Path, seed: int, fresh: bool, say: Say) -> None:
        """Make or read the stored examples, and begin from the weights in the tree if there are any."""
        self.text = TextEncoder.load(ASSETS)
        self.codec, codec_hash = _codec()
        data = pictures.sha256()
        key = hashlib.sha256(f"{data} {codec_hash} {seed} {VARIANTS}".encode()).hexdigest()[:12]
        self.pool = self._pool(pictures, folder / f"pool-{key}.safetensors", "train", VARIANTS, seed, say)
        self.held = self._pool(pictures, folder / f"held-{key}.safetensors", "val", 1, seed + 1, say)
        torch.manual_seed(seed)
        self.denoiser = family.denoiser()
        before: dict[str, object] = {}
        if not fresh and all((ASSETS / f).exists() for f in family.DENOISER_FILES):
            tensors: dict[str, Tensor] = {}
            for name in family.DENOISER_FILES:
                part, before = load_packed(ASSETS / name)
                tensors |= part
            family.assign(self.denoiser, tensors, family.DENOISER_FILES[0])
            say(f"going on from the weights in the tree ({before.get('seen', 0)} pictures seen)")
        self.objective = DenoiseObjective(self.denoiser, self.pool, TIMES)
        self.facts: dict[str, object] = {
            "data": data,
            "codec": codec_hash,
            "examples": len(self.pool),
            "seen_before": before.get("seen", 0),
        }

    def _pool(self, pictures: PictureSet, path: Path, split: str, variants: int, seed: int, say: Say) -> Pool:
        if path.exists():
            return load_pool(path)
        rows = [i for i, r in enumerate(pictures.records) if r.split == split]
        rows = rows or list(range(min(64, len(pictures))))
        say(f"encoding {variants} variants of {len(rows)} pictures and their captions ({split})")
        pool = make_pool(pictures, rows, variants, seed, self.codec, self.text)
        path.parent.mkdir(parents=True, exist_ok=True)
        pool.save(path)
        return pool

    @torch.no_grad()
    def score(self) -> Tensor:
        """Losses in ten bins of t on held-out pictures, always with the same levels and noise, (10,)."""
        return validation(self.denoiser, self.held)

    def sheet(self) -> tuple[Pictures, list[str]]:
        """Four prompts with two seeds each."""
        was = self.denoiser.training
        self.denoiser.eval()
        model = Model(
            name="emoji",
            identity="0" * 64,
            denoiser=self.denoiser,
            codec=self.codec,
            conditioner=family.conditioner(self.text),
            defaults=family.DEFAULTS,
        )
        shown, captions = [], []
        for prompt in SHOWN:
            result = run(Text2Image(prompt=prompt, count=2)(model))
            shown += list(result.pixels)
            captions += [prompt] * 2
        self.denoiser.train(was)
        return shown, captions

    def export(self, tensors: dict[str, Tensor], folder: Path, facts: dict[str, object]) -> list[Path]:
        """Write the denoiser in two files of about the same size."""
        return write_denoiser(tensors, folder, facts)


def write_denoiser(tensors: dict[str, Tensor], folder: Path, facts: dict[str, object]) -> list[Path]:
    """Write ``tensors`` in two files of about the same size, and the folder's manifest."""
    names, total = sorted(tensors), sum(t.numel() for t in tensors.values())
    halves: tuple[dict[str, Tensor], dict[str, Tensor]] = ({}, {})
    filled = 0
    for name in names:
        halves[int(filled >= total / 2)][name] = tensors[name]
        filled += tensors[name].numel()
    paths = []
    for name, half in zip(family.DENOISER_FILES, halves, strict=True):
        save_packed(folder / name, half, facts)
        paths.append(folder / name)
    return [*paths, write_manifest(folder)]


def _codec() -> tuple[Latent, str]:
    """The codec in the tree, computing in what this machine computes fastest, and its file's hash."""
    path = ASSETS / family.CODEC_FILE
    tensors, facts = load_packed(path)
    module = Autoencoder(family.CODEC)
    module.load_state_dict(tensors)
    module.eval().requires_grad_(False)
    module.to(dtype=compute_dtype(), memory_format=torch.channels_last)  # type: ignore[call-overload]
    mean, std = (torch.tensor(facts[key]) for key in ("mean", "std"))
    return Latent(module, mean, std), hashlib.sha256(path.read_bytes()).hexdigest()


def draw_caption(record: Record, rng: np.random.Generator) -> tuple[str, str | None]:
    """A caption of ``record`` and the name of the background it tells (None: white, untold).

    Most captions name the style, since prompts do; backgrounds are told in under half of them.
    """
    chances = np.array([0.12, 0.5, 0.14, 0.14, 0.1])[: len(record.captions)]
    which = int(rng.choice(len(chances), p=chances / chances.sum()))
    text, u = record.captions[which], rng.random()
    if rng.random() < 0.1:
        text = f"{'an' if text[:1] in 'aeiou' else 'a'} {text}"
    if u < 0.55:
        return text, None
    names = list(BACKGROUNDS)
    name = "white" if u < 0.62 else names[1 + int(rng.integers(len(names) - 1))]
    return f"{text}, {name} background", name


@torch.no_grad()
def make_pool(
    pictures: PictureSet, rows: list[int], variants: int, seed: int, codec: Latent, text: TextEncoder
) -> Pool:
    """Encode ``variants`` of each picture: a fresh shift, mirror, background and caption for each."""
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    rgba = rgba_tensor(pictures, rows, SIDE)
    records = [pictures.records[i] for i in rows]
    flip = torch.tensor([r.flippable for r in records])
    latents, captions = [], []
    for _ in range(variants):
        drawn = [draw_caption(r, rng) for r in records]
        captions += [caption for caption, _ in drawn]
        ground = torch.tensor([colour(name) for _, name in drawn], dtype=torch.uint8)
        theta = jitter(len(rows), generator, flip=flip)
        for begin in range(0, len(rows), 64):
            part = slice(begin, begin + 64)
            latents.append(codec.encode(compose(rgba[part], ground[part], theta[part])).to(torch.float16))

    condition = family.conditioner(text)
    states, start, pooled = embed(captions, condition)
    empty_states, _, empty_pooled = embed([""], condition)
    weight = torch.tensor([r.weight * (FLAG_WEIGHT if r.group == "flags" else 1.0) for r in records])
    return Pool(
        latent=torch.cat(latents),
        states=states,
        start=start,
        pooled=pooled,
        weight=weight.repeat(variants),
        empty_states=empty_states,
        empty_pooled=empty_pooled[0],
    )
