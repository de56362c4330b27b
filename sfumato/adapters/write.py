"""Adapters to files: kohya's names or diffusers' and PEFT's, with what others want to know in the header.

Where a layout keeps in several tensors what an adapter says of one, or the reverse (queries, keys and values), updates
are cut by rows, or put together: with factors that are the same below in one product, otherwise block by block.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch
from torch import Tensor

from sfumato.adapters.formula import Difference, Dora, Formula, Loha, Lokr, Lora, Replacement
from sfumato.adapters.names import Network, Spot, split
from sfumato.adapters.place import Networks, Update, place
from sfumato.adapters.read import PEFT_CONFIG, PEFT_HEADER, Adapter, Layer
from sfumato.errors import InvalidRequest, OutputError, UnknownName, WeightsError
from sfumato.files import write_bytes
from sfumato.nn.unet import UNet
from sfumato.weights.save import save_tensors

LAYOUTS = ("kohya", "diffusers", "peft")
BASES = {
    "sd1": ("stable-diffusion-v1", "sd_v1"),
    "sd2": ("stable-diffusion-v2-512", "sd_v2"),
    "sdxl": ("stable-diffusion-xl-v1-base", "sdxl_base_v1-0"),
    "sd3": ("stable-diffusion-3", "sd3"),
    "flux": ("flux-1-dev", "flux1"),
    "chroma": ("chroma", "chroma"),
    "lumina2": ("lumina-2", "lumina2"),
}
"""A family's name in ModelSpec and in kohya's metadata."""
MASKED = "ss_apply_t5_attn_mask"
"""What trainers write of T5's padding, since not all mask it: "True" or "False"."""
PREDICTS = {"eps": "epsilon"}
"""ModelSpec's names of predictions, where they are others."""

_KOHYA = {"denoiser": "lora_unet_", "text": "lora_te1_", "text_2": "lora_te2_", "text_3": "lora_te3_"}


@dataclass(frozen=True, eq=False)
class _Named:
    """An update under its name in the file that will be written: component, module, kind of tensor, shape there."""

    prefix: str
    owner: str
    kind: str
    shape: tuple[int, ...]
    formula: Formula


def trained(
    updates: Mapping[str, Mapping[str, Formula]], metadata: Mapping[str, str] | None = None
) -> Adapter:
    """The adapter of formulas by place and by the name of our layer: ``{"denoiser": {"middle.look.enter": Lora}}``."""
    layers = [
        Layer(f"{where}.{name}", (where,), ((name,),), formula, keys=(f"{where}.{name}",))
        for where, own in updates.items()
        for name, formula in own.items()
    ]
    return Adapter(Path("trained"), "ours", tuple(layers), metadata or {})


