"""The recipe of the built-in model's codec."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from sfumato.data.compose import BACKGROUNDS
from sfumato.data.pictures import PictureSet
from sfumato.device import compute_dtype
from sfumato.evaluate.features import load_lite0
from sfumato.families import emoji as family
from sfumato.families.table import ASSETS, write_manifest
from sfumato.nn.autoencoder import Autoencoder
from sfumato.recipes.recipe import Pictures, Say, TrainRecipe, rgba_tensor
from sfumato.tasks.text2image import to_bytes
from sfumato.train.augment import compose
from sfumato.train.codec import CodecObjective, CodecWeights, edge_error
from sfumato.train.loop import Hyper
from sfumato.train.perceptual import PerceptualDistance
from sfumato.weights.packed import load_packed, save_packed

SIDE = 128


def codec_recipe() -> TrainRecipe:
    """Train the autoencoder on the pictures of the train split over white and the named colours."""
    return TrainRecipe(
        name="emoji-codec",
        summary="the built-in model's autoencoder: 128 x 128 pictures to 16 x 16 x 8 latents",
        hyper=Hyper(steps=2600, batch=24, rate=1.5e-3, warmup=100, average=0.998),
        prepare=PreparedCodec,
    )


def colour_table() -> Tensor:
    """Backgrounds for the codec, (K, 3) uint8: white in a third of the rows, the other colours evenly."""
    others = [rgb for name, rgb in BACKGROUNDS.items() if name != "white"]
    white = BACKGROUNDS["white"]
    return torch.tensor([white] * 6 + others, dtype=torch.uint8)


class PreparedCodec:
    """The codec's recipe on some pictures."""

    def __init__(self, pictures: PictureSet, folder: Path, seed: int, fresh: bool, say: Say) -> None:
        """Read the pictures of the train and val splits."""
        rows = [i for i, r in enumerate(pictures.records) if r.split == "train"]
        held = [i for i, r in enumerate(pictures.records) if r.split == "val"]
        say(f"reading {len(rows)} pictures")
        rgba = rgba_tensor(pictures, rows, SIDE)
        held_rgba = rgba_tensor(pictures, held or rows[:64], SIDE)
        colours = colour_table()
        self.held = compose(held_rgba, colours[torch.arange(len(held_rgba)) % len(colours)])
        torch.manual_seed(seed)
        self.module = Autoencoder(family.CODEC)
        if not fresh and (ASSETS / family.CODEC_FILE).exists():
            tensors, _ = load_packed(ASSETS / family.CODEC_FILE)
            family.assign(self.module, tensors, family.CODEC_FILE)
            say("going on from the weights in the tree")
        dtype = compute_dtype()
        lite0 = load_lite0().to(dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.objective = CodecObjective(
            self.module, rgba, colours, CodecWeights(), PerceptualDistance(lite0, dtype)
        )
        self.facts: dict[str, object] = {"data": pictures.sha256(), "pictures": len(rows)}

    @torch.no_grad()
    def score(self) -> Tensor:
        """Absolute and edge error on held-out pictures, (2,)."""
        out = self._rebuild(self.held)
        return torch.stack([(out - self.held).abs().mean(), edge_error(out, self.held)])

    @torch.no_grad()
    def sheet(self) -> tuple[Pictures, list[str]]:
        """Eight held-out pictures and what the codec makes of them."""
        some = self.held[:: max(1, len(self.held) // 8)][:8]
        shown = [to_bytes(p.numpy()) for p in (*some, *self._rebuild(some))]
        return shown, ["held out"] * len(some) + ["rebuilt"] * len(some)

    def _rebuild(self, pixels: Tensor) -> Tensor:
        weight = next(self.module.parameters())
        parts = []
        for part in torch.split(pixels, 32):
            x = part.to(weight.device, weight.dtype).contiguous(memory_format=torch.channels_last)
            parts.append(self.module.decode(self.module.moments(x)[0]).float().cpu().clamp(-1, 1))
        return torch.cat(parts)

    def export(self, tensors: dict[str, Tensor], folder: Path, facts: dict[str, object]) -> list[Path]:
        """Write ``codec.safetensors`` with the mean and deviation of each latent channel."""
        mean, std = self._moments()
        path = folder / family.CODEC_FILE
        save_packed(path, tensors, {**facts, "mean": mean.tolist(), "std": std.tolist()})
        return [path, write_manifest(folder)]

    @torch.no_grad()
    def _moments(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation per channel of the latents of the training pictures, over the colour table."""
        weight = next(self.module.parameters())
        rgba, colours = self.objective.pictures, self.objective.colours
        rows = torch.arange(0, len(rgba), max(1, len(rgba) // 2048))
        x = compose(rgba[rows], colours[rows % len(colours)]).to(weight.device, weight.dtype)
        latents = torch.cat(
            [
                self.module.moments(p.contiguous(memory_format=torch.channels_last))[0].float().cpu()
                for p in torch.split(x, 32)
            ]
        )
        return latents.mean((0, 2, 3)), latents.std((0, 2, 3))
