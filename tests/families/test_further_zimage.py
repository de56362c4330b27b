"""Z-Image and its Turbo against diffusers' pipeline: conditions, network, rows in company, walks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.transformers import transformer_z_image
from diffusers.pipelines.z_image import pipeline_z_image
from diffusers.schedulers import scheduling_flow_match_euler_discrete
from torch import Tensor

from sfumato.condition import Prompt
from sfumato.denoiser import row_levels
from sfumato.engine.engine import Engine
from sfumato.engine.run import run
from sfumato.errors import InvalidRequest, MissingExtra, WeightsError
from sfumato.families import languages
from sfumato.families.checkpoint import open_checkpoint
from sfumato.families.inspect import inspect
from sfumato.families.published import load_checkpoint
from sfumato.process.level import Level
from sfumato.tasks.text2image import Text2Image
from sfumato.weights.source import open_source
from tests.families.test_published import far, walked
from tests.peers.further import further
from tests.peers.pipelines import Case, Wide, wide_tables

F64, F32 = torch.float64, torch.float32
TEXTS = ("a red cat on a roof at night, and rain", "dog")


class Wider(Wide):
    """torch, with complex values of float64 too, and lines of float64."""

    complex64 = torch.complex128

    def linspace(self, first: float, last: float, steps: int) -> Tensor:
        return torch.linspace(first, last, steps, dtype=F64)


class WideNumpy:
    """numpy, with float64 where float32 is said."""

    float32 = np.float64

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


@pytest.fixture(scope="module")
def turbo(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """The Turbo, built once."""
    return further("z-image turbo", tmp_path_factory.mktemp("turbo"))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """The base, built once."""
    return further("z-image", tmp_path_factory.mktemp("base"))


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch, turbo: Case, base: Case) -> None:
    """Let diffusers' sinusoids, rotations and sigmas have float64's digits, which it rounds to float32.

    (Of the sigmas the walk is told too: the angles of the clock go up to 1000, where float32 ends at 6e-5.)
    """
    monkeypatch.setattr(transformer_z_image, "torch", Wider())
    monkeypatch.setattr(pipeline_z_image, "torch", Wider())
    monkeypatch.setattr(scheduling_flow_match_euler_discrete, "np", WideNumpy())
    monkeypatch.setattr(Tensor, "float", Tensor.double)
    for case in (turbo, base):
        monkeypatch.setattr(case.pipe.transformer.rope_embedder, "freqs_cis", None)


def theirs(case: Case, x: Tensor, clock: Tensor, words: list[Tensor]) -> Tensor:
    """What diffusers' network says, as a velocity towards the noise."""
    with torch.no_grad():
        told = case.pipe.transformer([row[:, None] for row in x], clock, words)[0]
    return -torch.stack(list(told))[:, :, 0]


def test_the_network_and_its_conditions(turbo: Case, wide: None) -> None:
    """Texts of 57 and 22 tokens in one call, so of two measures and one; 70 patches, which are filled up to 96."""
    x = torch.randn(2, 16, 20, 14, generator=torch.Generator().manual_seed(8), dtype=F64)
    with torch.no_grad():
        words, other = turbo.pipe.encode_prompt([TEXTS[0]], negative_prompt=[TEXTS[1]])
    words = [*words, *other]
    assert [len(each) for each in words] == [57, 22]
    expected = theirs(turbo, x, torch.tensor([0.375, 0.8], dtype=F64), words)
    for dtype, most in ((F64, 1e-6), (F32, 1e-5)):
        model = turbo.model(dtype)
        cond = model.conditioner([Prompt(text=TEXTS[0]), Prompt(text=TEXTS[1], negative=True)])
        assert cond.mask is not None
        assert cond.tokens is not None
        for row, states in enumerate(words):
            assert far(cond.tokens[row][cond.mask[row]], states) < most
        at = row_levels([Level(0.625, 0.375, 0.625), Level(0.2, 0.8, 0.2)])
        assert far(model.denoiser.output(x, at, cond), expected) < most


