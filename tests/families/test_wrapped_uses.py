"""What a person does with a wrapped model: tasks, guidance, adapters; and how prompts are told apart."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

import sfumato
from sfumato.adapted import Given
from sfumato.condition import Prompt
from sfumato.denoiser import row_levels
from sfumato.errors import InvalidRequest, WeightsError
from sfumato.families.encoded import asked, returned, usual
from sfumato.families.listing import NATIVE_CLASSES
from sfumato.families.ways import FILMS, REFUSED, WAYS, refusal
from sfumato.families.wrapped import is_for, load_wrapped, wrapped
from sfumato.loaded import Loaded
from sfumato.model import Model
from sfumato.process.grid import make_grid
from tests.families.test_published import far
from tests.peers.wrapped_pipelines import wrapped_pipeline
from tests.peers.wrapped_words import flow

ASK: dict[str, Any] = {"prompt": "a red cat", "negative": "dog", "steps": 3, "seed": 3}
PACKED = "qwen"
MAPS = "kolors"


@pytest.fixture(scope="module", params=[PACKED, MAPS])
def loaded(request: pytest.FixtureRequest) -> Loaded:
    """Packed latents on a rectified flow with an autoencoder of films; maps on a table."""
    return ready(wrapped_pipeline(request.param))


def ready(pipe: Any, **given: Any) -> Loaded:
    """Our model of ``pipe``, which lies in no folder whose hash a recipe could tell."""
    model = replace(wrapped(pipe, Path()), identity="0" * 64)
    return Loaded(model, torch.float64, given=Given(**given))


def picture(seed: int = 1) -> NDArray[np.uint8]:
    """A smooth picture of 64 x 64."""
    draws = torch.Generator().manual_seed(seed)
    rough = torch.rand(1, 3, 4, 4, generator=draws)
    fine = torch.nn.functional.interpolate(rough, 64, mode="bilinear")[0].permute(1, 2, 0)
    return (fine * 255).byte().numpy()


def pixels(made: Any) -> NDArray[np.int64]:
    """The first picture of an answer."""
    return np.asarray(made.images[0].pixels).astype(np.int64)


def test_a_picture_is_changed(loaded: Loaded) -> None:
    """At strength 1 on a flow nothing of it is left; the lower the strength, the more."""
    told = {**ASK, "steps": 5, "guidance": 3.0}
    text = pixels(loaded.task("text2image", size="64x64", **told))
    whole, half, little = (
        pixels(loaded.task("image2image", image=picture(), strength=strength, **told))
        for strength in (1, 0.6, 0.2)
    )
    model = loaded.model
    there = model.codec.decode(model.codec.encode(_field(picture())))
    kept = ((there[0] + 1) * 127.5).round().permute(1, 2, 0).numpy()
    errors = [np.abs(made - kept).mean() for made in (whole, half, little)]
    assert errors[2] < errors[1] < errors[0]
    if model.denoiser.prediction.kind == "flow":
        assert np.array_equal(whole, text)


def _field(image: NDArray[np.uint8]) -> Tensor:
    return (torch.from_numpy(image).permute(2, 0, 1)[None].double() / 127.5) - 1


def test_what_is_known_of_a_picture_is_kept_and_the_hole_is_not(loaded: Loaded) -> None:
    mask = np.zeros((64, 64), np.uint8)
    mask[:, 32:] = 255
    made = pixels(loaded.task("inpaint", image=picture(), mask=mask, repeat=1, **ASK))
    assert np.array_equal(made[:, :32], picture()[:, :32])
    assert np.abs(made[:, 40:] - picture()[:, 40:]).mean() > 1


def test_guidance_has_its_options(loaded: Loaded) -> None:
    """Nowhere within its interval it is none, everywhere it is all; another way of guidance is another picture."""
    size = {"size": "64x64", "guidance": 5.0}
    own = loaded.model.defaults.guide
    plain = pixels(loaded.task("text2image", **{**ASK, **size, "guidance": 1.0}))
    guided = pixels(loaded.task("text2image", **ASK, **size))
    assert np.array_equal(
        pixels(loaded.task("text2image", guide="cfg(lo=1, hi=1)", **ASK, **size)), plain
    ) or (
        loaded.model.denoiser.prediction.kind == "flow"  # which has a level of 1, its first
    )
    assert np.array_equal(pixels(loaded.task("text2image", guide="cfg(hi=0)", **ASK, **size)), plain)
    assert np.array_equal(pixels(loaded.task("text2image", guide=own, **ASK, **size)), guided)
    others = [
        pixels(loaded.task("text2image", guide=way, **ASK, **size)) for way in ("apg", "cfg(rescale=0.7)")
    ]
    assert all(not np.array_equal(other, guided) for other in others)
    with pytest.raises(InvalidRequest, match="attention"):
        loaded.task("text2image", guide="pag", **ASK, **size)


def test_samplers_and_grids_of_ours_walk_it(loaded: Loaded) -> None:
    """More steps of any deterministic sampler tend to one picture."""
    told = {**ASK, "size": "64x64", "guidance": 1.0}
    made = [
        pixels(loaded.task("text2image", **{**told, "sampler": name, "steps": 24}))
        for name in ("heun", "dpmpp_2m", "unipc")
    ]
    coarse = pixels(loaded.task("text2image", **{**told, "sampler": "euler", "steps": 2}))
    assert max(np.abs(one - made[0]).mean() for one in made) < np.abs(coarse - made[0]).mean() / 3


def adapter_file(net: Any, path: Path, names: tuple[str, ...], prefix: str) -> dict[str, Tensor]:
    """A LoRA of rank 2 for some layers in diffusers' spelling; what it says, without the prefix."""
    draws, told = torch.Generator().manual_seed(5), {}
    for name in names:
        weight = net.get_submodule(name).weight
        told[f"{name}.lora_A.weight"] = torch.randn(2, weight.shape[1], generator=draws)
        told[f"{name}.lora_B.weight"] = torch.randn(weight.shape[0], 2, generator=draws)
    save_file({f"{prefix}.{name}": value for name, value in told.items()}, path)
    return told


