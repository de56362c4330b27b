"""A module filled from a source: built without memory, checked by shapes, each value converted as it is read."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from sfumato.errors import WeightsError
from sfumato.weights.keys import KeyTable
from sfumato.weights.links import Link, Shape, links, pieces, prove
from sfumato.weights.quantized import Packed, block_of
from sfumato.weights.reading import read_raw, read_scale
from sfumato.weights.source import Source

MOST_THREADS = 4  # more only wait for memory
FILLS = {getattr(Tensor, name) for name in ("normal_", "uniform_", "fill_", "zero_", "erfinv_")}

M = TypeVar("M", bound=nn.Module)
Policy = torch.dtype | Callable[[str, torch.dtype], torch.dtype] | None


class Layers(Protocol):
    """Makes layers that keep their weights as a file has them (``nn.quantized.quantized``)."""

    def __call__(
        self, layer: nn.Module, parameter: str, read: Callable[[], Sequence[Packed]], dtype: torch.dtype
    ) -> nn.Module | None:
        """The layer in the place of ``layer`` (of the meta device), or None to have its ``parameter`` unpacked.

        ``read`` gives what is packed: rows that follow each other. ``dtype`` is that of the values.
        """
        ...


class Unfilled(TorchFunctionMode):
    """Leaves tensors of the meta device as they are, which have no values to be initialised.

    Not only to save time: torch's ``normal_`` for that device imports a compiler and symbolic algebra, which takes
    seconds, so that a module with one embedding would take longer to build than to load.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call ``func`` unless it would fill a meta tensor."""
        options = kwargs or {}
        if func in FILLS or getattr(func, "__module__", None) == "torch.nn.init":
            target = args[0] if args else options.get("tensor")
            if isinstance(target, Tensor) and target.is_meta:
                return target
        return func(*args, **options)


def hollow(make: Callable[[], M]) -> M:
    """The module that ``make`` builds without memory for its weights: to ask it for names, shapes and settings."""
    with torch.device("meta"), Unfilled():
        return make()


def load_into(
    make: Callable[[], M],
    source: Source,
    table: KeyTable,
    layout: str,
    *,
    dtype: Policy = None,
    keep_float32: Iterable[str] = (),
    device: str | torch.device = "cpu",
    finite: bool = False,
    packed: Layers | None = None,
) -> M:
    """The module that ``make`` builds, with the weights of ``source`` in ``layout``, ready to compute.

    ``make`` runs under torch's meta device, so that the module has no memory until it is filled; tables that are
    no weights (buffers with ``persistent=False``) must be built with ``device="cpu"`` there. ``dtype`` is what
    floating-point weights become: one for all, a function of (our name, dtype in the file), or None to keep the
    file's; names that match a pattern of ``keep_float32`` become float32. Other tensors keep the module's dtype.
    With ``finite``, NaN and infinity are refused. With ``packed``, matrices that take fewer bytes in the file than
    in their dtype stay as they are there, in layers that it makes. The result is in evaluation mode and takes no
    gradients.

    Raises WeightsError unless every key of the file is used once, every parameter filled once, and every shape is
    as expected. Besides the weights in their new dtype, a few megabytes are held.
    """
    with torch.inference_mode(False), torch.no_grad():
        with torch.device("meta"), Unfilled():
            module = make()
        owners = _owners(module)
        targets = {names[0]: tensor for names, tensor in owners}
        found = links(table, layout, targets)
        prove(table, layout, found, source.entries.keys())
        check_shapes(found, {name: tuple(tensor.shape) for name, tensor in targets.items()}, source)
        patterns = tuple(keep_float32)
        filled: dict[str, Tensor] = {}
        for link in found:
            stored = joined_dtype([source[name].torch_dtype for name in link.theirs])
            wide = {name: _dtype(name, targets[name], stored, dtype, patterns) for name in link.ours}
            if packed is not None and _keep(module, link, targets, source, wide, packed):
                continue
            for name, wanted in wide.items():
                filled[name] = torch.empty(targets[name].shape, dtype=wanted, device=device)
        jobs = [(link, [filled[name] for name in link.ours]) for link in found if link.ours[0] in filled]
        _fill_all(jobs, source, finite)
        _assign(module, [(names, tensor) for names, tensor in owners if names[0] in filled], filled)
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            if tensor.is_meta:
                raise WeightsError(
                    f"{name} is in no file and was left without values: build it with device='cpu'"
                )
        return module.to(device=device).eval().requires_grad_(False)


def _fill_all(jobs: Sequence[tuple[Link, Sequence[Tensor]]], source: Source, finite: bool) -> None:
    """Fill the tensors of every link, several at once where they lie in this machine's memory.

    Each thread converts alone: torch's own threads would meet after every piece, which costs more than it gains.
    """
    threads = torch.get_num_threads()
    here = all(tensor.device.type == "cpu" for _, tensors in jobs for tensor in tensors)
    torch.set_num_threads(1)  # for this thread and those that begin now, not for others
    try:
        with ThreadPoolExecutor(min(threads, MOST_THREADS) if here else 1) as pool:
            tasks = [pool.submit(fill, link, tensors, source, finite=finite) for link, tensors in jobs]
            try:
                for task in tasks:
                    task.result()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    finally:
        torch.set_num_threads(threads)


def _keep(
    module: nn.Module,
    link: Link,
    targets: dict[str, Tensor],
    source: Source,
    wide: dict[str, torch.dtype],
    packed: Layers,
) -> bool:
    """Put layers with packed weights into ``module`` for the parameter of ``link``; False to have it unpacked."""
    name = link.ours[0]
    target = targets[name]
    shapes = link.their_shapes([tuple(target.shape)]) if len(link.ours) == 1 else ()
    rows = target.ndim == 2 and not link.transposed and target.numel() > 0
    held = sum(source[each].bytes for each in link.theirs)
    if not shapes or not rows or held >= target.numel() * wide[name].itemsize:
        return False
    inner = target.shape[1]
    if any(inner % block_of(source[each].dtype)[0] for each in link.theirs):
        return False  # blocks run over the ends of rows, as in kernels that were flattened

    def read() -> list[Packed]:
        sizes = [source[each].values for each in link.theirs]
        parts = sorted(pieces(link, [target.numel()], sizes), key=lambda piece: piece[3])
        return [
            _packed_rows(link.theirs[which], source, first // inner, count // inner, inner)
            for which, first, _, _, count in parts
        ]

    place, _, parameter = name.rpartition(".")
    made = packed(module.get_submodule(place), parameter, read, wide[name]) if place else None
    if made is None:
        return False
    module.set_submodule(place, made)
    return True


def _packed_rows(name: str, source: Source, first: int, count: int, inner: int) -> Packed:
    """``count`` rows of ``inner`` values of the tensor ``name`` as they are in the file, from the row ``first`` on."""
    entry = source[name]
    values, size = block_of(entry.dtype)
    width = inner // values * size
    raw = torch.empty(count, width, dtype=torch.uint8)
    read_raw(name, entry, raw, first=first * width)
    scale = read_scale(name, entry)
    return Packed(
        entry.dtype, raw, scale if scale is None or len(scale) == 1 else scale[first : first + count]
    )


def check_shapes(found: Iterable[Link], shapes: dict[str, Shape], source: Source) -> None:
    """Raise WeightsError, with the first ten, unless the tensors of ``source`` have the shapes that ours ask for."""
    faults = []
    for link in found:
        wanted = link.their_shapes([shapes[name] for name in link.ours])
        for name, shape in zip(link.theirs, wanted, strict=True):
            if source[name].shape != shape:
                faults.append(
                    f"{name} has {list(source[name].shape)}, wanted {list(shape)} for {link.ours[0]}"
                )
    if faults:
        more = f"; and {len(faults) - 10:,} more" if len(faults) > 10 else ""
        raise WeightsError(f"the weights {source.path} have other shapes: {'; '.join(faults[:10])}{more}")


def fill(link: Link, tensors: Sequence[Tensor], source: Source, *, finite: bool = False) -> None:
    """Read the values of ``link`` into ``tensors``, our parameters in its order (contiguous, any dtype)."""
    if link.transposed and tensors[0].ndim == 2:
        name = link.theirs[0]
        whole = torch.empty(source[name].shape, dtype=tensors[0].dtype, device=tensors[0].device)
        source.read_into(name, whole, finite=finite)
        tensors[0].copy_(whole.T)
        return
    if link.turns:
        name = link.theirs[0]
        whole = torch.empty(source[name].shape, dtype=tensors[0].dtype, device=tensors[0].device)
        source.read_into(name, whole, finite=finite)
        turns = whole.view(link.column.rounds, len(tensors), -1)
        for tensor, values in zip(tensors, turns.unbind(1), strict=True):
            tensor.view(link.column.rounds, -1).copy_(values)
        return
    flat = [tensor.view(-1) for tensor in tensors]
    sizes = [source[name].values for name in link.theirs]
    for which, first, mine, at, count in pieces(link, [len(each) for each in flat], sizes):
        source.read_into(link.theirs[which], flat[mine][at : at + count], first=first, finite=finite)


def _owners(module: nn.Module) -> list[tuple[list[str], Tensor]]:
    """Every tensor of the module's state with its names; one that is shared has several."""
    owners: dict[int, tuple[list[str], Tensor]] = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        owners.setdefault(id(tensor), ([], tensor))[0].append(name)
    return list(owners.values())


