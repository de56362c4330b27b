"""What is refused, before any work where it can be; what load options change; older folders; float16's overflow."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sfumato.codec import Latent
from sfumato.condition import Prompt
from sfumato.engine.run import run
from sfumato.errors import InvalidRequest, UnknownName, WeightsError
from sfumato.families.checkpoint import open_checkpoint
from sfumato.families.published import load_checkpoint
from sfumato.model import Model
from sfumato.nn.vae import Vae, VaeConfig
from sfumato.tasks.text2image import Text2Image
from sfumato.weights.source import open_source
from tests.peers.pipelines import Case

F32 = torch.float32


def opened(path: Path, variant: str | None = None, **options: Any) -> Model:
    """Our model of what lies at ``path``."""
    with open_source(path, variant=variant) as source:
        return load_checkpoint(open_checkpoint(source), **{"dtype": F32, **options})


def copied(case: Case, to: Path) -> Path:
    """A copy of a case's folder, to be altered."""
    return Path(shutil.copytree(case.peer.folder, to / "copy"))


def settings(folder: Path, part: str, **changed: Any) -> None:
    """Change a component's settings; None removes one."""
    path = next(p for p in (folder / part).iterdir() if p.name.endswith("config.json"))
    told = {**json.loads(path.read_text()), **changed}
    path.write_text(json.dumps({k: v for k, v in told.items() if v is not None}))


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("refiner", "goes on with the last, least noisy steps.*'image2image'"),
        ("inpaint", "fills the masked part.*'inpaint'"),
        ("instruct", "by an instruction.*'instruct'"),
        ("x4", "four times as large.*'upscale'"),
        ("fill", "fills the masked part.*'inpaint'"),
    ],
    indirect=["case"],
)
def test_models_for_other_tasks_are_loaded_and_refused_for_this_one(case: Case, words: str) -> None:
    asks: list[object] = []
    with pytest.raises(InvalidRequest, match=words):
        run(Text2Image(prompt="a cat")(case.model(F32)), lambda ask, reply: asks.append(ask))
    assert asks == []


@pytest.mark.parametrize("case", ["sd1"], indirect=True)
def test_a_folder_of_stable_diffusion_in_all_its_forms(case: Case, tmp_path: Path) -> None:
    folder = copied(case, tmp_path)
    wanted = case.model(F32)
    cond = wanted.conditioner([Prompt(text="a cat")]).tokens
    pixels = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    latent = wanted.codec.encode(pixels)

    # The autoencoder's attention by its older names, the encoder's keys without their first word, and places as floats.
    vae = folder / "vae" / "diffusion_pytorch_model.safetensors"
    older = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def renamed(key: str) -> str:
        for new, old in older.items():
            key = key.replace(f"mid_block.attentions.0.{new}.", f"mid_block.attentions.0.{old}.")
        return key

    save_file({renamed(k): v for k, v in load_file(vae).items()}, vae)
    text = folder / "text_encoder" / "model.safetensors"
    for with_word in (True, False):
        state = {k.removeprefix("text_model."): v for k, v in load_file(text).items()}
        state["embeddings.position_ids"] = torch.arange(77)[None].float()
        save_file({f"text_model.{k}" if with_word else k: v for k, v in state.items()}, text)
        model = opened(folder)
        assert torch.equal(model.conditioner([Prompt(text="a cat")]).tokens, cond)
        assert torch.equal(model.codec.encode(pixels), latent)

    # Shards with an index, and the variant fp16 of all components.
    unet = folder / "unet" / "diffusion_pytorch_model.safetensors"
    state = load_file(unet)
    unet.unlink()
    names = sorted(state)
    where = {}
    for number, keys in enumerate((names[::2], names[1::2]), 1):
        file = f"diffusion_pytorch_model-{number:05d}-of-00002.safetensors"
        save_file({k: state[k] for k in keys}, unet.parent / file)
        where |= dict.fromkeys(keys, file)
    (unet.parent / "diffusion_pytorch_model.safetensors.index.json").write_text(
        json.dumps({"weight_map": where})
    )
    sharded = opened(folder).denoiser.network
    for key, value in wanted.denoiser.network.state_dict().items():
        assert torch.equal(sharded.state_dict()[key], value)
    for path in (unet, vae, text):
        whole = state if path == unet else load_file(path)
        half = {k: v.half() if v.is_floating_point() else v for k, v in whole.items()}
        save_file(half, path.with_name(path.name.replace(".safetensors", ".fp16.safetensors")))
    low = opened(folder, variant="fp16", dtype=torch.bfloat16)
    for key, value in wanted.denoiser.network.state_dict().items():
        assert torch.equal(low.denoiser.network.state_dict()[key], value.half().bfloat16())


@pytest.mark.parametrize("case", ["sd1"], indirect=True)
def test_options_overrule_and_wrong_ones_are_told(case: Case, tmp_path: Path) -> None:
    assert opened(case.peer.folder, predicts="v").denoiser.prediction.kind == "v"
    with pytest.raises(UnknownName, match="prediction"):
        opened(case.peer.folder, predicts="w")
    with pytest.raises(UnknownName, match="family"):
        opened(case.peer.folder, family="sd9")
    with pytest.raises(WeightsError, match=r"denoiser of .* \(unet\) is not one of the family 'flux'"):
        opened(case.peer.folder, family="flux")
    folder = copied(case, tmp_path)
    shutil.rmtree(folder / "text_encoder")
    with pytest.raises(WeightsError, match="lacks text"):
        opened(folder)