def test_adapters_act_as_in_diffusers(tmp_path: Path) -> None:
    """Live and merged, and gone again to the bit."""
    pipe = wrapped_pipeline(PACKED)
    net, path = pipe.transformer, tmp_path / "ink.safetensors"
    names = ("transformer_blocks.0.attn.to_q", "transformer_blocks.0.img_mlp.net.2", "proj_out")
    adapter_file(net, path, names, "transformer")
    before = {name: value.clone() for name, value in net.state_dict().items()}
    told = {**ASK, "size": "64x64", "guidance": 1.0}
    ours = ready(pipe)
    plain = pixels(ours.task("text2image", **told))
    found = []
    for merged in (False, True):
        acting = ready(pipe, adapters=(path,), merged=merged)
        found.append(pixels(acting.task("text2image", **told)))
        acting.adapters.remove("ink")
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    pipe.load_lora_weights(tmp_path, weight_name=path.name)
    for part in net.modules():
        part.double()
    theirs = pixels(ready(pipe).task("text2image", **told))
    assert np.abs(theirs - plain).mean() > 0.5
    for one in found:
        assert np.abs(one - theirs).max() <= 1


def test_adapters_of_others_and_learned_words_are_refused(tmp_path: Path) -> None:
    model = wrapped(wrapped_pipeline(MAPS), Path())
    path = tmp_path / "other.safetensors"
    save_file(
        {
            "transformer.no_such.lora_A.weight": torch.ones(2, 4),
            "transformer.no_such.lora_B.weight": torch.ones(4, 2),
        },
        path,
    )
    with pytest.raises(WeightsError, match=r"no_such.*no such layer"):
        Loaded(model, torch.float64, given=Given(adapters=(path,)))
    save_file({"clip_l": torch.ones(1, 64)}, tmp_path / "blot.safetensors")
    given = Given(embeddings_in=tmp_path)
    with pytest.raises(InvalidRequest, match="textual inversion is for CLIP and T5"):
        Loaded(model, torch.float64, given=given).task(
            "text2image", **{**ASK, "prompt": "blot", "dialect": "a1111", "size": "64x64"}
        )


