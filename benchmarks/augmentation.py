"""What synthetic pictures are worth to a classifier: few real pictures, with and without ``sfumato augment``.

``python -m benchmarks.augmentation --corpus emoji-128.tar --work FOLDER``. A small convolutional network learns to tell
the corpus's groups (animals, food, ...) from ``--each`` pictures of each group, and is tested on pictures that neither
it nor the model ever saw (the splits ``val`` and ``test_style``). Four arms, each with as many steps and batches: the
pictures alone; with mirroring and shifts; with synthetic pictures; with both. Each arm is trained from ``--seeds``
beginnings; the figures are mean accuracy and its standard deviation over them.

The built-in model was trained on all pictures of the split ``train``, so what it adds is also what it learned there.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sfumato
from benchmarks.timing import machine
from sfumato.augment import Plan, augment
from sfumato.data.compose import BACKGROUNDS, on_background
from sfumato.data.pictures import PictureSet, open_pictures
from sfumato.picture.png import save_png

SIDE, STEPS, BATCH = 40, 400, 64


def few(corpus: PictureSet, each: int, seed: int) -> list[int]:
    """``each`` pictures of every group of the split train, of the style with the most pictures, drawn by ``seed``."""
    rows = [(k, r) for k, r in enumerate(corpus.records) if r.split == "train" and r.group not in DROPPED]
    by_group = defaultdict(list)
    for k, record in rows:
        by_group[record.group].append(k)
    rng = np.random.default_rng(seed)
    return sorted(int(k) for ks in by_group.values() for k in rng.choice(ks, each, replace=False))


DROPPED = ("component", "", "flags", "symbols")
"""Groups whose pictures are no things."""
HELD = ("val", "test_style")
"""What is tested on: things, and a style, that neither the model nor the classifier ever saw."""


def tensors(pictures: PictureSet, indices: list[int], names: list[str]) -> tuple[Tensor, Tensor]:
    """The pictures over white at SIDE x SIDE, in [-1, 1], and the numbers of their groups."""
    rows = []
    for k in indices:
        rgb = torch.from_numpy(on_background(pictures.read(k), BACKGROUNDS["white"])).movedim(-1, 0).float()
        rows.append(F.interpolate(rgb[None], size=(SIDE, SIDE), mode="area")[0] / 127.5 - 1)
    return torch.stack(rows), torch.tensor([names.index(pictures.records[k].group) for k in indices])


def network(classes: int) -> nn.Module:
    """Four convolutions, norms and a mean."""
    layers: list[nn.Module] = []
    width = 3
    for wide in (24, 48, 96, 96):
        layers += [nn.Conv2d(width, wide, 3, padding=1), nn.GroupNorm(8, wide), nn.ReLU(), nn.MaxPool2d(2)]
        width = wide
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.3), nn.Linear(width, classes)
    )


def accuracy(
    train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], classes: int, seed: int, moved: bool
) -> float:
    """Train from ``seed`` and count what is right of ``test``; ``moved`` mirrors and shifts each batch."""
    torch.manual_seed(seed)
    net = network(classes)
    optimiser = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=0.05)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=STEPS)
    x, y = train
    net.train()
    for _ in range(STEPS):
        pick = torch.randint(len(x), (BATCH,))
        batch = x[pick]
        if moved:
            flips = torch.rand(BATCH) < 0.5
            batch = torch.where(flips.view(-1, 1, 1, 1), batch.flip(-1), batch)
            across, down = (int(v) for v in torch.randint(-4, 5, (2,)))
            batch = F.pad(batch, (4, 4, 4, 4), value=1.0)[..., 4 + down :, 4 + across :][..., :SIDE, :SIDE]
        loss = F.cross_entropy(net(batch), y[pick], label_smoothing=0.1)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        rates.step()
    net.eval()
    with torch.no_grad():
        return float((net(test[0]).argmax(1) == test[1]).float().mean())


def main() -> None:
    """Make the synthetic set, train all arms, print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument(
        "--work", type=Path, required=True, help="a folder for the pictures; kept and gone on with"
    )
    parser.add_argument("--each", type=int, default=12)
    parser.add_argument("--times", type=int, default=4)
    parser.add_argument("--strength", type=float, default=0.6)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args()
    corpus = open_pictures(options.corpus)
    chosen = few(corpus, options.each, 0)
    names = sorted({corpus.records[k].group for k in chosen})
    real = options.work / f"real-{options.each}"
    if not (real / "metadata.jsonl").exists():
        lines = []
        for place, k in enumerate(chosen):
            record, name = corpus.records[k], f"{place:04d}.png"
            real.mkdir(parents=True, exist_ok=True)
            save_png(real / name, on_background(corpus.read(k), BACKGROUNDS["white"]))
            lines.append(
                {
                    "file_name": name,
                    "captions": list(record.captions),
                    "label": record.label,
                    "group": record.group,
                }
            )
        (real / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    made = options.work / f"made-{options.each}-{options.times}-{options.strength:g}-{options.steps}"
    began = time.monotonic()
    task = {"strength": options.strength, "steps": options.steps}
    plan = Plan(times=options.times, options=task)
    told = augment(
        real,
        made,
        sfumato.load("emoji"),
        plan,
        resume=made.exists(),
        listen=lambda a, b: print(a, b, end="\r"),
    )
    seconds = time.monotonic() - began
    base, new = open_pictures(real), open_pictures(made)
    first = tensors(base, list(range(len(base))), names)
    more = tensors(new, list(range(len(new))), names)
    both = torch.cat((first[0], more[0])), torch.cat((first[1], more[1]))
    held = [k for k, r in enumerate(corpus.records) if r.split in HELD and r.group in names]
    test = tensors(corpus, held, names)
    facts = {**machine(), "groups": len(names), "real": len(base), "synthetic": len(new), "test": len(held)}
    print(", ".join(f"{key} {value}" for key, value in facts.items()))
    print(
        f"{told['made']} pictures made in {seconds:.0f} s\n\n| trained on | accuracy | spread |\n|---|---|---|"
    )
    rows = {}
    arms = {
        "real": (first, False),
        "real, moved": (first, True),
        "real and synthetic": (both, False),
        "real and synthetic, moved": (both, True),
    }
    for name, (data, moved) in arms.items():
        found = [accuracy(data, test, len(names), seed, moved) for seed in range(options.seeds)]
        rows[name] = found
        print(f"| {name} | {statistics.mean(found):.3f} | {statistics.stdev(found):.3f} |", flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps({"facts": facts, "accuracy": rows}, indent=1))


if __name__ == "__main__":
    main()
