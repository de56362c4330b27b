"""What a network predicts, told by a scheduler's settings, a marker or a bias: one rule for ``inspect`` and ``load``.

No torch is needed, unless the bias is packed.
"""

from __future__ import annotations

import struct
from collections.abc import Container, Mapping

from sfumato.weights.source import Source

PREDICTIONS = {"epsilon": "eps", "v_prediction": "v", "sample": "x0", "flow_prediction": "flow"}
"""What diffusers' settings call predictions, and their names here."""
EDM_MARKS = ("edm_vpred.sigma_min", "edm_vpred.sigma_max")
NORMAL_MARKS = ("edm_mean", "edm_std")
"""Mean and deviation of each channel of the latent in files whose network is preconditioned (Playground 2.5)."""
BY_SETTINGS = "scheduler_config.json"

V_BIAS = {
    "original": "output_blocks.11.1.transformer_blocks.0.norm1.bias",
    "diffusers": "up_blocks.3.attentions.2.transformer_blocks.0.norm1.bias",
}
"""The bias whose values are larger in networks of Stable Diffusion 2 that predict v (as ComfyUI found), by layout."""
V_SPREAD = 0.09
"""The standard deviation of V_BIAS above which the network predicts v."""


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
