"""The files of improved- and guided-diffusion: the network from shapes, and what these do not tell.

Nichol & Dhariwal 2021; Dhariwal & Nichol 2021. How heads lie in a tensor, how wide they are, of which size pictures
are and on which schedule the network was trained is in no key: the published files are known by their shapes, and of
others the authors' flags are read from a ``config.json`` beside the weights (``image_size``, ``num_heads``, ...).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from sfumato.errors import WeightsError
from sfumato.families.shapes import Shapes, count
from sfumato.nn.adm import PixelConfig
from sfumato.nn.noised import ClassifierConfig
from sfumato.process.schedule import Schedule
from sfumato.process.table import linear, squared_cosine

FLAGS = "image_size"
"""The authors' flag by which settings beside the weights are known as theirs."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """How a network was trained: what shapes do not tell, and the schedule. PixelConfig has most of the names."""

    side: int
    head: int = 64
    heads: int = 0
    fused: Literal["parts", "heads"] = "heads"
    rate: float = 1.0
    cosine: bool = False
    steps: int = 1000
    says: Literal["eps", "x0"] = "eps"

    @property
    def schedule(self) -> Schedule:
        """Betas on a line, whose sum does not depend on the number of steps, or the squared cosine."""
        scale = 1000 / self.steps
        return squared_cosine(self.steps) if self.cosine else linear(self.steps, 1e-4 * scale, 0.02 * scale)


Key = tuple[tuple[int, ...], int, tuple[int, ...], bool]
LARGE = (256, 256, 512, 512, 1024, 1024)
SMALL = Trained(side=64, heads=4, cosine=True, steps=4000)
KNOWN: dict[Key, Trained] = {
    ((192, 384, 576, 768), 3, (1, 2, 3), True): Trained(side=64, fused="parts", cosine=True),
    ((256, 256, 512, 768, 1024), 2, (2, 3, 4), True): Trained(side=128, heads=4),
    (LARGE, 2, (3, 4, 5), True): Trained(side=256),
    ((128, *LARGE), 2, (4, 5, 6), True): Trained(side=512),
    ((128, 128, 256, 256, 512, 512), 1, (4,), True): Trained(side=256),
    ((192, 384, 576, 768), 3, (2, 3), False): SMALL,
    ((128, 256, 384, 512), 3, (2, 3), False): replace(SMALL, rate=0.25),
    ((128, 256, 256, 256), 3, (1, 2), False): replace(SMALL, rate=0.25, side=32),
    ((128, 128, 256, 256, 512, 512), 2, (4,), False): Trained(side=256, heads=1),
}
"""The published networks by widths, blocks a level, levels with attention, and whether blocks change the sides.

Of guided-diffusion 64, 128, 256 (with classes, without, and of LSUN) and 512 pixels, and the network of faces that
others trained with it; of improved-diffusion ImageNet-64 by class and without, CIFAR-10, and LSUN.
"""


def config(shapes: Shapes) -> PixelConfig:
    """The network of ``shapes`` in the authors' names; of one that is not published what guided-diffusion's have.

    KeyError for names that are not of such a network.
    """
    plain = _plain(shapes)
    return told(plain, trained(plain))


def _plain(shapes: Shapes) -> PixelConfig:
    """What shapes tell."""
    levels = 1 + sum(bool(_DOUBLES.match(name)) for name in shapes)
    each, rest = divmod(count(shapes, "input_blocks.{}."), levels)
    if rest:
        raise KeyError(f"{levels * each + rest} input_blocks for {levels} levels")
    first = [f"input_blocks.{1 + level * each}" for level in range(levels)]
    looks = tuple(f"{name}.1.qkv.weight" in shapes for name in first)
    inside = f"input_blocks.{each}.0.in_layers.2.weight" in shapes
    label = shapes.get("label_emb.weight")
    middle = shapes["middle_block.0.in_layers.2.weight"][0]
    return PixelConfig(
        inner=shapes["input_blocks.0.0.weight"][1],
        outer=shapes["out.2.weight"][0],
        widths=tuple(shapes[f"{name}.0.in_layers.2.weight"][0] for name in first),
        blocks=each - 1,
        attention=looks,
        halve=(inside,) * (levels - 1),
        double=(inside,) * (levels - 1),
        classes=label[0] if label else 0,
        scale_shift=shapes["middle_block.0.emb_layers.1.weight"][0] == 2 * middle,
        sinusoids=shapes["time_embed.0.weight"][1],
    )


_DOUBLES = re.compile(r"output_blocks\.\d+\.[12]\.(in_layers\.2|conv)\.weight$")


