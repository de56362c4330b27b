"""A class-conditional model on small labelled pictures (IDX files such as Fashion-MNIST's), in pixels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from sfumato.codec import Pixels
from sfumato.condition import Cond, Prompt, texts
from sfumato.data.pictures import PictureSet
from sfumato.denoiser import Denoiser
from sfumato.engine.run import run
from sfumato.errors import InvalidRequest, UnknownName
from sfumato.model import Defaults, Model
from sfumato.nn.unet import UNet, UNetConfig
from sfumato.process.prediction import prediction
from sfumato.process.schedule import Flow
from sfumato.recipes.recipe import Pictures, Say, TrainRecipe, rgba_tensor
from sfumato.tasks.text2image import Text2Image
from sfumato.train.augment import compose
from sfumato.train.denoise import BINS, Times, by_bin, levels
from sfumato.train.loop import Hyper, Loss
from sfumato.weights.packed import save_packed

MOST_CLASSES = 1000


def labelled_recipe() -> TrainRecipe:
    """Train a small class-conditional U-Net by rectified flow on the pixels."""
    return TrainRecipe(
        name="digits",
        summary="a class-conditional model on small labelled pictures (Fashion-MNIST, digits), in pixels",
        hyper=Hyper(steps=4000, batch=64, rate=1e-3, warmup=200, average=0.999),
        prepare=PreparedLabelled,
    )


def network(classes: int, *, widths: tuple[int, ...] = (64, 128, 128)) -> UNet:
    """The U-Net of this recipe for ``classes`` labels and one for none (the last)."""
    attention = ("none",) * (len(widths) - 1) + ("self",)
    return UNet(
        UNetConfig(
            inner=1,
            outer=1,
            widths=widths,
            blocks=1,
            attention=attention,  # type: ignore[arg-type]
            classes=classes + 1,
            groups=16,
            scale_shift=True,
        )
    )


class LabelledObjective:
    """Predict the flow at a random level, steered by the label, which is dropped for a tenth of the rows."""

    def __init__(self, denoiser: Denoiser, pictures: Tensor, labels: Tensor, classes: int) -> None:
        """Train on ``pictures`` (N, 1, H, W) in [-1, 1] with ``labels`` (N,); ``classes`` means none."""
        self.module, self.pictures, self.labels, self.classes = denoiser, pictures, labels, classes
        self.times = Times()

    def loss(self, step: int, size: int, generator: torch.Generator) -> Loss:
        """The loss of ``size`` random pictures, and its mean in ten bins of t."""
        rows = torch.randint(len(self.pictures), (size,), generator=generator)
        t = self.times.draw(size, generator)
        dropped = torch.rand(size, generator=generator) < 0.1
        label = torch.where(dropped, self.classes, self.labels[rows])
        device = next(self.module.parameters()).device
        x0 = self.pictures[rows].to(device)
        eps = torch.randn(x0.shape, generator=generator).to(device)
        each = self.module.loss(x0, eps, levels(self.module, t), Cond(label=label))
        return Loss(value=each.mean(), figures={"bins": by_bin(each.detach(), t)})


class PreparedLabelled:
    """The recipe on some labelled pictures."""

    def __init__(self, pictures: PictureSet, folder: Path, seed: int, fresh: bool, say: Say) -> None:
        """Read the pictures; every twentieth is held out (of fewer than twenty none: all judge as well)."""
        names = sorted({r.label for r in pictures.records})
        if len(names) > MOST_CLASSES:
            raise InvalidRequest(
                f"{pictures.path} has {len(names)} different labels; this recipe is for at most "
                f"{MOST_CLASSES} classes: train 'emoji' on pictures with captions"
            )
        if "" in names:
            raise InvalidRequest(
                f"{pictures.path} has pictures without a label; this recipe needs one for each"
            )
        rows = [i for i, r in enumerate(pictures.records) if r.split == "train"]
        side = pictures.read(rows[0]).shape[0] if rows else 0
        say(f"reading {len(rows)} pictures of {len(names)} classes")
        grey = compose(rgba_tensor(pictures, rows, side), torch.zeros(len(rows), 3, dtype=torch.uint8))
        grey = grey.mean(1, keepdim=True)
        labels = torch.tensor([names.index(pictures.records[i].label) for i in rows])
        held = torch.arange(len(rows)) % 20 == 19
        self.names, self.side = names, side
        judges = held if held.any() else ~held
        self.held = (grey[judges], labels[judges])
        torch.manual_seed(seed)
        self.denoiser = Denoiser(network(len(names)), Flow(), prediction("flow"), clock="thousand")
        self.objective = LabelledObjective(self.denoiser, grey[~held], labels[~held], len(names))
        self.facts: dict[str, object] = {"data": pictures.sha256(), "classes": names, "side": side}

    @torch.no_grad()
    def score(self) -> Tensor:
        """Losses in ten bins of t on held-out pictures, always with the same levels and noise, (10,)."""
        generator = torch.Generator().manual_seed(1234)
        device = next(self.denoiser.parameters()).device
        x0, label = self.held[0][:128].to(device), self.held[1][:128]
        total = []
        for k in range(BINS):
            t = ((k + torch.rand(len(x0), generator=generator)) / BINS).clamp(1e-4, 1)
            eps = torch.randn(x0.shape, generator=generator).to(device)
            each = self.denoiser.loss(x0, eps, levels(self.denoiser, t), Cond(label=label))
            total.append(each.mean())
        return torch.stack(total).cpu()

    def sheet(self) -> tuple[Pictures, list[str]]:
        """One picture of each of the first ten classes."""
        model = self.model()
        shown = self.names[:10]
        return [run(Text2Image(prompt=name)(model)).pixels[0] for name in shown], shown

    def model(self) -> Model:
        """The network as a Model whose prompts are the names of classes."""
        defaults = Defaults(
            steps=20,
            sampler="dpmpp_2m",
            grid="linspace",
            guidance=2.0,
            width=self.side,
            height=self.side,
            multiple=1,
            least=self.side,
            most=self.side,
        )
        return Model(
            name="digits",
            identity="0" * 64,
            denoiser=self.denoiser,
            codec=Pixels(1, self.side, self.side),
            conditioner=by_label(self.names),
            defaults=defaults,
        )

    def export(self, tensors: dict[str, Tensor], folder: Path, facts: dict[str, object]) -> list[Path]:
        """Write ``digits.safetensors``."""
        path = folder / "digits.safetensors"
        save_packed(path, tensors, facts)
        return [path]


def by_label(names: list[str]) -> Callable[[Sequence[str | Prompt]], Cond]:
    """A conditioner whose prompts are names of classes; the empty prompt means none of them."""

    def condition(prompts: Sequence[str | Prompt]) -> Cond:
        for prompt in (wanted := texts(prompts)):
            if prompt and prompt not in names:
                raise UnknownName("class", prompt, names)
        return Cond(label=torch.tensor([names.index(p) if p else len(names) for p in wanted]))

    return condition
