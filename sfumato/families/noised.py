"""Classifiers of noisy pictures in guided-diffusion's files: read, and as what classifier guidance asks for.

Dhariwal & Nichol 2021, section 4; ``64x64_classifier.pt`` and its kin. ::

    judge = load_classifier("256x256_classifier.pt", allow_pickle=True)
    guided = sfumato.guidance.classifier(denoise, judge.log_prob(207), scale=10.0)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sfumato.errors import InvalidRequest, WeightsError
from sfumato.families.checkpoint import open_checkpoint
from sfumato.nn.noised import ClassifierConfig, PixelClassifier
from sfumato.process.level import Level
from sfumato.weights.load import load_into
from sfumato.weights.source import open_source


@dataclass(frozen=True, eq=False)
class Classifier:
    """A classifier of noisy pictures, for models on the schedule that it was trained on, whose times are indices."""

    network: PixelClassifier
    config: ClassifierConfig

    def logits(self, x: Tensor, at: Level) -> Tensor:
        """The logits (B, classes) of noisy rows ``x`` (B, 3, side, side) at a level; InvalidRequest for other sizes."""
        config = self.config
        if tuple(x.shape[1:]) != (config.inner, config.side, config.side):
            raise InvalidRequest(
                f"this classifier reads pictures of {config.inner} x {config.side} x {config.side} values, not "
                f"{' x '.join(map(str, x.shape[1:]))}"
            )
        weight = next(self.network.parameters())
        clock = torch.as_tensor(at.t, dtype=torch.float64).expand(len(x)).to(weight.device)
        out: Tensor = self.network(x.to(weight.device, weight.dtype), clock)
        return out.to(x.device, x.dtype)

    def log_prob(self, label: int) -> Callable[[Tensor, Level], Tensor]:
        """log p(label | x) of noisy rows at a level, (B,): guidance.LogProb. InvalidRequest for no class of these."""
        if not 0 <= label < self.config.outer:
            raise InvalidRequest(f"label = {label} is no class: allowed are 0 to {self.config.outer - 1}")
        return lambda x, at: self.logits(x, at).log_softmax(-1)[:, label]


def load_classifier(
    path: str | Path,
    *,
    allow_pickle: bool = False,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> Classifier:
    """The classifier in the file ``path``, a pickle (with ``allow_pickle``) or safetensors of the same names.

    WeightsError if it holds anything else.
    """
    with open_source(path, allow_pickle=allow_pickle) as source:
        parts = open_checkpoint(source).parts
        if "classifier" not in parts:
            raise WeightsError(
                f"{path} is no classifier of noisy pictures; it holds {', '.join(part.kind for part in parts.values())}"
            )
        part = parts["classifier"]
        network = load_into(part.make, part.source, part.table, part.layout, dtype=dtype, device=device)
    assert isinstance(network, PixelClassifier)
    return Classifier(network, part.config)
