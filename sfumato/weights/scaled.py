"""Files of 8-bit floats with scales: a weight is what is stored, times the scale that stands beside it.

For a weight ``<layer>.weight`` the scale is called ``<layer>.scale_weight`` (files with a marker ``scaled_fp8``) or
``<layer>.weight_scale`` (files with ``<layer>.comfy_quant``, and those of other quantizers); it is one number, or one
for each row. ``scale_input`` and ``input_scale`` are for products of 8-bit numbers on devices that have them: the
products here are of the wider dtype, so they are not read. Files of 8-bit floats without scales need none of this.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from sfumato.errors import WeightsError
from sfumato.weights.header import Entry, short

SCALES = ("scale_weight", "weight_scale")
INPUTS = ("scale_input", "input_scale")
MARKERS = ("scaled_fp8", "comfy_quant")
OTHERS = ("weight_scale_2", "weight_scale_inv", "weight_scale_1", "weight_zero_point")
FLOATS = ("F64", "F32", "F16", "BF16")
STORED = ("F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ", *FLOATS)


def folded(entries: Mapping[str, Entry]) -> tuple[dict[str, Entry], tuple[str, ...]]:
    """``entries`` with scales in the entries of their weights, without markers; and notes on what is not used.

    Raises WeightsError for a scale that is none of one number or of one for each row, or a way of quantizing that is
    not read (block scales, 4-bit floats, integers).
    """
    if not any(_last(name) in (*SCALES, *INPUTS, *MARKERS, *OTHERS) for name in entries):
        return dict(entries), ()
    kept = dict(entries)
    inputs = 0
    for name, entry in entries.items():
        last = _last(name)
        owner = f"{name.removesuffix(last)}weight"
        if last == "scaled_fp8":
            del kept[name]
        elif owner not in entries:
            continue  # some network's own tensor, which its table knows or refuses
        elif last in OTHERS or (last == "comfy_quant" and entries[owner].dtype not in STORED):
            raise WeightsError(
                f"{entry.file.path} is quantized in a way that is not read: {short(name)} stands beside "
                f"{entries[owner].dtype}; 8-bit floats with one scale, or one for each row, are"
            )
        elif last in SCALES:
            kept[owner] = _scaled(owner, kept[owner], name, entry)
            del kept[name]
        elif last in (*INPUTS, *MARKERS):
            inputs += last in INPUTS
            del kept[name]
    notes = (f"{inputs:,} scales of inputs are not used: products are not of 8-bit numbers here",)
    return kept, notes if inputs else ()


def _scaled(owner: str, weight: Entry, name: str, scale: Entry) -> Entry:
    """``weight`` with its ``scale``."""
    rows = weight.shape[0] if weight.shape else 1
    fits = scale.values == 1 or scale.shape in ((rows,), (rows, *[1] * (len(weight.shape) - 1)))
    if weight.scale is not None or weight.dtype not in STORED or scale.dtype not in FLOATS or not fits:
        raise WeightsError(
            f"{scale.file.path} is quantized in a way that is not read: {short(name)} {list(scale.shape)} of "
            f"{scale.dtype} for {short(owner)} {list(weight.shape)} of {weight.dtype}"
        )
    return replace(weight, scale=scale)


def _last(name: str) -> str:
    return name.rpartition(".")[2]