def classifier(shapes: Shapes) -> ClassifierConfig:
    """The classifier of ``shapes``: heads of 64 channels, each head's queries, keys and values together.

    Nothing tells where its levels end but widths, attention and the blocks between; ValueError where that is not
    one way.
    """
    blocks = count(shapes, "input_blocks.{}.")
    fits = [n for n in range(1, blocks) if blocks % n == 0 and _is_levels(shapes, n, blocks // n)]
    if len(fits) != 1:
        raise ValueError(f"{blocks} input_blocks, which are levels in {len(fits)} ways,")
    (levels,), each = fits, blocks // fits[0]
    first = [f"input_blocks.{1 + level * each}" for level in range(levels)]
    places = shapes["out.2.positional_embedding"][1] - 1
    middle = shapes["middle_block.0.in_layers.2.weight"][0]
    inside = f"input_blocks.{each}.0.op.weight" not in shapes
    return ClassifierConfig(
        inner=shapes["input_blocks.0.0.weight"][1],
        outer=shapes["out.2.c_proj.weight"][0],
        widths=tuple(shapes[f"{name}.0.in_layers.2.weight"][0] for name in first),
        blocks=each - 1,
        attention=tuple(f"{name}.1.qkv.weight" in shapes for name in first),
        halve=(inside,) * (levels - 1),
        double=(inside,) * (levels - 1),
        head=64,
        scale_shift=shapes["middle_block.0.emb_layers.1.weight"][0] == 2 * middle,
        sinusoids=shapes["time_embed.0.weight"][1],
        fused="heads",
        side=math.isqrt(places) * 2 ** (levels - 1),
        places=places,
    )


def _is_levels(shapes: Shapes, levels: int, each: int) -> bool:
    """Whether every ``each`` blocks can be a level of one width and kind, the last of which changes the sides."""
    for level in range(levels):
        names = [f"input_blocks.{1 + level * each + block}" for block in range(each)]
        *inner, last = names if level < levels - 1 else [*names[:-1], ""]
        kinds = {
            (shapes.get(f"{name}.0.in_layers.2.weight", (0,))[0], f"{name}.1.qkv.weight" in shapes)
            for name in inner
        }
        if len(kinds) != 1 or (0, False) in kinds:
            return False
        conv = shapes.get(f"{last}.0.in_layers.2.weight", shapes.get(f"{last}.0.op.weight", (0, 0)))
        width = next(iter(kinds))[0]
        if last and (conv[:2] != (width, width) or f"{last}.1.qkv.weight" in shapes):
            return False
    return True


def known(config: PixelConfig) -> Trained | None:
    """How the published network of the sizes of ``config`` was trained; None if there is none."""
    looks = tuple(level for level, look in enumerate(config.attention) if look)
    return KNOWN.get((config.widths, config.blocks, looks, all(config.halve)))


def trained(config: PixelConfig, flags: Mapping[str, Any] | None = None) -> Trained:
    """How a network of ``config`` was trained: as the one that is known, or as guided-diffusion's usually are.

    The coarsest maps of those have 8 places a side. The authors' ``flags`` overrule; ValueError for one that is of
    another type or is not followed.
    """
    found = known(config) or Trained(side=8 * 2 ** (len(config.widths) - 1))
    if not flags:
        return found
    heads, head = _whole(flags, "num_heads", 1), _whole(flags, "num_head_channels", -1)
    schedule = flags.get("noise_schedule", "cosine" if found.cosine else "linear")
    if schedule not in ("linear", "cosine"):
        raise ValueError(f"noise_schedule = {schedule!r}, which is neither linear nor cosine,")
    steps = _whole(flags, "diffusion_steps", 2) or found.steps
    if head is not None or heads is not None:
        wide = head if head is not None and head > 0 else 0
        found = replace(found, head=wide, heads=0 if wide else heads or 1)
    if "use_new_attention_order" in flags:
        found = replace(found, fused="parts" if flags["use_new_attention_order"] else "heads")
    if "rescale_timesteps" in flags:
        found = replace(found, rate=1000 / steps if flags["rescale_timesteps"] else 1.0)
    return replace(
        found,
        side=_whole(flags, FLAGS, 1) or found.side,
        cosine=schedule == "cosine",
        steps=steps,
        says="x0" if flags.get("predict_xstart") else "eps",
    )


def told(config: PixelConfig, by: Trained) -> PixelConfig:
    """``config`` as a network of that training has it."""
    return replace(config, head=by.head, heads=by.heads, fused=by.fused, rate=by.rate, side=by.side)


def check(config: PixelConfig, path: Path) -> None:
    """Raise WeightsError where the heads of the network of ``path`` do not divide the widths that attention is over."""
    seen = [width for width, look in zip(config.widths, config.attention, strict=True) if look]
    for width in (*seen, config.widths[-1]):
        if width % (config.head or config.heads or 1):
            raise WeightsError(
                f"the attention of {path} over {width} channels cannot have "
                f"{f'heads of {config.head}' if config.head else f'{config.heads} heads'}: say num_heads or "
                "num_head_channels, as it was trained with, in a config.json beside the weights, and give their folder"
            )


def _whole(flags: Mapping[str, Any], name: str, least: int) -> int | None:
    """The flag ``name``, a whole number from ``least`` on, None where it is not told; ValueError for anything else."""
    value = flags.get(name)
    if value is None or (
        isinstance(value, int) and not isinstance(value, bool) and least <= value <= 100_000
    ):
        return value
    raise ValueError(f"{name} = {value!r}, which is no whole number in range,")
