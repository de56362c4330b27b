"""Every published family against diffusers' pipelines: conditions, networks, codecs, whole walks; all redrawn."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from sfumato.condition import Cond, Prompt
from sfumato.denoiser import row_levels
from sfumato.engine.run import run
from sfumato.model import Model
from sfumato.nn.flux import folded, positions
from sfumato.process.level import Level
from sfumato.tasks.text2image import Text2Image
from tests.peers.pipelines import PIPELINES, Case, wide_tables

F64, F32, BF16 = torch.float64, torch.float32, torch.bfloat16
PROMPT = "a red cat at night, 42 ROCKETS (naïve)"
LONG = "the red cat flies and " * 110


def cases(*without: str) -> pytest.MarkDecorator:
    """All pipelines but some."""
    return pytest.mark.parametrize("case", [n for n in PIPELINES if n not in without], indirect=True)


def family(name: str) -> str:
    """Which way of calling a pipeline has."""
    known = {
        "sd3": ("sd3",),
        "flux": ("flux", "schnell", "fill"),
        "xl": ("sdxl", "cosxl", "playground", "refiner"),
    }
    return next((kind for kind, begins in known.items() if name.startswith(begins)), "sd")


def sizes(name: str) -> tuple[int, int]:
    """Height and width of the pictures in tests."""
    return (80, 64) if family(name) == "flux" else (48, 32)


def far(found: Tensor, expected: Tensor) -> float:
    """The root of the mean square of the difference, in parts of that of what is expected."""
    assert found.shape == expected.shape
    return float((found.double() - expected).norm() / expected.norm())


def theirs(name: str, pipe: Any, text: str, negative: str | None) -> tuple[Cond, Cond]:
    """What the pipeline makes of a prompt and a negative prompt (None: left out)."""
    with torch.no_grad():
        if family(name) == "flux":
            length = 256 if name == "schnell" else 512
            tokens, pooled, _ = pipe.encode_prompt(text, None, max_sequence_length=length)
            return Cond(tokens=tokens, vector=pooled), Cond()
        if family(name) == "sd":
            tokens, other = pipe.encode_prompt(text, "cpu", 1, True, negative)
            return Cond(tokens=tokens), Cond(tokens=other)
        more = {} if family(name) == "xl" else {"prompt_2": None, "prompt_3": None}
        tokens, other, pooled, vector = pipe.encode_prompt(text, negative_prompt=negative, **more)
        return Cond(tokens=tokens, vector=pooled), Cond(tokens=other, vector=vector)


@cases("sdxl ztsnr", "cosxl", "playground", "inpaint", "instruct", "sd2 eps")
def test_conditions(case: Case) -> None:
    for text, negative in ((PROMPT, None), (LONG, "dog"), ("", "")):
        positive = Prompt(text=text, width=32, height=48)
        avoid = Prompt(text=negative or "", absent=negative is None, negative=True, width=32, height=48)
        told = theirs(case.name, case.pipe, text, negative)
        for given, wanted in zip((positive, avoid), told, strict=True):
            for dtype, most in ((F64, 1e-6), (F32, 1e-5)):
                if wanted.tokens is None:
                    continue
                found = case.model(dtype).conditioner([given])
                assert found.tokens.dtype == dtype
                if wanted.tokens.abs().max() == 0:
                    assert found.tokens.abs().max() == found.vector[:, :48].abs().max() == 0
                    continue
                assert far(found.tokens, wanted.tokens) < most
                if wanted.vector is not None:
                    assert far(found.vector[:, : wanted.vector.shape[1]], wanted.vector) < most


@pytest.mark.parametrize("case", ["sdxl", "sdxl no zeros", "refiner"], indirect=True)
def test_zeros_stand_for_a_negative_prompt_left_out_where_the_folder_says_so(case: Case) -> None:
    absent, empty = (Prompt(text="", absent=absent, negative=True) for absent in (True, False))
    rows = case.model(F32).conditioner([absent, empty])
    assert bool(rows.tokens[0].abs().max() == 0) == (case.name == "sdxl")
    assert rows.tokens[1].abs().max() > 0


def network_rows(name: str, pipe: Any) -> tuple[Tensor, Cond]:
    """A latent, and what stands beside it at other doors than text."""
    height, width = (side // pipe.vae_scale_factor for side in sizes(name))
    draws = torch.Generator().manual_seed(8)
    channels = 16 if family(name) in ("sd3", "flux") else 4
    x = torch.randn(1, channels, height, width, generator=draws, dtype=F64)
    beside = {"inpaint": 5, "instruct": 4, "x4": 3, "fill": 80}.get(name, 0)
    extra = torch.randn(1, beside, height, width, generator=draws, dtype=F64) if beside else None
    return x, Cond(channels=extra, label=torch.tensor([20]) if name == "x4" else None)


def unfolded(rows: Tensor, height: int, width: int) -> Tensor:
    """What ``folded`` made rows of."""
    return torch.nn.functional.pixel_shuffle(rows.transpose(1, 2).unflatten(2, (height // 2, width // 2)), 2)


def their_output(
    case: Case, net: Any, x: Tensor, beside: Cond, time: float, cond: Cond, score: bool
) -> Tensor:
    """The output of the pipeline's network, or of ``net``, the same in another dtype."""
    name = case.name
    beside, cond = (one.to(x.dtype, x.device) for one in (beside, cond))
    if beside.channels is not None:
        x = torch.cat((x, beside.channels), 1)
    clock = torch.tensor([time], dtype=x.dtype)
    with torch.no_grad():
        if family(name) == "sd":
            out: Tensor = net(x, clock, cond.tokens, class_labels=beside.label).sample
        elif family(name) == "xl":
            last = (2.5 if score else 6.0,) if name == "refiner" else sizes(name)
            told = torch.tensor([[*sizes(name), 0, 0, *last]], dtype=x.dtype)
            added = {"text_embeds": cond.vector, "time_ids": told}
            out = net(x, clock, cond.tokens, added_cond_kwargs=added).sample
        elif family(name) == "sd3":
            out = net(x, cond.tokens, cond.vector, clock).sample
        else:
            guidance = None if name == "schnell" else torch.tensor([4.0], dtype=x.dtype)
            places = positions(x.shape[-2] // 2, x.shape[-1] // 2, 0).double()
            none = torch.zeros(cond.tokens.shape[1], 3, dtype=x.dtype)
            rows = net(folded(x), cond.tokens, cond.vector, clock / 1000, places, none, guidance).sample
            out = unfolded(rows, *x.shape[-2:])
    return out


@cases("sdxl no zeros", "sdxl ztsnr", "cosxl", "playground", "sd2 eps")
def test_networks(case: Case) -> None:
    height, width = sizes(case.name)
    x, beside = network_rows(case.name, case.pipe)
    wanted = theirs(case.name, case.pipe, PROMPT, "dog")
    flow = family(case.name) in ("sd3", "flux")
    place = "transformer" if flow else "unet"
    exact, time = case.model(F64), 625.0 if flow else 512.0
    at = row_levels([Level(0.625, 0.375, 0.625) if flow else exact.schedule(x.shape[1:]).level(time)])
    for negative in (False, True) if wanted[1].tokens is not None else (False,):
        text = "dog" if negative else PROMPT
        prompt = Prompt(text=text, negative=negative, width=width, height=height, guidance=4.0)
        cond = Cond(**{**exact.conditioner([prompt]).named(), **beside.named()})
        asked = (beside, time, wanted[negative], negative)
        expected = their_output(case, getattr(case.pipe, place), x, *asked)
        found = {
            dtype: far(case.model(dtype).denoiser.output(x, at, cond), expected) for dtype in (F64, F32, BF16)
        }
        assert found[F64] < 1e-6
        assert found[F32] < 1e-5
        if found[BF16] > 2e-2:  # so is theirs then
            kind = type(getattr(case.pipe, place))
            coarse = kind.from_pretrained(case.peer.folder / place, torch_dtype=BF16)
            assert found[BF16] < 1.1 * far(their_output(case, coarse, x.to(BF16), *asked), expected)


@pytest.mark.parametrize("case", ["sd1", "sdxl", "x4", "sd3", "flux"], indirect=True)
def test_codecs(case: Case) -> None:
    vae = case.pipe.vae
    scale, shift = vae.config.scaling_factor, vae.config.shift_factor or 0.0
    draws = torch.Generator().manual_seed(9)
    pixels = torch.randn(1, 3, 24, 20, generator=draws, dtype=F64)
    with torch.no_grad():
        latent = (vae.encode(pixels).latent_dist.mean - shift) * scale
        decoded = vae.decode(latent / scale + shift).sample.clamp(-1, 1)
    for dtype, most in ((F64, 1e-6), (F32, 1e-5), (BF16, 2e-2)):
        outer = F64 if dtype == F64 else F32
        codec = case.model(dtype).codec
        found, back = codec.encode(pixels), codec.decode(latent.to(outer))
        assert found.dtype == back.dtype == outer
        assert far(found, latent) < most
        assert far(back, decoded) < most
        assert codec.shape(24, 20) == latent.shape[1:]


def walked(model: Model, task: Text2Image) -> tuple[Tensor, Tensor]:
    """The latent that a task decodes, and its pixels."""
    seen: dict[str, Tensor] = {}

    def listen(ask: Any, reply: Any) -> None:
        if ask.verb == "decode":
            seen["latent"], seen["pixels"] = ask.arguments[0], reply

    run(task(model), listen)
    return seen["latent"], seen["pixels"]


def their_walk(case: Case, steps: int, negative: str | None) -> Tensor:
    """The latent at the end of the pipeline's walk from the same noise."""
    name, pipe = case.name, case.pipe
    height, width = sizes(name)
    shape = case.model(F64).codec.shape(height, width)
    noise = torch.randn(1, *shape, generator=torch.Generator().manual_seed(3)).double()
    options: dict[str, Any] = {"guidance_scale": 1.0 if name == "schnell" else 4.0}
    if family(name) == "flux":
        options |= {"max_sequence_length": 256 if name == "schnell" else 512, "latents": folded(noise)}
    else:
        options |= {"negative_prompt": negative, "latents": noise}
    with torch.no_grad(), wide_tables(pipe):
        out: Tensor = pipe(
            PROMPT, height=height, width=width, num_inference_steps=steps, output_type="latent", **options
        ).images
    return unfolded(out, *shape[1:]) if family(name) == "flux" else out


def our_task(case: Case, steps: int, negative: str | None) -> Text2Image:
    """The same as a task."""
    height, width = sizes(case.name)
    return Text2Image(
        prompt=PROMPT,
        negative=negative,
        steps=steps,
        seed=3,
        size=f"{width}x{height}",
        guidance=1.0 if case.name == "schnell" else 4.0,
    )


@cases("refiner", "inpaint", "instruct", "x4", "fill", "sdxl no zeros")
def test_whole_walks(case: Case) -> None:
    negative = None if case.name == "sdxl" or family(case.name) == "flux" else "dog"
    # diffusers' DDIM goes down by T // n, which is the next level of a trailing grid only where n divides T.
    steps = 4 if case.name == "sdxl ztsnr" else 3
    expected = their_walk(case, steps, negative)
    for dtype, most in ((F64, 1e-5), (F32, 1e-4)):
        latent, pixels = walked(case.model(dtype), our_task(case, steps, negative))
        assert far(latent, expected) < most
    vae, raw = case.pipe.vae, expected / case.pipe.vae.config.scaling_factor
    if vae.config.latents_mean is not None:
        mean, std = (
            torch.tensor(told).view(1, -1, 1, 1) for told in (vae.config.latents_mean, vae.config.latents_std)
        )
        raw = raw * std + mean
    with torch.no_grad():
        decoded = vae.decode(raw + (vae.config.shift_factor or 0)).sample
    assert far(pixels, decoded.clamp(-1, 1)) < 1e-4


@pytest.mark.parametrize("case", ["sd1"], indirect=True)
def test_a_walk_of_all_orders_of_pndm(case: Case) -> None:
    assert far(walked(case.model(F64), our_task(case, 9, "dog"))[0], their_walk(case, 9, "dog")) < 1e-5


@pytest.mark.parametrize("case", ["flux", "schnell"], indirect=True)
def test_the_shift_of_flux_grows_with_the_picture_where_guidance_is_distilled(case: Case) -> None:
    tokens = (64 // 2) * (64 // 2)  # of a latent of 64 x 64
    mu = 0.5 + (1.15 - 0.5) * (tokens - 256) / (4096 - 256) if case.name == "flux" else 0.0
    assert case.model(F32).schedule((16, 64, 64)).shift == pytest.approx(math.exp(mu), rel=1e-12)
