"""docs/gallery.md and its pictures, made with the built-in model: ``python -m tests.tasks.gallery``.

Every section runs the commands that it shows, through the command line, in a folder of its own, and lays what they
wrote out on a sheet. ``--only edit tile`` makes some sections again and leaves the others.
"""

from __future__ import annotations

import argparse
import os
import shlex
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageFilter

from sfumato.cli.main import main as sfumato
from sfumato.picture.sheet import contact_sheet

DOCS = Path(__file__).parents[2] / "docs"
STYLES = ("3d", "flat", "noto", "blob", "cartoon", "glossy", "pastel", "soft", "firefox")


@dataclass(frozen=True, kw_only=True)
class Section:
    """Commands that are run in order, the files that are shown with their captions, and what is to be seen."""

    name: str
    title: str
    commands: tuple[str, ...]
    shown: tuple[tuple[str, str], ...]
    seen: str
    columns: int = 4
    side: int = 128


SECTIONS = (
    Section(
        name="edit",
        title="Editing: picture to picture",
        commands=(
            'sfumato generate "red apple, glossy style" --seed 3 -o apple.png',
            'sfumato edit apple.png "green apple, glossy style" --strength 0.9 --seed 3 -o green.png',
            'sfumato generate "red heart, 3d style" --seed 3 -o heart.png',
            'sfumato edit heart.png "blue heart, 3d style" --strength 0.85 --seed 3 -o blue.png',
            'sfumato generate "tiger face, flat style" --seed 3 -o tiger.png',
            'sfumato edit tiger.png "tiger face, flat style, light blue background" --strength 0.8 --seed 3 -o sky.png',
            'sfumato edit tiger.png "tiger face, pastel style" --strength 0.7 --seed 3 -o pastel.png',
        ),
        shown=(
            ("apple.png", "red apple"),
            ("green.png", "green apple, strength 0.9"),
            ("heart.png", "red heart"),
            ("blue.png", "blue heart, strength 0.85"),
            ("tiger.png", "tiger face"),
            ("sky.png", "with a light blue background, 0.8"),
            ("pastel.png", "in the pastel style, 0.7"),
        ),
        seen="The shape stays; colour, background and style go as far as the strength lets them.",
        columns=7,
    ),
    Section(
        name="inpaint",
        title="Inpainting",
        commands=(
            'sfumato generate "smiling face with heart-eyes, noto style" --seed 3 -o face.png',
            'sfumato inpaint face.png "grinning face, noto style" --mask "rect(20, 76, 88, 40)" --seed 1 -o mouth.png',
            'sfumato inpaint face.png "grinning face, noto style" --mask "rect(20, 20, 88, 56)" --seed 1 -o eyes.png',
        ),
        shown=(
            ("face.png", "as it was"),
            ("mouth.png", "the mouth made anew"),
            ("eyes.png", "the eyes made anew"),
        ),
        seen="What is outside the mask is the same to the byte.",
    ),
    Section(
        name="outpaint",
        title="Outpainting",
        commands=(
            'sfumato generate "red heart, 3d style" --seed 3 --size 128x128 -o heart.png',
            'sfumato outpaint half.png "red heart, 3d style" --right 64 --seed 1 -o whole.png',
        ),
        shown=(("heart.png", "as it was"), ("half.png", "its left half"), ("whole.png", "continued")),
        seen="The left half is the same to the byte, the right one is new.",
    ),
    Section(
        name="style",
        title="Style transfer across the nine styles, and a style from a picture",
        commands=(
            'sfumato generate "red heart, 3d style" --seed 3 -o heart.png',
            *(
                f'sfumato edit heart.png "red heart, {style} style" --strength 0.85 --seed 3 -o heart-{style}.png'
                for style in STYLES[1:]
            ),
            'sfumato generate "smiling face, 3d style" --seed 3 -o face.png',
            *(
                f'sfumato edit face.png "smiling face, {style} style" --strength 0.85 --seed 3 -o face-{style}.png'
                for style in STYLES[1:]
            ),
            'sfumato generate "tiger face, flat style" --seed 3 -o tiger.png',
            'sfumato style tiger.png "cat face" --source "tiger face, flat style" --seed 3 -o cat.png',
        ),
        shown=(
            ("heart.png", "red heart, 3d"),
            *((f"heart-{style}.png", style) for style in STYLES[1:]),
            ("face.png", "smiling face, 3d"),
            *((f"face-{style}.png", style) for style in STYLES[1:]),
            ("tiger.png", "a reference"),
            ("cat.png", "cat face, in the colours of the reference"),
        ),
        seen="Two pictures redrawn in the other eight styles; then colours taken from a picture by shared attention.",
        columns=9,
    ),
    Section(
        name="storyboard",
        title="A storyboard: several pictures that share their colours",
        commands=(
            'sfumato generate "house, flat style" --seed 4 -o house.png',
            *(
                f'sfumato style house.png "{what}" --source "house, flat style" --seed 3 -o {what}.png'
                for what in ("tree", "sun", "car")
            ),
        ),
        shown=(("house.png", "the first"), ("tree.png", "tree"), ("sun.png", "sun"), ("car.png", "car")),
        seen="Each picture after the first looks at the first while it is made.",
    ),
    Section(
        name="interpolate",
        title="Interpolation",
        commands=(
            'sfumato interpolate "red apple, glossy style" "blue circle, glossy style" --seed 3 --count 6 -o row.png',
            'sfumato interpolate "tiger face, flat style" --seed 3 --seed-to 4 --count 6 -o seeds.png',
        ),
        shown=tuple(
            [(f"row-{k}.png", "") for k in range(1, 7)] + [(f"seeds-{k}.png", "") for k in range(1, 7)]
        ),
        seen="From one sentence to another, and from one seed to another.",
        columns=6,
    ),
    Section(
        name="vary",
        title="Variations",
        commands=(
            'sfumato vary "tiger face, flat style" --seed 3 --variation 11 --amount 0.3 --count 4 -o near.png',
            'sfumato vary "tiger face, flat style" --seed 3 --variation 11 --amount 0.7 --count 4 -o far.png',
        ),
        shown=tuple(
            [(f"near-{k}.png", "amount 0.3") for k in range(1, 5)]
            + [(f"far-{k}.png", "amount 0.7") for k in range(1, 5)]
        ),
        seen="Near a seed, and farther from it.",
    ),
    Section(
        name="upscale",
        title="Upscaling from 128 to 512",
        commands=(
            'sfumato generate "tiger face, flat style" --seed 3 -o tiger.png',
            'sfumato upscale tiger.png --prompt "tiger face, flat style" --factor 4 -o large.png',
        ),
        shown=(("tiger.png", "128 x 128"), ("large.png", "512 x 512")),
        seen="The same picture with sharper edges: enlarged, given noise, and walked again in windows.",
        columns=2,
        side=512,
    ),
    Section(
        name="restore",
        title="Restoration",
        commands=(
            'sfumato generate "red heart, 3d style" --seed 3 -o heart.png',
            'sfumato restore small.png --damage "average(factor=4)" --prompt "red heart, 3d style" -o large.png',
            'sfumato restore blurred.png --damage "blur(std=4)" --prompt "red heart, 3d style" -o sharp.png',
        ),
        shown=(
            ("heart.png", "as it was"),
            ("small.png", "a quarter as large"),
            ("large.png", "restored"),
            ("blurred.png", "blurred"),
            ("sharp.png", "restored"),
        ),
        seen="Each restored picture explains the damaged one.",
        columns=5,
    ),
    Section(
        name="tile",
        title="Seamless tiles and regions",
        commands=(
            'sfumato tile "tree, noto style" --seed 1 -o tile.png',
            'sfumato compose "white background" --regions "rect(0, 0, 50%, 100%): green apple, flat style" '
            '--regions "rect(50%, 0, 50%, 100%): red heart, flat style" --seed 3 -o regions.png',
        ),
        shown=(("tile.png", "a tile"), ("tiled.png", "2 x 2 of it"), ("regions.png", "two regions")),
        seen="Edges that fit, and a sentence for each half.",
        columns=3,
        side=256,
    ),
    Section(
        name="animate",
        title="A moving picture",
        commands=(
            'sfumato animate "red apple, glossy style" "green apple, glossy style" "blue circle, glossy style" '
            "--seed 3 --count 12 --loop -o walk.webp --frames",
        ),
        shown=tuple((f"walk-{k:02d}.png", f"frame {k}") for k in range(1, 13)),
        seen="Three keys and what lies between them; the moving file is [gallery/walk.webp](gallery/walk.webp).",
        columns=6,
    ),
    Section(
        name="augment",
        title="Augmentation",
        commands=(
            'sfumato generate "house, flat style" --seed 4 -o photos/house.png',
            'sfumato generate "tiger face, flat style" --seed 3 -o photos/tiger-face.png',
            'sfumato augment photos -o more --times 4 --strength 0.6 --prompt "{caption}, flat style" --originals',
        ),
        shown=tuple(
            (f"more/{stem}{k}.png", "as it was" if not k else "new")
            for stem in ("house", "tiger-face")
            for k in ("", "-a1", "-a2", "-a3", "-a4")
        ),
        seen="Each picture changed four times, its label kept.",
        columns=5,
    ),
)