def test_its_networks_are_in_memory_once() -> None:
    pipe = wrapped_pipeline(PACKED)
    model = wrapped(pipe, Path())
    for ours, net in ((model.denoiser, pipe.transformer), (model.codec.autoencoder, pipe.vae)):  # type: ignore[attr-defined]
        assert {p.data_ptr() for p in ours.parameters()} == {p.data_ptr() for p in net.parameters()}


def _plainly(self: Any, prompt: Any) -> Any:
    prompt_embeds, wanted = prompt, bool(prompt)

    def inner() -> Any:
        return 1, 2

    return prompt_embeds.to(inner()), (pooled_prompt_embeds if wanted else None), prompt_embeds_mask  # type: ignore[name-defined] # noqa: F821


def _variously(self: Any, prompt: Any) -> Any:
    if prompt:
        return prompt, None
    return None, prompt


def test_what_a_pipeline_returns_is_read_from_its_source() -> None:
    assert returned(_plainly) == ["prompt_embeds", "pooled_prompt_embeds", "prompt_embeds_mask"]
    for function, why in ((_variously, "different things"), (print, "cannot be read")):
        with pytest.raises(ValueError, match=why):
            returned(function)
    assert returned(diffusers.AuraFlowPipeline.encode_prompt)[:2] == [
        "prompt_embeds",
        "prompt_attention_mask",
    ]
    assert returned(diffusers.StableDiffusion3Pipeline.encode_prompt)[::2] == [
        "prompt_embeds",
        "pooled_prompt_embeds",
    ]


class Ambiguous:
    """A pipeline whose pooled vector has as many numbers as there are states, all of them 0 or 1."""

    _execution_device = "cpu"
    wanted: tuple[Any, ...] = (
        torch.zeros(1, 4, 3),
        torch.tensor([[1.0, 0, 1, 1]]),
        torch.tensor([[1, 1, 0, 0]]),
    )

    def encode_prompt(self, prompt: str, max_sequence_length: int = 7) -> Any:
        """States, a vector, a mask."""
        self.length = max_sequence_length
        prompt_embeds, pooled_prompt_embeds, prompt_attention_mask = self.wanted
        return prompt_embeds, pooled_prompt_embeds, prompt_attention_mask

    def __call__(self, prompt: str, max_sequence_length: int = 9) -> None:
        """Nothing."""


class Odd(Ambiguous):
    """One that makes something else besides."""

    def encode_prompt(self, prompt: str, max_sequence_length: int = 7) -> Any:
        """States, and something."""
        prompt_embeds, prompt_layers = self.wanted[:2]
        return prompt_embeds, prompt_layers


class Short(Ambiguous):
    """One whose source says less than it returns."""

    def encode_prompt(self, prompt: str, max_sequence_length: int = 7) -> Any:
        """Everything."""
        both = (*self.wanted,)
        return both  # noqa: RET504


def test_a_vector_is_told_from_a_mask_by_its_name() -> None:
    pipe = Ambiguous()
    found = usual(pipe, Prompt(text="a"))
    assert pipe.length == 9  # as its call has it, whose default is another
    assert found.vector is not None
    assert found.mask is not None
    assert found.vector.tolist() == [[1, 0, 1, 1]]
    assert found.mask.tolist() == [[True, True, False, False]]
    with pytest.raises(WeightsError, match="makes prompt_layers of a prompt"):
        usual(Odd(), Prompt(text="a"))
    with pytest.raises(WeightsError, match=r"returns 3 things, and its source names both"):
        usual(Short(), Prompt(text="a"))


def test_a_negative_prompt_goes_in_where_the_pipeline_has_a_place_for_it() -> None:
    pipe = wrapped_pipeline("cogview3")
    text, absent = (Prompt(text=words, absent=not words, negative=True) for words in ("dog", ""))
    assert far(asked(pipe, text)["prompt_embeds"], asked(pipe, Prompt(text="dog"))["prompt_embeds"]) == 0
    assert not asked(pipe, absent)["prompt_embeds"].any()  # CogView3 has zeros where nobody gave one


def test_prompts_of_different_lengths_are_asked_one_at_a_time() -> None:
    model: Model = wrapped(wrapped_pipeline(PACKED), Path())
    with pytest.raises(InvalidRequest, match="one at a time"):
        model.conditioner(["a", "some other"])


