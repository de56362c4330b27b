"""The manner of a call: nothing where it is absent, invariants of every way, packed networks, and diffusers' hooks."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sfumato.errors import InvalidRequest
from sfumato.manner import Manner, chosen
from sfumato.nn.adm import PixelConfig, PixelUNet
from sfumato.nn.attend import attend
from sfumato.nn.chroma import Chroma, ChromaConfig
from sfumato.nn.dit import DiT, DiTConfig
from sfumato.nn.flux import Flux, FluxConfig
from sfumato.nn.lumina import Lumina, LuminaConfig
from sfumato.nn.mmdit import MMDiT, MMDiTConfig
from sfumato.nn.pack import pack
from sfumato.nn.sana import Sana, SanaConfig
from sfumato.nn.sincos import SincosConfig, SincosDiT
from sfumato.nn.told import Place, Told
from sfumato.nn.unet import UNet, UNetConfig
from sfumato.nn.zimage import ZImage, ZImageConfig

F64 = torch.float64
ALL = frozenset(range(8))


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def redrawn(net: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    for _, parameter in sorted(net.named_parameters()):
        draw = torch.randn(parameter.shape, generator=generator)
        wide = parameter.ndim > 1 and parameter.shape[0] > 1
        parameter.data = draw * parameter[0].numel() ** -0.5 if wide else 0.5 + 0.3 * draw
    return net.double().eval()


NETS: dict[str, tuple[Any, dict[str, Any], int]] = {
    "unet": (
        lambda: UNet(UNetConfig(inner=4, outer=4, widths=(8, 16), blocks=1, attention=("none", "text"),
                                middle="text", head=8, tokens=12, vector=6, groups=4, depth=(1, 2))),
        {"tokens": drawn(2, 5, 12, seed=2), "vector": drawn(2, 6, seed=3)},
        4,
    ),
    "pixels": (
        lambda: UNet(UNetConfig(inner=3, outer=3, widths=(8, 16), blocks=1, attention=("self", "self"),
                                head=8, groups=4, scale_shift=True)),
        {},
        3,
    ),
    "adm": (
        lambda: PixelUNet(PixelConfig(inner=3, outer=3, widths=(8, 16, 16), blocks=1, head=8, groups=4,
                                      attention=(False, True, True), middle_groups=4, halve=(True, False),
                                      double=(False, True), scale_shift=True)),
        {},
        3,
    ),
    "dit": (
        lambda: DiT(DiTConfig(inner=4, outer=4, width=32, depth=3, heads=2, tokens=12, features=16)),
        {"tokens": drawn(2, 5, 12, seed=2)},
        4,
    ),
    "sincos": (
        lambda: SincosDiT(SincosConfig(depth=3, width=32, heads=2, channels=4, outer=4, tokens=12, single=True,
                                       extent=8.0)),
        {"tokens": drawn(2, 5, 12, seed=2)},
        4,
    ),
    "sana": (
        lambda: Sana(SanaConfig(depth=3, width=32, heads=2, text_heads=4, channels=4, outer=4, hidden=40, tokens=12,
                                norm=True)),
        {"tokens": drawn(2, 5, 12, seed=2)},
        4,
    ),
    "mmdit": (
        lambda: MMDiT(MMDiTConfig(depth=3, width=24, heads=3, channels=4, outer=4, tokens=12, vector=6, side=8,
                                  norm=True, dual=1)),
        {"tokens": drawn(2, 5, 12, seed=2), "vector": drawn(2, 6, seed=3)},
        4,
    ),
    "chroma": (
        lambda: Chroma(ChromaConfig(double=2, single=2, width=32, heads=2, channels=4, outer=4, tokens=12,
                                    axes=(4, 6, 6), features=32, hidden=16, layers=1)),
        {"tokens": drawn(2, 5, 12, seed=2)},
        4,
    ),
    "lumina": (
        lambda: Lumina(LuminaConfig(depth=2, refiners=1, width=48, heads=4, groups=2, channels=4, outer=4, tokens=12,
                                    hidden=32, axes=(4, 4, 4))),
        {"tokens": drawn(2, 5, 12, seed=2)},
        4,
    ),
    "zimage": (
        lambda: ZImage(ZImageConfig(depth=2, refiners=1, width=48, heads=4, channels=4, tokens=12, hidden=32,
                                    steer=16, clock=8, axes=(4, 4, 4))),
        {"tokens": drawn(2, 5, 12, seed=2)},
        4,
    ),
    "flux": (
        lambda: Flux(FluxConfig(double=2, single=2, width=32, heads=2, channels=4, outer=4, tokens=12, vector=6,
                                axes=(4, 6, 6))),
        {"tokens": drawn(2, 5, 12, seed=2), "vector": drawn(2, 6, seed=3), "guidance": torch.ones(2, dtype=F64)},
        4,
    ),
}  # fmt: skip
"""Networks of every kind, conditions for two rows, channels of x."""

JOINT = ("mmdit", "flux", "chroma", "lumina", "zimage")
"""Networks whose text and picture are one row."""
CLOCK = torch.tensor([300.0, 720.0], dtype=F64)


@pytest.fixture(params=NETS, scope="module")
def case(request: pytest.FixtureRequest) -> tuple[str, Any, Tensor, dict[str, Tensor]]:
    make, doors, channels = NETS[request.param]
    return request.param, redrawn(make()), drawn(2, channels, 8, 12, seed=5), doors


def far(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


@torch.inference_mode()
def test_a_manner_that_says_nothing_changes_nothing(case: Any) -> None:
    name, net, x, doors = case
    plain = net(x, CLOCK, **doors)
    told = net(x, CLOCK, **doors, manner=Manner())
    assert torch.equal(plain, told) if name not in JOINT else far(told, plain) < 1e-12
    assert len(net.attention_layers) >= 3


@torch.inference_mode()
def test_without_a_manner_nothing_of_it_is_even_asked(case: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _, net, x, doors = case
    plain = net(x, CLOCK, **doors)

    def asked(*given: Any, **more: Any) -> None:
        raise AssertionError("something was told")

    for name in ("blurred", "aligned", "look", "seen", "skipped"):
        monkeypatch.setattr(Place, name, asked)
    monkeypatch.setattr(Told, "__init__", asked)
    assert torch.equal(net(x, CLOCK, **doors), plain)


@torch.inference_mode()
def test_every_way_acts_in_each_of_its_layers_and_in_no_other(case: Any) -> None:
    _, net, x, doors = case
    plain = net(x, CLOCK, **doors)
    for way in ("identity", "smooth", "skip"):
        outs = [plain]
        for number in range(len(net.attention_layers)):
            outs.append(net(x, CLOCK, **doors, manner=Manner(**{way: frozenset({number})})))
        for i, a in enumerate(outs):
            for b in outs[:i]:
                assert far(a, b) > 1e-6
        none = Manner(**{way: frozenset({len(net.attention_layers)})})
        assert far(net(x, CLOCK, **doors, manner=none), plain) < 1e-12


@torch.inference_mode()
def test_rows_do_not_touch_each_other(case: Any) -> None:
    _, net, x, doors = case
    regions = (drawn(2, 2, 8, 12, seed=7) > 0).double()
    owner = torch.tensor([[0, 0, 0, 1, 1]] * 2)
    for manner in (Manner(identity=ALL), Manner(smooth=ALL, blur=1.0), Manner(skip=frozenset({1}))):
        more = {"regions": regions, "owner": owner} if "tokens" in doors else {}
        whole = net(x, CLOCK, **doors, **more, manner=manner)
        for i in range(2):
            one = {k: v[i : i + 1] for k, v in {**doors, **more}.items()}
            assert far(net(x[i : i + 1], CLOCK[i : i + 1], **one, manner=manner), whole[i : i + 1]) < 1e-12


@torch.inference_mode()
def test_a_blur_of_next_to_nothing_is_none_and_of_one_place_is_the_mean(case: Any) -> None:
    _, net, x, doors = case
    plain = net(x, CLOCK, **doors)
    assert far(net(x, CLOCK, **doors, manner=Manner(smooth=ALL, blur=0.05)), plain) < 1e-9
    told = Told(Manner(smooth=ALL, blur=1e6))
    query = drawn(2, 3 + 12 + 4, 6)
    blurred = Place(told, 0, (3, 4)).blurred(query, 3)
    assert torch.equal(blurred[:, :3], query[:, :3])
    assert torch.equal(blurred[:, 15:], query[:, 15:])
    torch.testing.assert_close(blurred[:, 3:15], query[:, 3:15].mean(1, keepdim=True).expand(-1, 12, -1))


@torch.inference_mode()
def test_a_reference_that_is_x_itself_is_seen_and_changes_nothing(case: Any) -> None:
    """Each key twice with the same value is the same average; equal statistics are no alignment. Weight 0 is off.

    Where text is in the same row of keys it counts for less if the picture counts twice, unless the reference takes the
    place of the picture's own.
    """
    name, net, x, doors = case
    twice = {k: torch.cat((v, v)) for k, v in doors.items()}
    plain = net(x, CLOCK, **doors)
    both, clock = torch.cat((x, x)), torch.cat((CLOCK, CLOCK))
    for manner in (Manner(share=ALL, own=False), Manner(share=ALL), Manner(share=ALL, weight=0.3)):
        same = far(net(both, clock, **twice, manner=manner)[:2], plain) < 1e-10
        assert same == (name not in JOINT or not manner.own)
    other = torch.cat((x, drawn(*x.shape, seed=9)))
    off = net(other, clock, **twice, manner=Manner(share=ALL, weight=0.0, align=False))
    assert far(off[:2], plain) < 1e-10
    shared = net(other, clock, **twice, manner=Manner(share=ALL))
    assert far(shared[:2], plain) > 1e-3
    assert far(shared[2:], net(other[2:], CLOCK, **doors)) < 1e-10, "the reference is walked as it is"


@torch.inference_mode()
def test_each_region_sees_its_own_words_alone(case: Any) -> None:
    """One region for all is no region; words of a region that lies nowhere do not count; no place is without words."""
    name, net, x, doors = case
    if "tokens" not in doors:
        return
    plain = net(x, CLOCK, **doors)
    owner = torch.tensor([[0, 0, 0, 1, 1]] * 2)
    whole = torch.ones(2, 2, 8, 12, dtype=F64)
    assert far(net(x, CLOCK, **doors, regions=whole, owner=torch.zeros_like(owner)), plain) < 1e-12
    if name not in JOINT:  # there words see words of their own region alone
        assert far(net(x, CLOCK, **doors, regions=whole, owner=owner), plain) < 1e-12
    first = whole.clone()
    first[:, 1] = 0
    found = net(x, CLOCK, **doors, regions=first, owner=owner)
    other = torch.cat((doors["tokens"][:, :3], drawn(2, 2, 12, seed=4)), dim=1)
    assert far(net(x, CLOCK, **{**doors, "tokens": other}, regions=first, owner=owner), found) < 1e-10
    if name not in ("lumina", "zimage"):  # there the picture's place is behind the last word
        fewer = {**doors, "tokens": doors["tokens"][:, :3]}
        assert far(found, net(x, CLOCK, **fewer)) < 1e-10
    nowhere = torch.zeros_like(whole)
    assert far(net(x, CLOCK, **doors, regions=nowhere, owner=torch.zeros_like(owner)), plain) < 1e-12


@torch.inference_mode()
@pytest.mark.parametrize(
    "manner",
    [
        Manner(),
        Manner(identity=ALL),
        Manner(smooth=ALL, blur=1.0),
        Manner(share=ALL),
        Manner(share=ALL, own=False),
        Manner(share=ALL, weight=0.3, align=True),
    ],
    ids=["usual", "identity", "smooth", "shared", "replaced", "weighed"],
)
@pytest.mark.parametrize("areas", [False, True])
def test_tokens_that_do_not_count_might_as_well_not_be_there(manner: Manner, areas: bool) -> None:
    make, doors, channels = NETS["chroma"]
    net, x = redrawn(make()), drawn(2, channels, 8, 12, seed=5)
    whole, fewer = dict(doors), {"tokens": doors["tokens"][:, :3]}
    if areas:
        owner = torch.tensor([[0, 0, 1, 1, 0]] * 2)
        regions = (drawn(2, 2, 8, 12, seed=7) > 0).double()
        whole |= {"regions": regions, "owner": owner}
        fewer |= {"regions": regions, "owner": owner[:, :3]}
    counts = torch.tensor([[True, True, True, False, False]] * 2)
    found = net(x, CLOCK, **whole, mask=counts, manner=manner)
    assert far(found, net(x, CLOCK, **fewer, manner=manner)) < 1e-12
    assert far(found, net(x, CLOCK, **whole, manner=manner)) > 1e-3


@torch.inference_mode()
@pytest.mark.parametrize("name", ["unet", "pixels", "adm", "sana"])
@pytest.mark.parametrize("wrap", [(True, True), (True, False), (False, True)])
def test_a_network_that_goes_round_knows_no_edge(name: str, wrap: tuple[bool, bool]) -> None:
    make, doors, channels = NETS[name]
    net, x = redrawn(make()), drawn(2, channels, 8, 12, seed=5)
    out = net(x, CLOCK, **doors, manner=Manner(wrap=wrap))
    for axis, along in enumerate(wrap):
        moved = net(x.roll(4, 2 + axis), CLOCK, **doors, manner=Manner(wrap=wrap))
        assert (far(moved, out.roll(4, 2 + axis)) < 1e-10) == along


@torch.inference_mode()
@pytest.mark.parametrize("name", ["unet", "pixels", "dit"])
def test_packed_networks_follow_too(name: str) -> None:
    make, doors, channels = NETS[name]
    net = redrawn(make()).float()
    packed = pack(net)
    x, doors = drawn(2, channels, 8, 12).float(), {k: v.float() for k, v in doors.items()}
    clock = CLOCK.float()
    manners = [Manner(identity=ALL), Manner(smooth=ALL, blur=2.0), Manner(skip=ALL), Manner(share=ALL)]
    manners += [] if name == "dit" else [Manner(wrap=(True, True))]
    assert packed is not net
    for manner in manners:
        found, expected = (n(x, clock, **doors, manner=manner)[:1] for n in (packed, net))
        assert far(found, expected) < 1e-5
    assert torch.equal(packed(x, clock, **doors), pack(net)(x, clock, **doors))


def test_attention_by_the_formula() -> None:
    """Sharing is attention over both rows of keys, the reference's weighed; alignment gives its statistics."""
    q, k, v = (drawn(2, 6, 2, 4, seed=s) for s in (1, 2, 3))
    place = Place(Told(Manner(share=ALL, weight=0.4, align=True)), 0, (2, 3))
    logits = torch.einsum("lhd,shd->hls", q[0], torch.cat((k[0], k[1]))) / 2
    weights = logits.exp() * torch.tensor([1.0] * 6 + [0.4] * 6, dtype=F64)
    expected = torch.einsum("hls,shd->lhd", weights / weights.sum(-1, keepdim=True), torch.cat((v[0], v[1])))
    torch.testing.assert_close(place.look(q, k, v)[0], expected.flatten(1), rtol=1e-12, atol=0)
    a, _ = place.aligned(q, k)
    torch.testing.assert_close(a[0].mean(0), q[1].mean(0))
    torch.testing.assert_close(a[0].std(0), q[1].std(0), rtol=1e-4, atol=0)
    torch.testing.assert_close(place.look(q, k, v)[1], attend(q[1:], k[1:], v[1:])[0])


