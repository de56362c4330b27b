"""The options of ways of guidance, by name: what each does and the values that it may have."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Option:
    """An option of a way of guidance: what it does and the values that it may have, numbers unless ``words`` say."""

    does: str
    least: float = 0.0
    most: float = float("inf")
    words: str = ""

    @property
    def values(self) -> str:
        """The values in words."""
        upward = (
            f"{self.least:g} and above" if self.most == float("inf") else f"{self.least:g} to {self.most:g}"
        )
        return self.words or upward


OPTIONS: dict[str, Option] = {
    "blur": Option("the deviation of the blur in places; from 9999 on every query is the mean", 0.01),
    "bound": Option(
        "the largest value that x0 should have, for `threshold`: 1 for pixels", 1e-6, float("inf")
    ),
    "eta": Option("how much of the guidance along the picture is kept; 1 is all", -100, 100),
    "grow": Option("1, or 0 to leave patches as they are that are shorter than `keep` would have them", 0, 1),
    "hi": Option("guidance up to this noise, sigma / hypot(alpha, sigma)", 0, 1),
    "keep": Option(
        "patches of so many places a side keep the length of the prompt's own output; 0 is off (Qwen-Image: 2)",
        0,
        16,
    ),
    "layers": Option(
        "the attention layers that are changed, counted from 0 in the network's order",
        words="all, middle, another part's name (down, up, double ...), a number or a list such as [7, 8, 9]",
    ),
    "lo": Option("guidance from this noise on, sigma / hypot(alpha, sigma)", 0, 1),
    "momentum": Option("how much of the guidance before is added; 0 is off", -0.999, 0.999),
    "norm": Option("the greatest length of a picture's guidance; 0 is no limit", 0, float("inf")),
    "rescale": Option("how far the deviation of the output is brought back; 0 is off (0.7 is usual)", 0, 1),
    "scale": Option("how far away from the perturbed network; 0 is off", 0, 100),
    "start": Option("the perturbed network is asked from this part of the steps on", 0, 1),
    "stop": Option("the perturbed network is asked up to this part of the steps", 0, 1),
    "threshold": Option("dynamic thresholding at this quantile of x0; 0 is off (0.995 is usual)", 0, 1),
    "zero": Option("how many steps stand still at first; 0 is off", 0, 1000),
}
"""The options of all ways of guidance, by name."""