REFUSALS = {
    "LuminaPipeline": ("transformer", "LuminaNextDiT2DModel", "three of the four channels"),
    "OmniGenPipeline": ("transformer", "OmniGenTransformer2DModel", "reads token ids"),
    "IFPipeline": ("unet", "UNet2DConditionModel", "64 pixels"),
    "StableCascadeDecoderPipeline": ("decoder", "StableCascadeUNet", "follow one another"),
    "WanPipeline": ("transformer", "WanTransformer3DModel", "films or sounds"),
    "StableVideoDiffusionPipeline": ("unet", "UNetSpatioTemporalConditionModel", "films or sounds"),
    "QwenImageEditPipeline": (
        "transformer",
        "QwenImageTransformer2DModel",
        "otherwise than QwenImagePipeline",
    ),
}


@pytest.mark.parametrize("pipeline", REFUSALS)
def test_what_is_refused_is_refused_before_anything_is_read(pipeline: str, tmp_path: Path) -> None:
    place, denoiser, why = REFUSALS[pipeline]
    told = {"_class_name": pipeline, place: ["diffusers", denoiser]}
    (tmp_path / "model_index.json").write_text(json.dumps(told), "utf-8")
    assert is_for(tmp_path)
    with pytest.raises(WeightsError, match=f"is a folder of {pipeline}, which is not wrapped: .*{why}"):
        sfumato.load(str(tmp_path))


def test_nothing_is_said_against_native_pipelines(tmp_path: Path) -> None:
    told = {"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"]}
    (tmp_path / "model_index.json").write_text(json.dumps(told), "utf-8")
    assert not is_for(tmp_path)
    assert not refusal("StableDiffusionPipeline", "UNet2DConditionModel")
    kolors = {**told, "_class_name": "KolorsPipeline"}
    (tmp_path / "model_index.json").write_text(json.dumps(kolors), "utf-8")
    assert is_for(tmp_path)


def test_refusals_are_of_classes_that_there_are() -> None:
    assert all(hasattr(diffusers, name) for name in REFUSED)
    assert FILMS


def test_a_folder_walks_as_the_pipeline_it_is_of(tmp_path: Path) -> None:
    """Saved, found, loaded; a checker of pictures, which nothing here asks, is not looked for."""
    pipe = wrapped_pipeline("hunyuan")
    pipe.save_pretrained(tmp_path)
    index = tmp_path / "model_index.json"
    told = json.loads(index.read_text("utf-8"))
    told["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    index.write_text(json.dumps(told), "utf-8")
    assert is_for(tmp_path)
    told = {**ASK, "size": "64x64", "guidance": 4.0}
    ours = Loaded(load_wrapped(tmp_path, dtype=torch.float64), torch.float64)
    exact = ready(pipe)
    # transformers keeps part of T5 in float32, whose sums depend on where numbers lie in memory: a byte may be rounded
    # the other way.
    found, expected = (pixels(one.task("text2image", **told)).astype(int) for one in (ours, exact))
    assert np.abs(found - expected).max() <= 1
    assert "not native" in ours.model.notes(Prompt(text="a"))[0]


def test_the_page_tells_what_is_wrapped_and_what_is_refused() -> None:
    page = (Path(__file__).parents[2] / "docs" / "families.md").read_text("utf-8")
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in page.splitlines()
        if line.startswith("| `")
    ]
    for name, way in WAYS.items():
        wanted = [f"`{way.pipelines[0] if name in NATIVE_CLASSES else name}`", way.title]
        assert wanted in [row[:2] for row in rows], name
    for name, why in REFUSED.items():
        assert any(f"`{name}`" in row[0] and row[1] == why for row in rows), name


def test_sizes_are_those_of_the_networks() -> None:
    """By default, and at the most: HiDream's table of places ends, CogView3's too; PRX's pipeline says its own."""
    wanted = {"kolors": (128, 4096, 8), "hidream": (256, 256, 16), "cogview3": (128, 256, 16)}
    for name, sizes in wanted.items():
        told = wrapped(wrapped_pipeline(name), Path()).defaults
        assert (told.width, told.most, told.multiple) == sizes, name
    pipe = wrapped_pipeline("prx")
    pipe.default_sample_size = 256
    assert wrapped(pipe, Path()).defaults.height == 256


