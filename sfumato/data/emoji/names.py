"""What each emoji is called: CLDR labels and keywords by code point, and the captions made of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sfumato.data.emoji.packages import EMOJIBASE, EMOJILIB, PackageCache

TONES = frozenset({"1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff"})
MOST_TAGS = 12
_PLAIN = str.maketrans(
    {"’": "", "“": "", "”": "", "&": "and", "!": ""} | dict(zip("ñéôãåçí", "neoaaci", strict=True))
)
_CAPTION_TAGS = 2


@dataclass(frozen=True, slots=True)
class Emoji:
    """One emoji: its code points in hexadecimal (see code_of), label, keywords and CLDR groups."""

    code: str
    label: str
    tags: tuple[str, ...]
    group: str
    subgroup: str
    toned: bool


class Names:
    """All emoji by code point, and by their label as icon sets spell it."""

    def __init__(self, emoji: Sequence[Emoji]) -> None:
        """Index ``emoji``; of two with one label the first counts."""
        self.by_code = {e.code: e for e in emoji}
        self._by_slug: dict[str, str] = {}
        for e in emoji:
            self._by_slug.setdefault(slug(e.label), e.code)
        self._run_together: dict[str, str] = {}
        for name, code in self._by_slug.items():
            self._run_together.setdefault(name.replace("-", ""), code)

    def find(self, name: str, numbered: bool) -> str | None:
        """The code of the emoji that an icon ``name`` means; ``numbered`` sets have "x-2" beside "x"."""
        name = re.sub(r"^flag-for-(flag-)?", "flag-", name)
        bare = re.sub(r"-\d$", "", name) if numbered else name
        known = self._by_slug
        return (
            known.get(name)
            or known.get(bare)
            or self._run_together.get(name.replace("-", ""))
            or known.get(f"{bare}-face")
            or known.get(re.sub("-face$", "", bare))
            or known.get(f"{bare}-button")
        )


def load_names(cache: PackageCache) -> Names:
    """The names in English, from the packages."""
    files = (
        cache.read_json(EMOJIBASE, "meta/groups.json"),
        cache.read_json(EMOJIBASE, "en/data.json"),
        cache.read_json(EMOJILIB, "dist/emoji-en-US.json"),
    )
    return Names(_parse(*files))


def _parse(groups: dict[str, Any], data: list[dict[str, Any]], more: dict[str, list[str]]) -> list[Emoji]:
    found = []
    for base in data:
        tags = _tags(base, more.get(base["emoji"], []))
        group = groups["groups"].get(str(base.get("group")), "other")
        subgroup = groups["subgroups"].get(str(base.get("subgroup")), "other")
        found.append(Emoji(code_of(base["hexcode"]), base["label"], tags, group, subgroup, toned=False))
        for skin in base.get("skins", []):
            found.append(Emoji(code_of(skin["hexcode"]), skin["label"], tags, group, subgroup, toned=True))
    return found


def _tags(base: dict[str, Any], more: Sequence[str]) -> tuple[str, ...]:
    tags: list[str] = list(base.get("tags", []))
    for tag in more:
        words = tag.replace("_", " ")
        if words not in tags and words != base["label"] and len(words) > 2:
            tags.append(words)
    return tuple(tags[:MOST_TAGS])


def code_of(hexcode: str) -> str:
    """The code points in lower case, without the variation selector that many sets leave out."""
    return "-".join(part for part in hexcode.lower().split("-") if part != "fe0f")


def slug(label: str) -> str:
    """A label as the names of icons are spelt: "Côte d’Ivoire" is "cote-divoire"."""
    return re.sub(r"[^a-z0-9]+", "-", label.lower().translate(_PLAIN)).strip("-")


def family_of(code: str) -> str:
    """The code without skin tone, gender and hair: what differs in these only shares one split."""
    parts = [part for part in code.split("-") if part not in TONES]
    joined = "-".join("1f9d1" if part in ("1f468", "1f469") else part for part in parts)
    return re.sub(r"-200d-1f9b[0-3]$", "", re.sub(r"-200d-(2640|2642)", "", joined))


def spoken(label: str) -> str:
    """A CLDR label in the words of a caption: "flag: Chad" is "flag of Chad"."""
    if label.startswith("flag: "):
        return "flag of " + label.removeprefix("flag: ")
    if label.startswith("keycap: "):
        return "keycap " + label.removeprefix("keycap: ")
    return label.replace(": ", ", ")


def captions_of(label: str, style: str, tags: Sequence[str]) -> list[str]:
    """Three to five captions of one picture, from the bare name to name, keywords and style."""
    name = spoken(label)
    words = [tag for tag in tags if _says_more(tag, name)]
    captions = [name, f"{name}, {style} style", f"{style} emoji of {name}"]
    if words:
        captions.append(f"{name}, {', '.join(words[:_CAPTION_TAGS])}, {style} style")
    if len(words) > _CAPTION_TAGS + 1:
        captions.append(f"{style} emoji of {name}, {', '.join(words[_CAPTION_TAGS : 2 * _CAPTION_TAGS])}")
    return captions


def _says_more(tag: str, name: str) -> bool:
    if len(tag) <= 2 or tag.startswith("flag") or re.search(r"\d|:", tag):
        return False
    return tag.lower() not in name.lower()