def joined_dtype(dtypes: Sequence[torch.dtype]) -> torch.dtype:
    """The dtype that holds all values of tensors of ``dtypes``, which become one."""
    if len(set(dtypes)) == 1:
        return dtypes[0]
    widened = (
        torch.float32 if dtype.is_floating_point and dtype.itemsize == 1 else dtype for dtype in dtypes
    )
    return functools.reduce(torch.promote_types, widened)


def _dtype(
    name: str, target: Tensor, stored: torch.dtype, policy: Policy, keep: Sequence[str]
) -> torch.dtype:
    """The dtype that our tensor ``name`` gets."""
    if not target.is_floating_point():
        if stored.is_floating_point or stored.is_complex:
            raise WeightsError(f"{name} is of whole numbers ({target.dtype}), the file has {stored}")
        return target.dtype
    if any(fnmatchcase(name, pattern) for pattern in keep):
        return torch.float32
    wanted = policy if isinstance(policy, torch.dtype) else policy(name, stored) if policy else stored
    if not wanted.is_floating_point or not stored.is_floating_point:
        raise WeightsError(f"{name} is of real numbers, the file has {stored}, and it should become {wanted}")
    return wanted


def _assign(module: nn.Module, owners: list[tuple[list[str], Tensor]], filled: dict[str, Tensor]) -> None:
    """Put the filled tensors in the place of the empty ones; shared ones stay shared."""
    state: dict[str, Tensor] = {}
    for names, old in owners:
        new = filled[names[0]]
        state |= dict.fromkeys(names, nn.Parameter(new, False) if isinstance(old, nn.Parameter) else new)
    module.load_state_dict(state, strict=True, assign=True)
