"""A picture as part of the prompt of FLUX.1 Kontext, Fill and Control, beside diffusers' pipelines after its prior."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FluxPriorReduxPipeline
from PIL import Image
from transformers import SiglipImageProcessorPil

from sfumato.families.published import load_checkpoint
from sfumato.families.split import opened
from sfumato.model import Model
from sfumato.tasks.control import Control
from sfumato.tasks.inpaint import Inpaint
from sfumato.tasks.instruct import Instruct
from tests.peers.looks import embedder, tower
from tests.peers.picture_pipelines import built, draw, far, folded, latent_of, noise_of, photo, unfolded
from tests.peers.tiny import in_float64

F64, F32 = torch.float64, torch.float32
WIDTH, HEIGHT = 64, 80
PROMPT = "a red cat at night"
SEEN = photo(40, 30, seed=5)
MASK = np.zeros((HEIGHT, WIDTH), bool)
MASK[11:50, 5:41] = True
SIZES = {"height": HEIGHT, "width": WIDTH}
CASES: dict[str, tuple[type[Any], dict[str, Any], dict[str, Any]]] = {
    "kontext": (Instruct, {}, {"max_area": WIDTH * HEIGHT, "_auto_resize": False}),
    "fill of eighths": (Inpaint, {"mask": MASK, "keep": "free"}, {"mask_image": Image.fromarray(MASK)}),
    "control": (Control, {}, {}),
}
"""By the name of a tiny pipeline the task, its fields, and what the pipeline is told."""


@pytest.mark.parametrize("name", CASES)
def test_every_kind_of_flux_sees_the_picture(tmp_path: Path, name: str) -> None:
    case, (task, fields, told) = built(name, tmp_path / "flux"), CASES[name]
    small = {"height": 32, "width": 32}
    networks = {"image_encoder": tower(), "image_embedder": embedder()}
    redux = FluxPriorReduxPipeline(**networks, feature_extractor=SiglipImageProcessorPil(size=small))
    redux.save_pretrained(tmp_path / "redux")
    for network in networks.values():
        in_float64(network)
    texts = {n: getattr(case.pipe, n) for n in ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")}
    prior = FluxPriorReduxPipeline(**{**redux.components, **texts})

    def model(dtype: torch.dtype) -> Model:
        with opened(case.peer.folder, [tmp_path / "redux"]) as checkpoint:
            return load_checkpoint(checkpoint, dtype=dtype)

    image, ours = photo(WIDTH, HEIGHT), model(F64)
    noise = draw(ours, WIDTH, HEIGHT)
    shown = {"control_image" if name == "control" else "image": Image.fromarray(image), **SIZES, **told}
    with torch.no_grad(), noise_of(case.pipe):
        seen = prior(Image.fromarray(SEEN), prompt=PROMPT)
        out = case.pipe(
            **shown,
            **seen,
            num_inference_steps=2,
            guidance_scale=4.0,
            output_type="latent",
            latents=folded(noise),
        ).images
    expected = unfolded(out, *noise.shape[-2:])
    ask = {"image": image, "prompt": PROMPT, "look": [SEEN], "steps": 2, "guidance": 4.0, "seed": 3, **fields}
    assert far(latent_of(task, ours, **ask), expected) < 1e-5
    assert far(latent_of(task, model(F32), **ask), expected) < 1e-4
    assert far(latent_of(task, ours, **{**ask, "look": []}), expected) > 1e-3