@pytest.mark.parametrize("patches", [(4, 8), (5, 7)])
@pytest.mark.parametrize("counts", [(1, 32, 33), (64, 64, 64), (20, 30, 25)])
def test_a_row_does_not_depend_on_its_company(
    turbo: Case, wide: None, counts: tuple[int, ...], patches: tuple[int, int]
) -> None:
    """Texts of one measure and of several, full ones and others, beside pictures that fill theirs and that do not.

    Each row is told beside diffusers' answer to it alone, which masks nothing; what stands in padding is not read.
    """
    draws = torch.Generator().manual_seed(len(counts) + counts[0] + patches[0])
    x = torch.randn(3, 16, 2 * patches[0], 2 * patches[1], generator=draws, dtype=F64)
    tokens = torch.randn(3, 80, 48, generator=draws, dtype=F64)
    mask = torch.arange(80) < torch.tensor(counts)[:, None]
    clock = torch.tensor([0.1, 0.5, 0.9], dtype=F64)
    net = turbo.model(F64).denoiser.network
    with torch.no_grad():
        found = net(x, 1000 - 1000 * clock, tokens=tokens, mask=mask)
        odd = tokens.masked_fill(~mask[..., None], torch.nan)
        assert torch.equal(net(x, 1000 - 1000 * clock, tokens=odd, mask=mask), found)
        for row, count in enumerate(counts):
            alone = theirs(turbo, x[row : row + 1], clock[row : row + 1], [tokens[row, :count]])
            assert far(found[row : row + 1], alone) < 1e-6
            bare = net(
                x[row : row + 1], 1000 - 1000 * clock[row : row + 1], tokens=tokens[row : row + 1, :count]
            )
            assert far(bare, alone) < 1e-6


def test_requests_that_share_calls_are_answered_as_if_alone(turbo: Case) -> None:
    """Rows of prompts of one, two and six measures have one key, so they share calls of the engine."""
    model = turbo.model(F64)
    draws = torch.Generator().manual_seed(4)
    wishes = [
        (text, torch.randn(1, 16, 8, 10, generator=draws, dtype=F64), Level(t, 1 - t, t))
        for text, t in (("a", 0.25), (TEXTS[0], 0.5), (TEXTS[0] * 4, 0.75))
    ]

    async def asked(text: str, x: Tensor, at: Level) -> Tensor:
        want, avoid = [await model.embed([word]) for word in (text, "rain at night, rain")]
        one, other = await model.denoise(x, at, want, avoid)
        return torch.cat((one.x0, other.x0))

    engine = Engine(max_rows=16)
    seen: list[int] = []
    plain = model.denoiser.network.forward

    def counted(x: Tensor, *args: Any, **doors: Any) -> Tensor:
        seen.append(len(x))
        return plain(x, *args, **doors)

    model.denoiser.network.forward = counted
    try:
        requests = [engine.submit(asked(*wish)) for wish in wishes]
        together = [request.result() for request in requests]
    finally:
        del model.denoiser.network.forward
    assert seen == [6]
    for wish, found in zip(wishes, together, strict=True):
        assert far(found, run(asked(*wish))) < 1e-9


def test_a_long_prompt_is_cut_and_an_absent_negative_one_is_empty(turbo: Case) -> None:
    long = "the red cat flies and " * 40
    with torch.no_grad():
        words, other = turbo.pipe.encode_prompt([long], negative_prompt=[""])
    model = turbo.model(F64)
    cond = model.conditioner([Prompt(text=long)])
    assert len(words[0]) == 512
    assert bool(cond.mask.all())
    assert far(cond.tokens[0], words[0]) < 1e-6
    over = (
        len(turbo.pipe.tokenizer(f"<|im_start|>user\n{long}<|im_end|>\n<|im_start|>assistant\n").input_ids)
        - 512
    )
    assert model.notes(Prompt(text=long)) == [
        f"the prompt is long: Qwen 3 does not read its last {over} tokens"
    ]
    assert model.notes(Prompt(text="", negative=True)) == []
    absent = model.conditioner([Prompt(text="", absent=True, negative=True)])
    assert far(absent.tokens[0][absent.mask[0]], other[0]) < 1e-6


