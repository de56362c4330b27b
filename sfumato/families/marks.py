"""What a network predicts, told by a scheduler's settings, a marker or a bias: one rule for ``inspect`` and ``load``.

No torch is needed, unless the bias is packed.
"""

from __future__ import annotations

import struct
from collections.abc import Container, Mapping
from typing import Any

from sfumato.weights.source import Source

PREDICTIONS = {"epsilon": "eps", "v_prediction": "v", "sample": "x0", "flow_prediction": "flow"}
"""What diffusers' settings call predictions, and their names here."""
EDM_MARKS = ("edm_vpred.sigma_min", "edm_vpred.sigma_max")
NORMAL_MARKS = ("edm_mean", "edm_std")
"""Mean and deviation of each channel of the latent in files whose network is preconditioned (Playground 2.5)."""
EDM_DATA = {"v": 1.0, "edm": 0.5}
"""What networks of EDM's process predict, and the deviation of the data that they were made for."""
EDM_RANGE = (0.002, 80.0)
"""The least and the greatest sigma of Playground 2.5."""
EDM_LEVELS = (0.002, 120.0)
"""The least and the greatest sigma of CosXL, where a file marks but one."""
BY_SETTINGS = "scheduler_config.json"

V_BIAS = {
    "original": "output_blocks.11.1.transformer_blocks.0.norm1.bias",
    "diffusers": "up_blocks.3.attentions.2.transformer_blocks.0.norm1.bias",
}
"""The bias whose values are larger in networks of Stable Diffusion 2 that predict v (as ComfyUI found), by layout."""
V_SPREAD = 0.09
"""The standard deviation of V_BIAS above which the network predicts v."""


def says_turbo(source: Source) -> bool:
    """Whether a Z-Image is the Turbo: its folder's shift is 3, where the base's is 6, or it is called so.

    (Their networks have the same shapes; the folders of fine-tunes keep the settings of what they were made from.)
    """
    scheduler = source.parts.get("scheduler")
    shift = scheduler.config.get("shift") if scheduler else None
    return shift <= 3 if isinstance(shift, int | float) else "turbo" in source.path.name.lower()


def prediction_of(
    family: str,
    usual: str,
    settings: Mapping[str, object],
    names: Container[str],
    denoiser: Source,
    layout: str,
) -> tuple[str, str]:
    """What a network predicts, and how that is known.

    ``usual`` is what networks of ``family`` predict, ``settings`` are the scheduler's (empty without a folder),
    ``names`` the checkpoint's tensors, markers among them. ``denoiser`` has the names of ``layout``. A
    ``prediction_type`` that is not in PREDICTIONS comes back as it is.
    """
    told = settings.get("prediction_type")
    if told and usual != "flow":
        if told == "epsilon" and str(settings.get("_class_name", "")).startswith("EDM"):
            return "edm", BY_SETTINGS  # which is what these schedulers mean by it
        return PREDICTIONS.get(str(told), str(told)), BY_SETTINGS
    if "v_pred" in names:
        more = " and ztsnr: the noisiest level is pure noise" if "ztsnr" in names else ""
        return "v", f"marker v_pred{more}"
    if EDM_MARKS[1] in names:
        return "v", f"marker {EDM_MARKS[1]}: levels as Karras et al. 2022 set them"
    if NORMAL_MARKS[0] in names:
        return "edm", "markers edm_mean and edm_std: preconditioned as Karras et al. 2022 do"
    bias = V_BIAS.get(layout, "")
    if family == "sd2" and bias in denoiser.entries:
        spread = deviation(denoiser, bias)
        sign = "above" if spread > V_SPREAD else "not above"
        return "v" if spread > V_SPREAD else "eps", (
            f"no key says it; the deviation of {bias} is {spread:.3f}, {sign} {V_SPREAD}"
        )
    return usual, "the family's"


def levels_of(source: Source) -> tuple[float, float] | None:
    """The least and the greatest sigma of a single file that is marked as of EDM's process; None for others."""
    if NORMAL_MARKS[0] in source.entries:
        return EDM_RANGE
    if EDM_MARKS[1] not in source.entries:
        return None
    low, high = (
        float(source.read(name)) if name in source.entries else usual
        for name, usual in zip(EDM_MARKS, EDM_LEVELS, strict=True)
    )
    return low, high


def marks_of(scheduler: Mapping[str, Any], vae: Mapping[str, Any]) -> dict[str, list[float]]:
    """The marks of EDM's process that a single file needs to say what a folder's settings do; none for others."""
    if not str(scheduler.get("_class_name", "")).startswith("EDM"):
        return {}
    if scheduler.get("prediction_type") == "v_prediction":
        told = (scheduler.get("sigma_min", EDM_RANGE[0]), scheduler.get("sigma_max", EDM_RANGE[1]))
        return {name: [float(value)] for name, value in zip(EDM_MARKS, told, strict=True)}
    laws = (vae.get("latents_mean"), vae.get("latents_std"))
    return {name: list(law) for name, law in zip(NORMAL_MARKS, laws, strict=True) if law is not None}


def deviation(source: Source, name: str) -> float:
    """The standard deviation of the values of the tensor ``name``; 0 for fewer than two values."""
    entry = source[name]
    form = {"F16": "e", "F32": "f", "F64": "d", "BF16": "f"}.get(entry.dtype)
    if entry.quantized or form is None:
        return float(source.read(name).double().std()) if entry.values > 1 else 0.0
    with open(entry.file.path, "rb") as file:
        file.seek(entry.start)
        data = file.read(entry.bytes)
    if entry.dtype == "BF16":  # the upper halves of float32
        data = b"".join(b"\0\0" + data[i : i + 2] for i in range(0, len(data), 2))
    values = struct.unpack(f"<{len(data) // struct.calcsize(form)}{form}", data)
    mean = sum(values) / max(1, len(values))
    return float((sum((v - mean) ** 2 for v in values) / max(1, len(values) - 1)) ** 0.5)