def save_adapter(
    path: str | Path,
    adapter: Adapter,
    networks: Networks,
    layout: str,
    *,
    dtype: torch.dtype | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write ``adapter``, whose layers lie in ``networks``, to ``path`` in ``layout``; return the file.

    "kohya" names layers as kohya's scripts do for each family (LyCORIS' endings for its algorithms); "diffusers" as its
    pipelines load them; "peft" makes a folder with PEFT's settings, for one network. ``dtype`` converts all but alpha,
    by default tensors stay as they are, and are read back bit for bit. ``metadata`` are texts for the header.
    WeightsError for updates that the layout cannot say, OutputError if it cannot be written.
    """
    if layout not in LAYOUTS:
        raise UnknownName("layout of adapters", layout, LAYOUTS)
    placed = place(adapter, networks)
    touched = {update.place for update in placed.updates}
    if layout == "peft" and len(touched) > 1:
        raise InvalidRequest(
            f"the layout 'peft' is for one network, this adapter changes {', '.join(sorted(touched))}"
        )
    named: list[_Named] = []
    for where in networks:
        own = [update for update in placed.updates if update.place == where]
        column = _column(layout, where, networks[where])
        prefix = _prefix(layout, where, networks)
        for spot, formula in _moved(own, networks[where], column):
            owner, kind = split(spot.name)
            named.append(_Named(prefix, owner, kind, spot.shape, formula))
    tensors: dict[str, Tensor] = {}
    for each in named:
        tensors |= _tensors(each, layout, dtype)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    texts = {"format": "pt", **(metadata or {})}
    settings = {} if layout == "kohya" else _settings(named)
    if layout == "diffusers" and settings:
        flat = {f"{prefix}{key}": value for prefix, told in settings.items() for key, value in told.items()}
        texts[PEFT_HEADER] = json.dumps(flat, indent=2, sort_keys=True)
    texts["modelspec.hash_sha256"] = hash_of(tensors)
    if layout != "peft":
        return save_tensors(path, tensors, metadata=texts)
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {folder}: {error.strerror or error}") from error
    for told in settings.values():
        write_bytes(
            folder / PEFT_CONFIG, (json.dumps({"peft_type": "LORA", **told}, indent=2) + "\n").encode()
        )
    return save_tensors(folder / "adapter_model.safetensors", tensors, metadata=texts)


def metadata_for(
    adapter: Adapter,
    base: str,
    *,
    title: str,
    date: datetime | None = None,
    predicts: str | None = None,
    masked: bool | None = None,
    **more: str,
) -> dict[str, str]:
    """What others read in a header: ModelSpec 1.0.1, and kohya's ``ss_network_*``.

    ``base`` is a family of BASES, or the name that ModelSpec has for another architecture; ``predicts`` what its
    network predicts (eps, v, flow); ``masked`` whether T5's padding was masked in training, by default what the adapter
    says itself, if anything. ``more`` are further fields of ModelSpec: author, description,
    resolution, trigger_phrase, license, usage_hint, tags.
    """
    architecture, version = BASES.get(base, (base, base))
    ranks = Counter(
        f.rank for each in adapter.layers for f in each.formulas.values() if f.rank is not None
    ).most_common(1)
    alphas = Counter(
        f.rank if f.alpha is None else f.alpha
        for each in adapter.layers
        for f in each.formulas.values()
        if isinstance(f, Lora | Loha | Lokr)
    ).most_common(1)
    fields = {
        "sai_model_spec": "1.0.1",
        "architecture": f"{architecture}/lora",
        "implementation": "sfumato",
        "title": title,
        "date": (date or datetime.now(UTC)).isoformat(timespec="seconds"),
        **({} if predicts is None else {"prediction_type": PREDICTS.get(predicts, predicts)}),
        **more,
    }
    found = {f"modelspec.{name}": value for name, value in fields.items()}
    plain = all(name in ("lora", "locon") for name in adapter.algorithms)
    found |= {
        "ss_base_model_version": version,
        "ss_network_module": "networks.lora" if plain else "lycoris.kohya",
    }
    told = adapter.metadata.get(MASKED) if masked is None else str(masked)
    if told is not None:
        found[MASKED] = told
    if ranks:
        found["ss_network_dim"] = str(ranks[0][0])
    if alphas:
        found["ss_network_alpha"] = str(alphas[0][0])
    return found


def hash_of(tensors: Mapping[str, Tensor]) -> str:
    """ModelSpec's hash: sha256 of the tensors' bytes in the order of the file (save_tensors': wide values first)."""
    told = hashlib.sha256()
    for name in sorted(tensors, key=lambda name: -tensors[name].dtype.itemsize):
        told.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return f"0x{told.hexdigest()}"


def _column(layout: str, where: str, network: Network) -> str:
    """In which column of the key table a layout's names stand; ours where no published file has the network."""
    original = network.index.spots["original"]
    if not original and not network.index.spots["diffusers"]:
        return "ours"
    told_by_others = where != "denoiser" or not original
    module = network.module
    if layout != "kohya" or told_by_others or (isinstance(module, UNet) and not module.config.vector):
        return "diffusers"
    return "original"


def _prefix(layout: str, where: str, networks: Networks) -> str:
    """What stands before the layer's name."""
    texts = [name for name in networks if name.startswith("text")]
    if layout == "peft":
        return "base_model.model."
    if layout == "kohya":
        return "lora_te_" if texts == [where] == ["text"] else _KOHYA[where]
    if where == "denoiser":
        return "unet." if isinstance(networks[where].module, UNet) else "transformer."
    if where == "text_3" and "text_2" not in networks and "text" in networks:
        return "text_encoder_2."  # FLUX.1's second encoder is T5
    return {"text": "text_encoder.", "text_2": "text_encoder_2.", "text_3": "text_encoder_3."}[where]


def _rows(spot: Spot, starts: Mapping[str, int]) -> Tensor:
    """For each row of ``spot`` the number of ours: its row in our parameter, after where that ``starts``."""
    if spot.transposed:
        raise WeightsError(f"{spot.name} cannot be written: our matrix is its transpose, which no rows make")
    order = sorted(spot.runs, key=lambda run: run.first)
    return torch.cat([starts[run.name] + torch.arange(run.row, run.row + run.count) for run in order])


def _moved(updates: list[Update], network: Network, column: str) -> list[tuple[Spot, Formula]]:
    """The updates on the tensors of ``column``."""
    spots = [spot for spot in network.index.spots[column].values() if not spot.transposed]
    owners = dict.fromkeys(run.name for spot in (*spots, *(u.spot for u in updates)) for run in spot.runs)
    starts = {name: number << 32 for number, name in enumerate(owners)}
    targets: dict[str, dict[str, tuple[Spot, Tensor]]] = {}
    for spot in spots:
        rows = _rows(spot, starts)
        for run in spot.runs:
            targets.setdefault(run.name, {})[spot.name] = spot, rows
    found: list[tuple[Spot, Formula]] = []
    parts: dict[str, tuple[Spot, Tensor, list[tuple[Tensor, Formula]]]] = {}
    for update in updates:
        own = _rows(update.spot, starts)
        place_of = {int(row): number for number, row in enumerate(own)}
        told = 0
        near = {name: each for owner in update.names for name, each in targets.get(owner, {}).items()}
        for spot, rows in near.values():
            inside = [row for row in rows.tolist() if row in place_of]
            if not inside:
                continue
            if len(inside) == len(rows):
                taken = torch.tensor([place_of[row] for row in rows.tolist()])
                whole = len(taken) == len(own) and torch.equal(taken, torch.arange(len(own)))
                found.append((spot, update.formula if whole else _take(update, taken)))
            elif len(inside) == len(own):
                where = {row: number for number, row in enumerate(rows.tolist())}
                at = torch.tensor([where[row] for row in own.tolist()])
                parts.setdefault(spot.name, (spot, rows, []))[2].append((at, update.formula))
            else:
                continue
            told += len(inside)
        if told != len(own):
            raise WeightsError(f"{update.layer} cannot be written: {column} names have no tensor for it")
    return found + [(spot, _together(spot, len(rows), own)) for spot, rows, own in parts.values()]


def _take(update: Update, rows: Tensor) -> Formula:
    """The part of an update that belongs to one tensor."""
    try:
        return update.formula.take(rows)
    except ValueError as error:
        raise WeightsError(
            f"{update.layer} cannot be cut into the tensors of this layout: {error}"
        ) from error


def _together(spot: Spot, rows: int, parts: list[tuple[Tensor, Formula]]) -> Formula:
    """One update of ``spot``, which has ``rows`` rows, from updates of some of them."""
    first = parts[0][1]
    if all(isinstance(part, Difference) for _, part in parts):
        value = torch.zeros(spot.shape)
        for at, part in parts:
            value[at] = part.delta(value[at])
        return Difference(value)
    doras = [part for _, part in parts if isinstance(part, Dora)]
    loras = [part.inner if isinstance(part, Dora) else part for _, part in parts]
    thin = [part for part in loras if isinstance(part, Lora) and part.mid is None]
    covered = sum(len(at) for at, _ in parts) == rows
    mixed = doras and (len(doras) < len(parts) or not covered or any(part.axis for part in doras))
    if len(thin) < len(parts) or mixed:
        raise WeightsError(
            f"{spot.name} is one tensor in this layout, and several updates of {first.algorithm} are not one"
        )
    joined = _fused(rows, [at for at, _ in parts], thin)
    if not doras:
        return joined
    magnitude = torch.empty(rows, dtype=doras[0].magnitude.dtype)
    for (at, _), part in zip(parts, doras, strict=True):
        magnitude[at] = part.magnitude.flatten()
    return Dora(joined, magnitude)


def _fused(rows: int, places: list[Tensor], parts: list[Lora]) -> Lora:
    """Low-rank updates of different rows as one: over the same ``down`` if they share it, else block by block."""
    scales = {part.scale for part in parts}
    same = len(scales) == 1 and all(torch.equal(part.down, parts[0].down) for part in parts)
    ranks = [part.rank for part in parts]
    rank = ranks[0] if same else sum(ranks)
    up = torch.zeros(rows, rank, dtype=parts[0].up.dtype)
    begin = 0
    for at, part in zip(places, parts, strict=True):
        scale = 1.0 if len(scales) == 1 else part.scale
        up[at, begin : begin + part.rank] = part.up.flatten(1) * scale
        begin += 0 if same else part.rank
    down = parts[0].down if same else torch.cat([part.down.flatten(1) for part in parts])
    return Lora(down, up, alpha=parts[0].scale * rank if len(scales) == 1 else None)


def _tensors(each: _Named, layout: str, dtype: torch.dtype | None) -> dict[str, Tensor]:
    """The tensors of one update in a file."""
    owner = each.owner.replace(".", "_") if layout == "kohya" else each.owner
    base = f"{each.prefix}{owner}"
    formula, found = each.formula, dict[str, Tensor]()
    inner = formula.inner if isinstance(formula, Dora) else formula
    if isinstance(inner, Lora):
        down, up = (
            ("lora_down.weight", "lora_up.weight")
            if layout == "kohya"
            else ("lora_A.weight", "lora_B.weight")
        )
        if inner.mid is not None and layout != "kohya":
            raise WeightsError(f"{each.owner} has a kernel in Tucker's form, which PEFT does not have")
        found |= _formed(inner, each.shape, down, up)
    elif isinstance(inner, Loha):
        found |= {"hada_w1_a": inner.a1, "hada_w1_b": inner.b1, "hada_w2_a": inner.a2, "hada_w2_b": inner.b2}
        found |= {name: t for name, t in (("hada_t1", inner.t1), ("hada_t2", inner.t2)) if t is not None}
    elif isinstance(inner, Lokr):
        for number, factor in (("1", inner.first), ("2", inner.second)):
            names = [f"lokr_w{number}"] if len(factor) == 1 else [f"lokr_w{number}_a", f"lokr_w{number}_b"]
            found |= dict(zip([*names, f"lokr_t{number}"], factor, strict=False))
    elif isinstance(inner, Difference):
        found["diff" if each.kind == "weight" else "diff_b"] = inner.value
    elif isinstance(inner, Replacement) and each.kind == "weight":
        found["set_weight"] = inner.value
    else:
        raise WeightsError(f"{each.owner}: no layout has a name for {formula.algorithm} of a {each.kind}")
    if isinstance(formula, Dora):
        if layout != "kohya" and formula.axis:
            raise WeightsError(f"{each.owner} has magnitudes of inputs, PEFT has those of outputs alone")
        flat = [1] * (len(each.shape) - 2)
        if layout == "kohya":
            shape = (1, -1, *flat) if formula.axis else (-1, 1, *flat)
        else:
            shape = (1, -1, *flat) if flat else (-1,)
        name = "dora_scale" if layout == "kohya" else "lora_magnitude_vector"
        name += ".weight" if layout == "diffusers" else ""
        found[name] = formula.magnitude.reshape(shape)
    found = {name: tensor if dtype is None else tensor.to(dtype) for name, tensor in found.items()}
    if isinstance(inner, Lora | Loha | Lokr) and (layout == "kohya" or not isinstance(inner, Lora)):
        alpha = inner.alpha if inner.alpha is not None else inner.rank
        if alpha is not None:
            found["alpha"] = torch.tensor(float(alpha))
    return {f"{base}.{name}": tensor for name, tensor in found.items()}


def _formed(lora: Lora, shape: tuple[int, ...], down: str, up: str) -> dict[str, Tensor]:
    """The factors in the form that goes with a weight of ``shape``: matrices, or kernels of size 1."""
    flat = [1] * (len(shape) - 2)
    first = lora.down.flatten(1) if not flat else lora.down
    if flat and lora.mid is not None:
        first = lora.down.reshape(lora.rank, -1, *flat)
    elif flat:
        first = lora.down.reshape(lora.rank, *shape[1:])
    found = {down: first, up: lora.up.reshape(len(lora.up), -1, *flat)}
    return found if lora.mid is None else {**found, "lora_mid.weight": lora.mid}


def _settings(named: list[_Named]) -> dict[str, dict[str, object]]:
    """PEFT's settings by prefix: rank and alpha of most layers, and of those that differ."""
    found: dict[str, dict[str, object]] = {}
    for prefix in dict.fromkeys(each.prefix for each in named):
        loras: dict[str, tuple[int, float]] = {}
        doras = 0
        for each in named:
            inner = each.formula.inner if isinstance(each.formula, Dora) else each.formula
            if each.prefix == prefix and isinstance(inner, Lora):
                doras += isinstance(each.formula, Dora)
                loras[each.owner] = (inner.rank, float(inner.rank if inner.alpha is None else inner.alpha))
        if not loras:
            continue
        if doras not in (0, len(loras)):
            raise WeightsError(
                "PEFT has magnitudes for all layers or for none, this adapter has them for some"
            )
        rank = Counter(r for r, _ in loras.values()).most_common(1)[0][0]
        alpha = Counter(a for _, a in loras.values()).most_common(1)[0][0]
        found[prefix] = {
            "r": rank,
            "lora_alpha": alpha,
            "rank_pattern": {f"^{name}": r for name, (r, _) in loras.items() if r != rank},
            "alpha_pattern": {f"^{name}": a for name, (_, a) in loras.items() if a != alpha},
            "target_modules": sorted(loras),
            "use_dora": bool(doras),
        }
    return found