def their_walk(case: Case, steps: int, scale: float, height: int) -> Tensor:
    """The latent at the end of the pipeline's walk."""
    noise = torch.randn(1, 16, height // 2, 32, generator=torch.Generator().manual_seed(3)).double()
    with torch.no_grad(), wide_tables(case.pipe):
        found: Tensor = case.pipe(
            TEXTS[0],
            negative_prompt="dog",
            height=height,
            width=64,
            num_inference_steps=steps,
            guidance_scale=scale,
            latents=noise,
            output_type="latent",
        ).images
    return found


def test_the_turbos_whole_walk(turbo: Case, wide: None) -> None:
    """All of its default steps, without guidance: diffusers' 0 is 1 here."""
    expected = their_walk(turbo, 8, 0.0, 80)
    task = Text2Image(prompt=TEXTS[0], seed=3, size="64x80")
    for dtype, most in ((F64, 1e-6), (F32, 1e-5)):
        assert far(walked(turbo.model(dtype), task)[0], expected) < most


def test_the_bases_whole_walk(base: Case, wide: None) -> None:
    """All of its default steps, at its default guidance: diffusers' 5 is 6 here."""
    expected = their_walk(base, 50, 5.0, 64)
    task = Text2Image(prompt=TEXTS[0], negative="dog", seed=3, size="64x64")
    assert far(walked(base.model(F64), task)[0], expected) < 5e-6


def test_defaults_and_what_tells_the_turbo(turbo: Case, base: Case, tmp_path: Path) -> None:
    for case, name, steps, guidance, shift in (
        (turbo, "z-image-turbo", 8, 1.0, 3.0),
        (base, "z-image", 50, 6.0, 6.0),
    ):
        model = case.model(F32)
        defaults = model.defaults
        assert (model.name, defaults.steps, defaults.guidance, defaults.sampler) == (
            name,
            steps,
            guidance,
            "euler",
        )
        assert (defaults.width, defaults.height, defaults.multiple) == (1024, 1024, 16)
        assert model.denoiser.schedule.shift == shift
        with open_source(case.peer.folder) as source:
            report = inspect(source)
        assert (report.family, report.prediction) == (name, "flow")
        assert report.title == ("Z-Image Turbo" if case is turbo else "Z-Image")
        assert not report.missing
    with open_source(base.peer.folder) as source:
        asked = load_checkpoint(open_checkpoint(source), family="z-image-turbo")
    assert (asked.defaults.steps, asked.denoiser.schedule.shift) == (8, 6.0)
    for file, wanted in (("z_image_turbo_bf16", "z-image-turbo"), ("z_image_bf16", "z-image")):
        net = turbo.peer.folder / "transformer" / "diffusion_pytorch_model.safetensors"
        shutil.copyfile(net, tmp_path / f"{file}.safetensors")
        with open_source(tmp_path / f"{file}.safetensors") as source:
            assert inspect(source).family == wanted


def test_what_is_not_of_one_model_or_not_followed_is_refused(turbo: Case, tmp_path: Path) -> None:
    folder = tmp_path / "it"
    shutil.copytree(turbo.peer.folder, folder)
    settings = folder / "scheduler" / "scheduler_config.json"
    told = json.loads(settings.read_text("utf-8"))
    for changed, reason in (
        ({"use_dynamic_shifting": True}, "use_dynamic_shifting"),
        ({"shift": "three"}, "shift = 'three'"),
    ):
        settings.write_text(json.dumps({**told, **changed}), "utf-8")
        with open_source(folder) as source, pytest.raises(WeightsError, match=reason):
            load_checkpoint(open_checkpoint(source))
    with pytest.raises(InvalidRequest, match="as it is written"):
        turbo.model(F32).conditioner([Prompt(text="a", skip=1)])
    with pytest.raises(ValueError, match="must be even"):
        turbo.model(F32).denoiser.network(torch.ones(1, 16, 3, 4), torch.ones(1), tokens=torch.ones(1, 4, 48))


def test_without_transformers_the_extra_is_named(turbo: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(languages.util, "find_spec", lambda name: None)
    with open_source(turbo.peer.folder) as source:
        assert inspect(source).family == "z-image-turbo"
        with pytest.raises(MissingExtra, match=r"\(Qwen 3\).*pip install 'sfumato\[transformers\]'"):
            load_checkpoint(open_checkpoint(source))