@pytest.mark.parametrize("case", ["flux"], indirect=True)
def test_flux_needs_t5_and_its_vocabulary_and_takes_no_negative_prompt(case: Case, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="distilled"):
        run(Text2Image(prompt="a cat", negative="dog")(case.model(F32)))
    folder = copied(case, tmp_path)
    shutil.rmtree(folder / "tokenizer_2")
    with pytest.raises(WeightsError, match="T5's vocabulary is not in"):
        opened(folder)
    shutil.rmtree(folder / "text_encoder_2")
    with pytest.raises(WeightsError, match="lacks text_3"):
        opened(folder)


Change = dict[str, Any]


@pytest.mark.parametrize("case", ["sd1"], indirect=True)
def test_settings_of_a_scheduler_are_followed_or_refused(case: Case, tmp_path: Path) -> None:
    folder = copied(case, tmp_path)
    followed: list[tuple[Change, Callable[[Model], object], object]] = [
        ({"_class_name": "EulerDiscreteScheduler"}, lambda m: m.defaults.sampler, "euler"),
        (
            {"timestep_spacing": "trailing"},
            lambda m: (m.defaults.grid, m.defaults.unit_start),
            ("trailing", False),
        ),
        ({"timestep_spacing": "leading", "steps_offset": 0}, lambda m: m.defaults.grid, "leading(offset=0)"),
        ({"use_karras_sigmas": True}, lambda m: m.defaults.grid, "karras"),
        ({"beta_schedule": "linear"}, lambda m: m.schedule((4, 8, 8)).level(0).sigma ** 2, 0.00085),
        ({"prediction_type": "sample"}, lambda m: m.denoiser.prediction.kind, "x0"),
        ({"rescale_betas_zero_snr": True}, lambda m: m.schedule((4, 8, 8)).level(999).alpha, 0.0),
    ]
    for changed, read, value in followed:
        settings(folder, "scheduler", **changed)
        found = read(opened(folder))
        assert found == (pytest.approx(value) if isinstance(value, float) else value)
    refused: list[tuple[Change, str]] = [
        ({"beta_schedule": "sigmoid"}, "beta_schedule = 'sigmoid'"),
        ({"prediction_type": "score", "beta_schedule": "linear"}, "prediction_type = 'score'"),
        ({"prediction_type": "epsilon", "trained_betas": [0.1]}, "trained_betas"),
        ({"trained_betas": None, "timestep_spacing": "odd"}, "timestep_spacing = 'odd'"),
        ({"_class_name": "EDMEulerScheduler", "sigma_data": 0.7}, "sigma_data = 0.7"),
        ({"prediction_type": "v_prediction", "sigma_data": 0.5}, "sigma_data = 0.5 .* predicts v"),
        ({"_class_name": "EDMDPMSolverMultistepScheduler", "prediction_type": "sample"}, "v or edm, not x0"),
        ({"prediction_type": "epsilon", "solver_order": 3}, "solver_order = 3"),
    ]
    for changed, words in refused:
        settings(folder, "scheduler", **changed)
        with pytest.raises(WeightsError, match=words):
            opened(folder)


@pytest.mark.parametrize("case", ["sd3"], indirect=True)
def test_the_shift_of_a_flow_is_followed_and_odd_flows_are_refused(case: Case, tmp_path: Path) -> None:
    folder = copied(case, tmp_path)
    settings(folder, "scheduler", shift=2.0)
    assert opened(folder).schedule((16, 8, 8)).level(0.5).sigma == pytest.approx(2 / 3)
    for changed in ({"use_dynamic_shifting": True}, {"use_dynamic_shifting": False, "shift_terminal": 0.1}):
        settings(folder, "scheduler", **changed)
        with pytest.raises(WeightsError, match="not followed"):
            opened(folder)


def test_an_autoencoder_that_overflows_float16_goes_on_in_float32() -> None:
    torch.manual_seed(3)
    module = Vae(VaeConfig(widths=(32, 32))).eval().requires_grad_(False)
    module.decoder.enter.weight *= 3e4
    exact = Latent(module, torch.zeros(1), torch.ones(1))
    latent = 30 * torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(1))
    wanted = exact.decode(latent)
    half = Latent(copy.deepcopy(module), torch.zeros(1), torch.ones(1))
    half.autoencoder.half()
    assert half.notes == []
    first = half.decode(latent)
    assert first.dtype == torch.float32
    assert float((first - wanted).abs().max()) < 0.1
    assert len(half.notes) == 1
    assert "overflowed float16 in decoding" in half.notes[0]
    assert torch.equal(half.decode(latent), first)
    assert len(half.notes) == 1


def test_a_latent_that_is_not_finite_is_not_the_autoencoders_fault() -> None:
    half = Latent(Vae(VaeConfig(widths=(32, 32))).half().eval(), torch.zeros(1), torch.ones(1))
    assert not half.decode(torch.full((1, 4, 4, 4), torch.nan)).isfinite().any()
    assert half.notes == []
    weight: Tensor = next(half.autoencoder.parameters())
    assert weight.dtype == torch.float16
