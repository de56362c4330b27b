"""The nine sets of drawings, and which drawing of each shows which emoji."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from sfumato.data.emoji.names import Emoji, Names, captions_of, code_of, family_of, slug, spoken
from sfumato.data.emoji.packages import FLUENT_3D, FLUENT_FLAT, ICONIFY, NOTO, TWEMOJI, Package, PackageCache

SIDE = 256
"""The side at which vector drawings are rendered, before they are made smaller."""


@dataclass(frozen=True)
class EmojiSet:
    """One set: the style word of its captions, its licence, whom to credit, what lists its code points."""

    name: str
    style: str
    licence: str
    attribution: str
    codes: Package | None = None
    numbered: bool = False
    keeps_unnamed: bool = True


SETS = (
    EmojiSet("fluent-3d", "3d", "MIT", "Fluent Emoji, (c) Microsoft"),
    EmojiSet("fluent-emoji", "glossy", "MIT", "Fluent Emoji, (c) Microsoft", FLUENT_FLAT),
    EmojiSet("fluent-emoji-flat", "flat", "MIT", "Fluent Emoji, (c) Microsoft", FLUENT_FLAT),
    EmojiSet("noto", "noto", "Apache-2.0", "Noto Emoji, (c) Google", NOTO),
    EmojiSet("noto-v1", "blob", "Apache-2.0", "Noto Emoji v1, (c) Google"),
    EmojiSet("twemoji", "cartoon", "CC-BY-4.0", "Twemoji, (c) Twitter and contributors", TWEMOJI),
    EmojiSet("emojione", "soft", "CC-BY-4.0", "EmojiOne 2, (c) EmojiOne/JoyPixels"),
    EmojiSet("fxemoji", "firefox", "Apache-2.0", "FxEmojis, (c) Mozilla", keeps_unnamed=False),
    EmojiSet("streamline-emojis", "pastel", "CC-BY-4.0", "Streamline Emojis, (c) Streamline", numbered=True),
)
"""The sets in the order of the corpus. FxEmojis' unmatched names run together ("xeyes") and are left out."""

RASTER_SET = "fluent-3d"

_BRANDS = (
    "logo|facebook|twitter|instagram|pinterest|youtube|google|apple-?(logo|pay|music)|android|microsoft|windows|"
    "linkedin|github|gitlab|tiktok|whatsapp|snapchat|paypal|visa|mastercard|amazon|spotify|dribbble|behance|"
    "dropbox|discord|slack|telegram|skype|vimeo|reddit|netflix|bitcoin|ethereum|chrome|firefox|safari|edge|figma|"
    "adobe|steam|twitch|wordpress|tumblr|wechat|alipay|vk|qq"
)
_BRAND = re.compile(f"(^|-)({_BRANDS})(-|$)")


@dataclass(frozen=True, slots=True)
class Drawing:
    """One picture to be made: its record's ``row`` so far, and SVG text or the bytes of a raster file."""

    row: dict[str, Any]
    source: str | bytes = field(repr=False)
    toned: bool


def drawings(chosen: EmojiSet, names: Names, cache: PackageCache) -> list[Drawing]:
    """All drawings of a set, skin tones too, in the order of their names."""
    used: Counter[str] = Counter()
    found = []
    for code, icon, source in _sources(chosen, names, cache):
        emoji = names.by_code[code] if code else _unnamed(chosen, icon)
        if emoji is None:
            continue
        name = f"{chosen.name}/{code or slug(icon)}"
        used[name] += 1
        if used[name] > 1:
            name += f"_{used[name]}"
        found.append(Drawing(_row(chosen, name, emoji), source, emoji.toned))
    return found


def _row(chosen: EmojiSet, name: str, emoji: Emoji) -> dict[str, Any]:
    family = family_of(emoji.code) if emoji.code else f"name:{emoji.label}"
    return {
        "id": name,
        "set": chosen.name,
        "style": chosen.style,
        "license": chosen.licence,
        "attribution": chosen.attribution,
        "concept": emoji.code or family,
        "family": family,
        "label": spoken(emoji.label),
        "tags": list(emoji.tags),
        "group": emoji.group,
        "subgroup": emoji.subgroup,
        "captions": captions_of(emoji.label, chosen.style, emoji.tags),
    }


def _unnamed(chosen: EmojiSet, icon: str) -> Emoji | None:
    """An icon that is no emoji, under its own name; None if it is a brand or the set's names say nothing."""
    if not chosen.keeps_unnamed or _BRAND.search(icon):
        return None
    label = re.sub(r"-?\d+$", "", icon).replace("-", " ").strip() or icon
    return Emoji("", label, (), "other", "other", toned="skin-tone" in icon)


def _sources(chosen: EmojiSet, names: Names, cache: PackageCache) -> Iterator[tuple[str, str, str | bytes]]:
    """Code ("" if unknown), icon name and picture of everything in a set."""
    if chosen.name == RASTER_SET:
        for path, data in sorted(cache.read(FLUENT_3D, _is_raster).items()):
            code = code_of(path.rpartition("/")[2].removesuffix(".webp"))
            if code in names.by_code:
                yield code, code, data
        return
    icons = cache.read_json(ICONIFY, f"json/{chosen.name}.json")
    codes: dict[str, str] = {}
    if chosen.codes:
        for code, icon in cache.read_json(chosen.codes, "chars.json").items():
            codes.setdefault(icon, code_of(code))
    for icon in sorted(icons["icons"]):
        if not icons["icons"][icon].get("hidden"):
            code = codes.get(icon, "")
            if code not in names.by_code:
                code = names.find(icon, chosen.numbered) or ""
            yield code, icon, svg_of(icons, icon)


def _is_raster(path: str) -> bool:
    return path.startswith("assets/") and path.endswith(".webp")


def svg_of(icons: dict[str, Any], name: str, side: int = SIDE) -> str:
    """One icon of an Iconify set as SVG text on a square canvas, centred."""
    icon = icons["icons"][name]
    width, height = (icon.get(key, icons.get(key, 16)) for key in ("width", "height"))
    left, top = (icon.get(key, icons.get(key, 0)) for key in ("left", "top"))
    square = max(width, height)
    box = f"{left - (square - width) / 2} {top - (square - height) / 2} {square} {square}"
    spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    size = f'width="{side}" height="{side}" viewBox="{box}" color="#000"'
    return f"<svg {spaces} {size}>{icon['body']}</svg>"