@pytest.mark.parametrize("shift", [1.0, 3.0, 5.0, 6.0])
def test_a_solver_asks_at_the_whole_thousandths_of_diffusers(shift: float) -> None:
    """Of every number of steps, also where the thousandths are exact: they are cut, so that the last bit decides."""
    pipe = wrapped_pipeline("hidream full")
    pipe.scheduler = diffusers.UniPCMultistepScheduler.from_config(pipe.scheduler.config, flow_shift=shift)
    model = wrapped(pipe, Path())
    shape, before = model.codec.shape(64, 64), model.denoiser.network.before
    assert callable(before)
    exact = 0
    for steps in range(2, 101):
        grid = make_grid(model.defaults.grid, steps=steps, schedule=model.schedule(shape))
        clock = model.denoiser.clock(row_levels(list(grid[:-1])))
        pipe.scheduler.set_timesteps(steps)
        assert before(clock, shape).tolist() == pipe.scheduler.timesteps.tolist(), steps
        assert np.allclose([at.sigma for at in grid], pipe.scheduler.sigmas, rtol=0, atol=1e-7)
        exact += int((clock[1:] - clock[1:].round()).abs().lt(1e-9).sum())
    assert (exact > 0) == (shift in (1.0, 6.0))


@pytest.mark.parametrize("told", ["q", [1], True, -1, 0, float("nan")])
def test_shifts_that_are_no_numbers_are_told(told: Any) -> None:
    pipe = wrapped_pipeline("qwen")
    if told != 0:  # which is none
        pipe.scheduler = flow(use_dynamic_shifting=True)
        pipe.scheduler.register_to_config(shift_terminal=told)
        with pytest.raises(WeightsError, match="says shift_terminal = "):
            wrapped(pipe, Path())
    pipe = wrapped_pipeline("kolors")
    pipe.scheduler = diffusers.CogVideoXDDIMScheduler(prediction_type="epsilon")
    assert wrapped(pipe, Path())
    pipe.scheduler.register_to_config(snr_shift_scale=told)
    with pytest.raises(WeightsError, match="says snr_shift_scale = "):
        wrapped(pipe, Path())


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (MAPS, {"scaling_factor": "abc"}),
        (MAPS, {"shift_factor": float("nan")}),
        (PACKED, {"latents_mean": ["a"] * 16}),
        (PACKED, {"latents_mean": [0.0] * 3}),
        (PACKED, {"latents_std": [0.0] * 16}),
    ],
)
def test_settings_of_autoencoders_that_are_no_numbers_are_told(name: str, told: dict[str, Any]) -> None:
    pipe = wrapped_pipeline(name)
    pipe.vae.register_to_config(**told)
    with pytest.raises(WeightsError, match=f"the autoencoder of .* says {next(iter(told))} = "):
        wrapped(pipe, Path())


def test_schedulers_that_pipelines_use_otherwise() -> None:
    """HiDream's shifts by the most tokens, not the picture's; Bria's has another spacing without a shift by size."""
    for name, told, why in (
        ("hidream", {"use_dynamic_shifting": True}, "says use_dynamic_shifting"),
        ("bria", {"use_dynamic_shifting": False, "shift": 3.0}, "does not say use_dynamic_shifting"),
        ("flux2", {"use_dynamic_shifting": True, "shift_terminal": 0.1}, "says shift_terminal"),
        ("qwen", {"invert_sigmas": True}, "says invert_sigmas"),
    ):
        pipe = wrapped_pipeline(name)
        pipe.scheduler = flow(**told)
        with pytest.raises(WeightsError, match=why):
            wrapped(pipe, Path())
    solver = diffusers.UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction")
    for name, scheduler, why in (
        ("qwen", solver, "is not followed with"),
        ("bria", diffusers.DDIMScheduler(), "on a rectified flow alone"),
        ("kolors", flow(), "on a discrete schedule alone"),
    ):
        pipe = wrapped_pipeline(name)
        pipe.scheduler = scheduler
        with pytest.raises(WeightsError, match=why):
            wrapped(pipe, Path())
    pipe = wrapped_pipeline("flux2")
    pipe.scheduler = flow(shift=3.0)
    assert wrapped(pipe, Path()).defaults.grid == "linspace"