def test_layers_by_word_number_and_list() -> None:
    layers = ("down", "down", "middle", "up")
    assert chosen(layers, "down") == {0, 1}
    assert chosen(layers, "middle") == {2}
    assert chosen(("block",) * 5, "middle") == {2}
    assert chosen(layers, "all") == {0, 1, 2, 3}
    assert chosen(layers, 3) == chosen(layers, [3.0]) == {3}
    for wanted in ("left", 4, -1, [0, 9], [], [0.5], math.inf):
        with pytest.raises(InvalidRequest, match=r"2 down, 1 middle, 1 up.*such as"):
            chosen(layers, wanted)  # type: ignore[arg-type]


guiders = pytest.importorskip("diffusers.hooks")


@torch.inference_mode()
@pytest.mark.parametrize("sides", [(8, 8), (7, 7), (2, 2), (1, 1)])
@pytest.mark.parametrize("deviation", [0.3, 1.0, 10.0])
def test_the_blur_is_that_of_smoothed_energy_guidance(sides: tuple[int, int], deviation: float) -> None:
    """Their own branches are exchanged: they blur above their threshold and average below, so it is given as 0."""
    theirs = guiders.smoothed_energy_guidance_utils._gaussian_blur_2d
    query = drawn(2, sides[0] * sides[1], 6)
    wanted = math.ceil(6 * deviation)
    expected = theirs(query.clone(), wanted + 1 - wanted % 2, deviation, 0.0)
    found = Place(Told(Manner(smooth=ALL, blur=deviation)), 0, sides).blurred(query)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)  # their weights are float32
    mean = theirs(query.clone(), 3, 1.0, 2.0)
    flat = replace(Told(Manner(smooth=ALL))).at(0, sides).blurred(query)
    torch.testing.assert_close(flat, mean)


@torch.inference_mode()
@pytest.mark.parametrize("name", ["lumina", "zimage"])
def test_texts_of_several_owners_may_have_holes_between_them(name: str) -> None:
    """Words have places by their number in the row, which those that do not count must not take."""
    make, doors, channels = NETS[name]
    net, x = redrawn(make()), drawn(2, channels, 8, 12, seed=5)
    owner, regions = torch.tensor([[0, 0, 0, 1, 1]] * 2), (drawn(2, 2, 8, 12, seed=7) > 0).double()
    counts, kept = torch.tensor([[True, True, False, True, True]] * 2), [0, 1, 3, 4]
    found = net(x, CLOCK, **doors, mask=counts, owner=owner, regions=regions)
    whole = net(x, CLOCK, tokens=doors["tokens"][:, kept], owner=owner[:, kept], regions=regions)
    assert far(found, whole) < 1e-12
