"""Strengths, levels, several at once, removal to the last bit, a hundred switches, packed networks, embeddings."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from sfumato.adapters import Network, Strength, apply, load_embedding, teach, trained
from sfumato.adapters.formula import Difference, Lora
from sfumato.condition import Cond
from sfumato.denoiser import Denoiser
from sfumato.errors import InvalidRequest, WeightsError
from sfumato.nn.clip import ClipText
from sfumato.nn.pack import available, pack
from sfumato.nn.unet import UNet, UNetConfig
from sfumato.process.level import Level
from sfumato.process.prediction import prediction
from sfumato.process.schedule import Flow
from sfumato.weights.keys import KeyTable
from tests.adapters.cases import CLIP, IDS, networks, output

NAMES = ("words", "double_blocks.0.picture.look.qkv", "single_blocks.1.enter")


def made(seed: int, names: tuple[str, ...] = NAMES, parts: dict[str, Network] | None = None):  # type: ignore[no-untyped-def]
    """An adapter on our own names."""
    net = (parts or networks("flux"))["denoiser"].module
    draws = torch.Generator().manual_seed(seed)
    updates = {}
    for name in names:
        outer, inner = net.get_submodule(name).weight.shape
        down = torch.randn(4, inner, generator=draws) * inner**-0.5
        updates[name] = Lora(down, torch.randn(outer, 4, generator=draws) * 0.3, alpha=2.0)
    return trained({"denoiser": updates})


def state(parts: dict[str, Network]) -> dict[str, Tensor]:
    return {k: v.clone() for network in parts.values() for k, v in network.module.state_dict().items()}


@pytest.mark.parametrize("merged", [True, False])
def test_two_adapters_add_up_in_any_order_and_strength_is_linear_in_the_weights(merged: bool) -> None:
    parts = networks("flux")
    own = parts["denoiser"]
    one, two = made(1), made(2)
    with apply(parts, [(one, 0.7), (two, -0.2)], merged=merged):
        first = output("flux", own)
    with apply(parts, [(two, -0.2), (one, 0.7)], merged=merged):
        torch.testing.assert_close(output("flux", own), first, rtol=0, atol=2e-6)
    whole = {
        name: Difference(
            0.7 * one.layers[i].weight.delta(own.module.get_submodule(name).weight)
            - 0.2 * two.layers[i].weight.delta(own.module.get_submodule(name).weight)
        )
        for i, name in enumerate(NAMES)
    }
    with apply(parts, [(trained({"denoiser": whole}), 1.0)], merged=merged):
        torch.testing.assert_close(output("flux", own), first, rtol=0, atol=5e-6)


def test_strengths_by_block() -> None:
    parts = networks("flux")
    own = parts["denoiser"]
    with apply(parts, [(made(1, NAMES[:2]), 0.5)]):
        expected = output("flux", own)
    blocks = {"*": 0.5, "denoiser.single_blocks.*": 0}
    with apply(parts, [(made(1), Strength(blocks=blocks))]):
        torch.testing.assert_close(output("flux", own), expected, rtol=0, atol=2e-6)
    with pytest.raises(InvalidRequest, match=r"'nowhere\.\*' matches no block .* denoiser\.words"):
        apply(parts, [(made(1), Strength(blocks={"nowhere.*": 1}))])


def test_a_level_interval_is_each_rows_own() -> None:
    """Rows between the levels are changed as by the adapter, the others are as without it; ends belong to it."""
    net = UNet(UNetConfig(inner=3, outer=3, widths=(8, 16), groups=4, blocks=1)).eval().requires_grad_(False)
    for parameter in net.parameters():
        parameter.data = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.2
    table = KeyTable.of([(name, name, name) for name, _ in net.named_parameters()])
    parts = {"denoiser": Network(net, table)}
    denoiser = Denoiser(net, Flow(), prediction("flow"), clock="thousand")
    draws = torch.Generator().manual_seed(2)
    kernel = trained(
        {
            "denoiser": {
                "enter": Lora(
                    torch.randn(2, 3, 3, 3, generator=draws), torch.randn(8, 2, 1, 1, generator=draws)
                ),
                "clock.first": Difference(torch.randn(32, 8, generator=draws)),
            }
        }
    )
    shares = torch.tensor([0.2, 0.5, 0.8, 0.9], dtype=torch.float64)
    at = Level(shares, torch.sqrt(1 - shares**2), shares)  # type: ignore[arg-type]
    x = torch.randn(4, 3, 8, 8, generator=draws)

    def answer() -> Tensor:
        return denoiser(x, at, Cond()).x0

    before = answer()
    with apply(parts, [(kernel, 1.0)]):
        after = answer()
    edge = float(shares[1] / torch.hypot(torch.sqrt(1 - shares[1] ** 2), shares[1]))
    with apply(parts, [(kernel, Strength(lo=edge, hi=0.85))], denoiser=denoiser):
        found = answer()
        with pytest.raises(InvalidRequest, match="without its denoiser"):
            net(x, torch.zeros(4))
    inside = torch.tensor([False, True, True, False])
    torch.testing.assert_close(found[inside], after[inside], rtol=0, atol=1e-6)
    torch.testing.assert_close(found[~inside], before[~inside], rtol=0, atol=1e-6)
    assert (after - before).flatten(1).abs().amax(1).min() > 1e-2
    assert torch.equal(answer(), before)
    for options, told in (
        ({"merged": True, "denoiser": denoiser}, "at every level"),
        ({}, "needs the denoiser"),
    ):
        with pytest.raises(InvalidRequest, match=told):
            apply(parts, [(kernel, Strength(hi=0.5))], **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("merged", [True, False])
def test_a_hundred_switches_leave_nothing_behind(merged: bool) -> None:
    parts = networks("flux")
    before, own = state(parts), parts["denoiser"].module
    pointers = {name: p.data_ptr() for name, p in own.named_parameters()}
    adapters = [made(seed) for seed in range(3)]
    applied = apply(parts, [(adapters[0], 1.0)], merged=merged)
    gc.collect()
    alive = sum(isinstance(o, Tensor) for o in gc.get_objects())
    for number in range(100):
        applied.switch([(adapters[number % 3], 0.5), (adapters[(number + 1) % 3], 0.25)])
    applied.switch([(adapters[0], 1.0)])
    gc.collect()
    assert sum(isinstance(o, Tensor) for o in gc.get_objects()) <= alive + 2
    applied.remove()
    assert all(torch.equal(v, before[k]) for k, v in own.state_dict().items())
    assert {name: p.data_ptr() for name, p in own.named_parameters()} == pointers
    assert not any(module._forward_hooks for module in own.modules())


def test_a_switch_that_fails_leaves_the_old_adapters_at_work_and_two_do_not_stack() -> None:
    parts = networks("flux")
    own = parts["denoiser"]
    with apply(parts, [(made(1), 1.0)], merged=True) as applied:
        now = output("flux", own)
        with pytest.raises(WeightsError, match="made for another family"):
            applied.switch([(trained({"denoiser": {"nowhere": Difference(torch.ones(1))}}), 1.0)])
        assert torch.equal(output("flux", own), now)
        with pytest.raises(InvalidRequest, match="other adapters act on denoiser"):
            apply(parts, [(made(2), 1.0)])
        assert torch.equal(output("flux", own), now)


def test_bfloat16_weights_round_once_merged() -> None:
    parts = networks("flux")
    net = parts["denoiser"].module.to(torch.bfloat16)
    adapter = made(1)
    before = state(parts)
    with apply(parts, [(adapter, 0.3)], merged=True):
        for layer, name in zip(adapter.layers, NAMES, strict=True):
            old = before[f"{name}.weight"].float()
            wanted = (old + 0.3 * layer.weight.delta(old)).to(torch.bfloat16)
            assert torch.equal(net.get_submodule(name).weight, wanted)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


@pytest.mark.skipif(not available(), reason="this torch cannot pack")
def test_a_packed_network_is_adapted_before_it_is_packed() -> None:
    config = UNetConfig(inner=3, outer=3, widths=(8, 16), groups=4, blocks=1)
    net = UNet(config).eval().requires_grad_(False).to(memory_format=torch.channels_last)
    draws = torch.Generator().manual_seed(1)
    for parameter in net.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=draws) * 0.2)
    table = KeyTable.of([(name, name, name) for name, _ in net.named_parameters()])
    parts = {"denoiser": Network(net, table)}
    x, clock = torch.randn(2, 3, 8, 8, generator=draws), torch.tensor([3.0, 5.0])
    adapter = trained({"denoiser": {"enter": Difference(torch.randn(8, 3, 3, 3, generator=draws))}})
    plain, packed_before = net(x, clock), pack(net)(x, clock)
    with apply(parts, [(adapter, 1.0)], merged=True):
        expected, found = net(x, clock), pack(net)(x, clock)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert (expected - plain).abs().max() > 1e-2
    assert torch.equal(pack(net)(x, clock), packed_before)
    with pytest.raises(InvalidRequest, match="is packed: adapt the plain network"):
        apply({"denoiser": Network(pack(net), table)}, [(adapter, 1.0)])


def test_words_of_textual_inversion_get_rows_and_ids_and_leave(tmp_path: Path) -> None:
    draws = torch.Generator().manual_seed(1)
    net = ClipText(CLIP).eval().requires_grad_(False)
    vectors = torch.randn(2, 8, generator=draws)
    save_file({"emb_params": vectors}, tmp_path / "cat.safetensors")
    save_file({"<dog>": vectors[0].clone()}, tmp_path / "b.safetensors")
    cat, dog = load_embedding(tmp_path / "cat.safetensors"), load_embedding(tmp_path / "b.safetensors")
    before, table = net(IDS)[0], net.token.weight.data_ptr()
    with teach({"text": net}, [cat, dog]) as words:
        assert words.ids == {"cat": {"text": (30, 31)}, "<dog>": {"text": (32,)}}
        assert torch.equal(net.token(torch.tensor([30, 31, 32])), vectors[[0, 1, 0]])
        assert torch.equal(net(IDS)[0], before)
        ids = IDS.clone()
        ids[0, 1:3] = torch.tensor([30, 31])
        told = net(ids)[0]
        # What the encoder answers for plain words whose rows are those vectors.
        net.token.weight.data[[3, 4]] = vectors
        torch.testing.assert_close(net(IDS)[0][0], told[0])
    assert net.token.weight.data_ptr() == table
    assert net.token.num_embeddings == 30
    assert torch.equal(net(IDS)[0], before)
    save_file({"clip_l": torch.ones(1, 8), "clip_g": torch.ones(1, 8)}, tmp_path / "xl.safetensors")
    with pytest.raises(WeightsError, match="vectors for text_2, which this model does not have"):
        teach({"text": net}, [load_embedding(tmp_path / "xl.safetensors")])
    save_file({"emb_params": torch.ones(1, 9)}, tmp_path / "wide.safetensors")
    with pytest.raises(WeightsError, match="vectors of 9 values for text, whose tokens have 8"):
        teach({"text": net}, [load_embedding(tmp_path / "wide.safetensors")])


def test_pickled_embeddings_need_permission(tmp_path: Path) -> None:
    path = tmp_path / "old.pt"
    torch.save({"string_to_param": {"*": torch.ones(2, 8)}, "name": "old"}, path)
    with pytest.raises(WeightsError, match="pickle"):
        load_embedding(path)
    assert load_embedding(path, allow_pickle=True).vectors["text"].shape == (2, 8)