def prepare(name: str) -> None:
    """Pictures that a section needs and no command makes."""
    if name == "outpaint":
        Image.open("heart.png").crop((0, 0, 64, 128)).save("half.png")
    if name == "restore":
        heart = Image.open("heart.png")
        heart.resize((32, 32), Image.Resampling.BOX).save("small.png")
        heart.filter(ImageFilter.GaussianBlur(4)).save("blurred.png")
    if name == "tile" and Path("tile.png").exists():
        tile = Image.open("tile.png")
        whole = Image.new("RGB", (2 * tile.width, 2 * tile.height))
        for k in range(4):
            whole.paste(tile, (k % 2 * tile.width, k // 2 * tile.height))
        whole.save("tiled.png")


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Work in ``folder`` for a while."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def made(section: Section, folder: Path) -> Image.Image:
    """The sheet of ``section``, whose commands are run in ``folder``."""
    with inside(folder):
        Path("photos").mkdir()
        for command in section.commands:
            code = sfumato(shlex.split(command)[1:])
            assert code == 0, command
            prepare(section.name)
        pictures = []
        for name, _ in section.shown:
            image = Image.open(name).convert("RGB")
            pictures.append(
                image if image.width <= section.side else image.resize((section.side, section.side))
            )
        if section.name == "animate":
            (DOCS / "gallery").mkdir(exist_ok=True)
            (DOCS / "gallery" / "walk.webp").write_bytes(Path("walk.webp").read_bytes())
    return contact_sheet(pictures, [caption for _, caption in section.shown], section.columns)


def page() -> str:
    """The page, from the sections' own words."""
    lines = [
        "# Gallery",
        "",
        "What the built-in model makes of the tasks: a small model, trained for hours on two cores, of simple shapes.",
        "Written by `python -m tests.tasks.gallery`; the commands below were run as they stand, but for `half.png`,",
        "`small.png` and `blurred.png`, which were cut, shrunk and blurred from the pictures beside them.",
    ]
    for section in SECTIONS:
        lines += [
            "",
            f"## {section.title}",
            "",
            section.seen,
            "",
            f"![{section.title}](gallery/{section.name}.png)",
            "",
        ]
        lines += ["    " + command for command in section.commands]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Make the sheets and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", choices=[section.name for section in SECTIONS])
    options = parser.parse_args()
    (DOCS / "gallery").mkdir(exist_ok=True)
    for section in SECTIONS:
        if options.only and section.name not in options.only:
            continue
        with tempfile.TemporaryDirectory() as folder:
            made(section, Path(folder)).save(DOCS / "gallery" / f"{section.name}.png", optimize=True)
        print(section.name, flush=True)
    (DOCS / "gallery.md").write_text(page(), "utf-8")


if __name__ == "__main__":
    main()
