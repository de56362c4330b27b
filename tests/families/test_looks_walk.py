"""Pictures as part of FLUX.1's prompt against diffusers' Redux: conditions, walks, strengths, files that fit or not."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FluxPriorReduxPipeline
from diffusers.pipelines.flux import pipeline_flux_prior_redux
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from transformers import SiglipImageProcessorPil

import sfumato
from sfumato.condition import Cond, Look, Prompt
from sfumato.denoiser import row_levels
from sfumato.errors import InvalidRequest, WeightsError
from sfumato.families.convert import convert
from sfumato.families.inspect import inspect
from sfumato.families.published import load_checkpoint
from sfumato.families.split import opened
from sfumato.model import Model
from sfumato.process.level import Level
from sfumato.tasks.style import Style
from sfumato.tasks.text2image import Text2Image
from sfumato.weights.source import open_source
from tests.families.test_published import far, folded, unfolded, walked
from tests.peers.looks import embedder, tower
from tests.peers.pipelines import PIPELINES, Peer, peer, wide_tables
from tests.peers.tiny import in_float64

F64, F32 = torch.float64, torch.float32
PLACES = 16
"""Tokens of a picture: patches of the tiny tower."""


def picture(seed: int = 1, size: tuple[int, int] = (37, 50)) -> np.ndarray:
    """A random picture, uint8 (H, W, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def flux(tmp_path_factory: pytest.TempPathFactory) -> Peer:
    """A tiny FLUX.1 of diffusers."""
    return peer(PIPELINES["flux"], tmp_path_factory.mktemp("flux"))


@pytest.fixture(scope="module")
def schnell(tmp_path_factory: pytest.TempPathFactory) -> Peer:
    """A tiny FLUX.1 schnell."""
    return peer(PIPELINES["schnell"], tmp_path_factory.mktemp("schnell"))


@pytest.fixture(scope="module")
def prior(flux: Peer, tmp_path_factory: pytest.TempPathFactory) -> Peer:
    """A tiny Redux with FLUX.1's text encoders, saved without them as the published folder is."""
    made = FluxPriorReduxPipeline(
        image_encoder=tower(),
        feature_extractor=SiglipImageProcessorPil(size={"height": 32, "width": 32}),
        image_embedder=embedder(),
    )
    folder = tmp_path_factory.mktemp("redux")
    made.save_pretrained(folder)
    in_float64(made.image_encoder)
    in_float64(made.image_embedder)
    texts = {name: flux.part(name) for name in ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")}
    return Peer(FluxPriorReduxPipeline(**{**made.components, **texts}), folder)


def model(flux: Peer, prior: Peer, dtype: torch.dtype = F64) -> Model:
    """Our model of both folders."""
    with opened(flux.folder, [prior.folder]) as checkpoint:
        return load_checkpoint(checkpoint, dtype=dtype)


def looks(*seeds: int, strength: float = 1.0) -> tuple[Look, ...]:
    """Pictures as parts of a prompt."""
    return tuple(Look(picture(seed), str(seed), strength) for seed in seeds)


def tokens(cond: Cond) -> Tensor:
    """Its tokens."""
    assert cond.tokens is not None
    return cond.tokens


@pytest.mark.parametrize("text", ["a red cat", ""])
def test_conditions_are_those_of_the_prior(flux: Peer, prior: Peer, text: str) -> None:
    with torch.no_grad():
        theirs = prior.pipe(Image.fromarray(picture()), prompt=text)
        for dtype, most in ((F64, 1e-6), (F32, 1e-5)):
            cond = model(flux, prior, dtype).conditioner([Prompt(text=text, looks=looks(1), guidance=3.5)])
            assert tokens(cond).shape == (1, 512 + PLACES, 48)
            assert far(tokens(cond), theirs.prompt_embeds) < most
            assert cond.vector is not None
            assert far(cond.vector, theirs.pooled_prompt_embeds) < most


def test_strength_multiplies_the_pictures_tokens_and_several_stand_behind_each_other(
    flux: Peer, prior: Peer
) -> None:
    ours, text = model(flux, prior), "a red cat"

    def made(*seen: Look) -> Tensor:
        with torch.no_grad():
            return tokens(ours.conditioner([Prompt(text=text, looks=seen)]))

    plain, whole, other = made(), made(*looks(1)), made(*looks(2))
    assert torch.equal(whole[:, :512], plain)
    both = made(*looks(1, strength=0.25), *looks(2))
    assert torch.equal(both[:, :512], plain)
    assert torch.equal(both[:, 512 : 512 + PLACES], 0.25 * whole[:, 512:])
    assert torch.equal(both[:, 512 + PLACES :], other[:, 512:])
    assert not made(*looks(1, strength=0))[:, 512:].any()
    # diffusers' prompt_embeds_scale takes the text along, which a strength of the picture does not.
    with torch.no_grad():
        theirs = prior.pipe(Image.fromarray(picture()), prompt=text, prompt_embeds_scale=0.25).prompt_embeds
    assert far(both[:, 512 : 512 + PLACES], theirs[:, 512:]) < 1e-6
    assert far(0.25 * plain, theirs[:, :512]) < 1e-6


def test_by_attention_twice_is_the_picture_twice_and_never_is_the_text_alone(flux: Peer, prior: Peer) -> None:
    ours, draws = model(flux, prior), torch.Generator().manual_seed(6)
    x = torch.randn(1, 16, 8, 8, generator=draws, dtype=F64)

    def said(seen: tuple[Look, ...]) -> Tensor:
        with torch.no_grad():
            cond = ours.conditioner([Prompt(text="a red cat", looks=seen, guidance=3.5)])
            return ours.denoiser.output(x, row_levels([Level(0.6, 0.4, 0.6)]), cond)

    def often(seed: int, strength: float) -> tuple[Look, ...]:
        return tuple(replace(look, attention=True) for look in looks(seed, strength=strength))

    assert far(said(often(1, 2.0)), said(looks(1, 1))) < 1e-9
    assert far(said(often(1, 0.0)), said(())) < 1e-9
    assert far(said((*often(1, 0.0), *often(2, 2.0))), said(looks(2, 2))) < 1e-9
    assert torch.equal(said(often(1, 1.0)), said(looks(1)))
    half = said(often(1, 0.5))
    for other in (often(1, 1.0), looks(1, strength=0.5), ()):
        assert far(half, said(other)) > 1e-3


class Small:
    """torch, whose zeros have the widths of the tiny text encoders where the pipeline has the published ones'."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    def zeros(self, shape: tuple[int, ...], **more: Any) -> Tensor:
        return torch.zeros(*shape[:-1], {4096: 48, 768: 64}[shape[-1]], **more)


WORDLESS = {"text_encoder": None, "tokenizer": None, "text_encoder_2": None, "tokenizer_2": None}


@pytest.mark.parametrize("kind", ["flux", "schnell"])
@pytest.mark.parametrize("words", [True, False])
def test_whole_walks(
    request: pytest.FixtureRequest,
    prior: Peer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    words: bool,
) -> None:
    case: Peer = request.getfixturevalue(kind)
    told, image = "a red cat" if words else "", Image.fromarray(picture())
    noise = torch.randn(1, 16, 40, 32, generator=torch.Generator().manual_seed(3)).double()
    folder = case.folder
    with torch.no_grad(), wide_tables(case.pipe):
        if words:  # the prior has 512 tokens of T5 for every model, and schnell was trained on 256
            length = 512 if kind == "flux" else 256
            ready, pooled, _ = case.pipe.encode_prompt(told, None, max_sequence_length=length)
            seen = prior.pipe(image, prompt_embeds=ready, pooled_prompt_embeds=pooled)
        else:
            monkeypatch.setattr(pipeline_flux_prior_redux, "torch", Small())
            seen = FluxPriorReduxPipeline(**{**prior.pipe.components, **WORDLESS})(image)
            if kind == "schnell":
                seen.prompt_embeds = seen.prompt_embeds[:, 256:]
            folder = shutil.copytree(case.folder, tmp_path / "wordless")
            shutil.rmtree(folder / "text_encoder")
            shutil.rmtree(folder / "text_encoder_2")
        expected = case.pipe(
            height=80,
            width=64,
            num_inference_steps=3,
            guidance_scale=3.5,
            latents=folded(noise),
            output_type="latent",
            **seen,
        ).images
    guidance = 3.5 if kind == "flux" else 1.0
    task = Text2Image(prompt=told, look=[picture()], steps=3, seed=3, size="64x80", guidance=guidance)
    for dtype, most in ((F64, 1e-5), (F32, 1e-4)):
        with opened(folder, [prior.folder]) as checkpoint:
            ours = load_checkpoint(checkpoint, dtype=dtype)
        assert far(walked(ours, task)[0], unfolded(expected, 40, 32)) < most


def test_guidance_goes_from_a_negative_prompt_without_pictures(schnell: Peer, prior: Peer) -> None:
    """Both branches have another number of tokens; the one step ends at ``x - (n + w (p - n))``, where sigma is 1."""
    ours, size = model(schnell, prior), {"width": 64, "height": 80}
    task = Text2Image(
        prompt="a red cat", negative="dog", look=[picture()], steps=1, seed=3, size="64x80", guidance=3.0
    )
    x = torch.randn(1, 16, 40, 32, generator=torch.Generator().manual_seed(3)).double()

    def said(prompt: Prompt) -> Tensor:
        with torch.no_grad():
            return ours.denoiser.output(x, row_levels([Level(1.0, 0.0, 1.0)]), ours.conditioner([prompt]))

    wanted = said(Prompt(text="a red cat", looks=looks(1), guidance=3.0, **size))
    avoided = said(Prompt(text="dog", negative=True, guidance=3.0, **size))
    assert far(walked(ours, task)[0], x - (avoided + 3.0 * (wanted - avoided))) < 1e-6
    assert far(wanted, said(Prompt(text="a red cat", guidance=3.0, **size))) > 1e-3


def test_files_of_their_own_and_folders_make_the_same_conditions(
    flux: Peer, prior: Peer, tmp_path: Path
) -> None:
    state = {f"vision_model.{k}": v.float().contiguous() for k, v in tower().state_dict().items()}
    save_file(state, tmp_path / "sigclip_vision_patch14_384.safetensors")
    save_file(embedder().state_dict(), tmp_path / "flux1-redux-dev.safetensors")
    prompt = Prompt(text="a red cat", looks=looks(1))
    with opened(flux.folder, sorted(tmp_path.iterdir())) as checkpoint, torch.no_grad():
        files = load_checkpoint(checkpoint).conditioner([prompt])
        whole = model(flux, prior, F32).conditioner([prompt])
    assert torch.equal(tokens(files), tokens(whole))
    small = {k: v.to(torch.float8_e4m3fn) if v.ndim == 2 else v for k, v in embedder().state_dict().items()}
    save_file(small, tmp_path / "flux1-redux-dev.safetensors")
    with opened(flux.folder, sorted(tmp_path.iterdir())) as checkpoint, torch.no_grad():
        kept, unpacked = (
            load_checkpoint(checkpoint, packed=packed).conditioner([prompt]) for packed in (True, False)
        )
    assert torch.equal(tokens(kept), tokens(unpacked))
    assert 1e-3 < far(tokens(kept), tokens(whole).double()) < 0.1
    with open_source(prior.folder) as source:
        report = inspect(source)
        convert(source, tmp_path / "again", "diffusers")
    assert report.title == "SigLIP vision tower, 16 patches, width 128; FLUX.1 Redux, tokens of width 48"
    again = FluxPriorReduxPipeline.from_pretrained(tmp_path / "again")
    for name, value in tower().state_dict().items():
        assert torch.equal(again.image_encoder.state_dict()[name], value), name
    # A folder of Redux that brings FLUX.1's text encoders gives what is lacking.
    both = tmp_path / "both"
    shutil.copytree(prior.folder, both)
    index = (both / "model_index.json").read_text("utf-8")
    for name in ("text_encoder", "text_encoder_2"):
        shutil.copytree(flux.folder / name, both / name)
    (both / "model_index.json").write_text(index, "utf-8")
    with opened(flux.folder, [both]) as checkpoint, torch.no_grad():
        assert torch.equal(tokens(load_checkpoint(checkpoint).conditioner([prompt])), tokens(whole))


def test_what_cannot_be_seen_is_refused(flux: Peer, prior: Peer, tmp_path: Path) -> None:
    save_file(embedder().state_dict(), tmp_path / "redux.safetensors")
    save_file(embedder(tokens=24).state_dict(), tmp_path / "narrow.safetensors")
    tower_folder = prior.folder / "image_encoder"
    for parts, fault in (
        ([tmp_path / "redux.safetensors"], "looker .SigLIP's vision tower. is missing"),
        ([tower_folder], "redux .the embedder of FLUX.1 Redux. is missing"),
        ([tower_folder, tmp_path / "narrow.safetensors"], "makes 24 of 128 values"),
        ([prior.folder, tower_folder], "holds SigLIP's vision tower, which .* holds too"),
    ):
        with opened_or_fault(flux.folder, parts, fault):
            pass
    with pytest.raises(WeightsError, match=r"makes no pictures, but tokens of them for FLUX.1"):
        sfumato.load(str(prior.folder))
    other = peer(PIPELINES["sd1"], tmp_path / "sd1")
    with opened_or_fault(other.folder, [prior.folder], "does not read pictures by SigLIP's vision tower"):
        pass
    plain, seeing = sfumato.load(str(flux.folder)), model(flux, prior, F32)
    with pytest.raises(InvalidRequest, match=r"look is not for the model 'flux': it lacks looker .*--part"):
        plain("a cat", look=[picture()], steps=1)
    with pytest.raises(InvalidRequest, match=r"look is not for the model 'emoji': it reads no pictures"):
        sfumato.load()("a cat", look=[picture()], steps=1)
    with pytest.raises(InvalidRequest, match="equally many pictures"):
        seeing.conditioner([Prompt(text="a", looks=looks(1)), Prompt(text="b")])


class opened_or_fault:  # noqa: N801
    """A checkpoint that is refused with ``fault`` when it is opened or loaded."""

    def __init__(self, path: Path, parts: list[Path], fault: str) -> None:
        with pytest.raises(WeightsError, match=fault), opened(path, parts) as checkpoint:
            load_checkpoint(checkpoint)

    def __enter__(self) -> None: ...
    def __exit__(self, *_: Any) -> None: ...


def test_without_text_encoders_pictures_are_the_whole_prompt(flux: Peer, prior: Peer, tmp_path: Path) -> None:
    folder = shutil.copytree(flux.folder, tmp_path / "wordless")
    shutil.rmtree(folder / "text_encoder")
    shutil.rmtree(folder / "text_encoder_2")
    with opened(folder, [prior.folder]) as checkpoint:
        ours = load_checkpoint(checkpoint)
    cond = ours.conditioner([Prompt(text="", looks=looks(1))])
    assert not tokens(cond)[:, :512].any()
    assert cond.vector is not None
    assert not cond.vector.any()
    assert not tokens(ours.conditioner([Prompt(text="", absent=True, negative=True)])).any()
    with pytest.raises(InvalidRequest, match="without its text encoders"):
        ours.conditioner([Prompt(text="a cat", looks=looks(1))])
    assert ours.notes(Prompt(text=" ", looks=looks(1))) is not None


def test_a_reference_of_style_sees_no_picture(schnell: Peer, prior: Peer) -> None:
    """By attention strength 0 is the prompt alone to it too; and what is avoided, which is shorter, goes with it."""
    ours = model(schnell, prior)
    fields: dict[str, Any] = {
        "image": picture(4),
        "prompt": "a red cat",
        "source": "dog",
        "negative": "night",
    }
    fields |= {"steps": 2, "seed": 3, "size": "64x80", "guidance": 3.0}
    plain = walked(ours, Style(**fields))[0]
    none = walked(ours, Style(**fields, look=[(picture(), 0.0)], look_by="attention"))[0]
    some = walked(ours, Style(**fields, look=[(picture(), 1.0)], look_by="attention"))[0]
    assert far(none, plain) < 1e-9
    assert far(some, plain) > 1e-3
