"""Masks in words: ``"rect(10, 20, 50%, 48) + outside(ellipse(50%, 50%, 30, 20))"``, ``"alpha"``, ``"color(lime, 30)"``.

::

    mask   := shape { "+" shape }                       what is in any of them
    shape  := "rect(" left "," top "," width "," height ")"
            | "ellipse(" x "," y "," radius across "," radius down ")"      around a centre
            | "outside(" mask ")"
            | "alpha"                                    where the picture is transparent
            | "color(" colour [ "," tolerance ] ")"      where every channel differs by no more levels
    length := number [ "%" ]                             pixels, or a part of the width or height

A pixel belongs to a shape if its centre does: that of column i lies at i + 0.5.
"""

from __future__ import annotations

import re
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sfumato.errors import InvalidRequest
from sfumato.picture.read import Read, colour

Mask: TypeAlias = NDArray[np.float32]
"""Float32 (H, W) in [0, 1]; 1 is to be made new, 0 is to stay."""

_LONGEST = 1000
_DEEPEST = 8
_FORM = re.compile(r"\s*(rect|ellipse|outside|colou?r)\s*\(|\s*alpha\s*(\+|$)")
_LIKE_FORM = re.compile(r"\s*[a-z]+\(.*\)\s*$", re.DOTALL)
_NAME = re.compile(r"\s*([a-z]+)\s*")
_NUMBER = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+))\s*")
_LENGTH = re.compile(rf"{_NUMBER.pattern}(%?)\s*")
_COLOUR = re.compile(r"\s*(#[0-9A-Fa-f]+|[A-Za-z]+)\s*")
_FAR = 1e6


def is_form(text: str) -> bool:
    """Whether ``text`` is a mask in words, a misspelt one too (``rec(0, 0, 8, 8)``), and not a path."""
    return _FORM.match(text) is not None or _LIKE_FORM.match(text) is not None


def parse_mask(text: str, size: tuple[int, int], picture: Read | None = None) -> Mask:
    """The mask that ``text`` describes (see above), of ones and zeros, or of alpha's levels between.

    Raises InvalidRequest if the text cannot be read, or speaks of a picture's alpha or colour and there is none.
    """
    shown = repr(text if len(text) <= 80 else text[:80] + "...")
    if len(text) > _LONGEST:
        raise InvalidRequest(f"mask = {shown} is longer than {_LONGEST} characters")
    if picture is not None and picture.size != tuple(size):
        raise InvalidRequest(f"the mask is for {size[0]} x {size[1]} pixels and its picture has other ones")
    reader = _Reader(text, size, picture, shown)
    mask = reader.mask(0)
    if reader.at != len(text):
        raise reader.wrong(f"{text[reader.at : reader.at + 20]!r} is not expected there")
    return mask


class _Reader:
    """Recursive descent over the text of one mask; ``at`` is how far it got."""

    def __init__(self, text: str, size: tuple[int, int], picture: Read | None, shown: str) -> None:
        self.text, self.picture, self.shown, self.at = text, picture, shown, 0
        self.width, self.height = size

    def wrong(self, why: str) -> InvalidRequest:
        return InvalidRequest(
            f"mask = {self.shown}: {why}; write rect(left, top, width, height), ellipse(x, y, across, down), "
            "outside(...), alpha, color(#00ff00, 30), with + between"
        )

    def take(self, pattern: re.Pattern[str], what: str) -> re.Match[str]:
        found = pattern.match(self.text, self.at)
        if found is None:
            raise self.wrong(f"{what} is missing after {self.text[: self.at][-20:]!r}")
        self.at = found.end()
        return found

    def mark(self, mark: str) -> bool:
        while self.text[self.at : self.at + 1].isspace():
            self.at += 1
        if not self.text.startswith(mark, self.at):
            return False
        self.at += 1
        return True

    def need(self, mark: str) -> None:
        if not self.mark(mark):
            raise self.wrong(f"{mark!r} is missing after {self.text[: self.at][-20:]!r}")

    def mask(self, depth: int) -> Mask:
        if depth > _DEEPEST:
            raise self.wrong(f"it is nested more than {_DEEPEST} deep")
        mask = self.shape(depth)
        while self.mark("+"):
            mask = np.maximum(mask, self.shape(depth))
        return mask

    def shape(self, depth: int) -> Mask:
        name = self.take(_NAME, "a shape")[1]
        if name == "alpha":
            return self.alpha()
        if name not in ("rect", "ellipse", "outside", "color", "colour"):
            raise self.wrong(f"{name!r} is not a shape")
        self.need("(")
        if name == "outside":
            mask = 1 - self.mask(depth + 1)
        elif name == "rect":
            mask = self.rectangle(*self.lengths())
        elif name == "ellipse":
            mask = self.ellipse(*self.lengths())
        else:
            mask = self.keyed()
        self.need(")")
        return mask

    def lengths(self) -> list[float]:
        found = []
        for number, whole in enumerate((self.width, self.height, self.width, self.height)):
            if number:
                self.need(",")
            length = self.take(_LENGTH, "a length")
            value = float(length[1]) * (whole / 100 if length[2] else 1)
            if abs(value) > _FAR:
                raise self.wrong(f"{length[0].strip()[:20]!r} is beyond {_FAR:.0f} pixels")
            if number > 1 and value <= 0:
                raise self.wrong(f"{length[0].strip()!r} must be above 0")
            found.append(value)
        return found

    def centres(self) -> tuple[NDArray[Any], NDArray[Any]]:
        return np.arange(self.width) + 0.5, (np.arange(self.height) + 0.5)[:, None]

    def rectangle(self, left: float, top: float, width: float, height: float) -> Mask:
        x, y = self.centres()
        return ((x >= left) & (x < left + width) & (y >= top) & (y < top + height)).astype(np.float32)

    def ellipse(self, left: float, top: float, across: float, down: float) -> Mask:
        x, y = self.centres()
        return (((x - left) / across) ** 2 + ((y - top) / down) ** 2 <= 1).astype(np.float32)

    def alpha(self) -> Mask:
        if self.picture is None or self.picture.alpha is None:
            raise InvalidRequest(f"mask = {self.shown}: the picture has no transparent part")
        return np.float32(1) - self.picture.alpha.astype(np.float32) / np.float32(255)

    def keyed(self) -> Mask:
        key = colour(self.take(_COLOUR, "a colour")[1])
        tolerance = float(self.take(_NUMBER, "a tolerance")[1]) if self.mark(",") else 0.0
        if not 0 <= tolerance <= 255:
            raise self.wrong(f"the tolerance {tolerance:g} must lie between 0 and 255")
        if self.picture is None:
            raise InvalidRequest(f"mask = {self.shown}: there is no picture to find the colour in")
        away = np.zeros((self.height, self.width), np.int16)
        for channel, level in enumerate(key):
            away = np.maximum(away, np.abs(self.picture.pixels[..., channel].astype(np.int16) - level))
        return (away <= tolerance).astype(np.float32)
