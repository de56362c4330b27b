"""Single files in the authors' layouts: diffusers reads what we wrote, and we make the folder's pictures of it."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.loaders import single_file_model
from torch import Tensor

from sfumato.condition import Prompt
from sfumato.engine.run import run
from sfumato.errors import WeightsError
from sfumato.families.checkpoint import open_checkpoint
from sfumato.families.convert import convert
from sfumato.families.published import load_checkpoint
from sfumato.families.split import combined
from sfumato.model import Model
from sfumato.tasks.text2image import Text2Image
from sfumato.text.t5 import T5Tokens
from sfumato.weights.save import save_tensors
from sfumato.weights.source import open_source
from tests.peers.pipelines import Case
from tests.peers.single_files import PREFIXES, places, single_file, tensors

F32 = torch.float32


def opened(path: Path, case: Case, **options: Any) -> Model:
    """Our model of a file, with T5's vocabulary from the folder, since files have none."""
    words = {"sd3": "tokenizer_3", "flux": "tokenizer_2", "schnell": "tokenizer_2", "fill": "tokenizer_2"}
    place = words.get(case.name.split(".")[0].split()[0])
    tokens = T5Tokens.load(case.peer.folder / place) if place else None
    with open_source(path) as source:
        return load_checkpoint(open_checkpoint(source), dtype=F32, tokens=tokens, **options)


def latent(model: Model, **options: Any) -> Tensor:
    """What a short walk decodes."""
    seen: list[Tensor] = []

    def listen(ask: Any, reply: Any) -> None:
        if ask.verb == "decode":
            seen.append(ask.arguments[0])

    run(Text2Image(prompt="a red cat", steps=2, seed=5, size="64x64", **options)(model), listen)
    return seen[0]


@pytest.fixture
def any_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let diffusers read FLUX.1 of a tiny width: its function has the published one, 3072, written in it."""
    entry = single_file_model.SINGLE_FILE_LOADABLE_CLASSES["FluxTransformer2DModel"]
    function = entry["checkpoint_mapping_fn"]
    text = inspect.getsource(function)
    assert text.count("inner_dim = 3072") == 1
    names = dict(vars(inspect.getmodule(function)))
    exec(text.replace("inner_dim = 3072", "inner_dim = 64"), names)
    monkeypatch.setitem(entry, "checkpoint_mapping_fn", names[function.__name__])


@pytest.mark.usefixtures("any_width")
@pytest.mark.parametrize("case", list(PREFIXES), indirect=True)
def test_a_single_file_is_read_by_diffusers_and_makes_the_folders_pictures(
    case: Case, tmp_path: Path
) -> None:
    name = case.name
    path = single_file(name, case.peer.folder, tmp_path / "model.safetensors")
    place = "transformer" if hasattr(case.pipe, "transformer") else "unet"
    for part in (place, "vae"):
        kind = type(getattr(case.pipe, part))
        made = kind.from_single_file(
            str(path), config=str(case.peer.folder), subfolder=part, local_files_only=True
        )
        state = getattr(case.pipe, part).state_dict()
        found = made.state_dict()
        assert found.keys() == state.keys()
        for key, tensor in state.items():
            assert torch.equal(found[key].double(), tensor.double()), key
    ours = opened(path, case, **({"predicts": "v"} if name == "sd2 v" else {}))
    folder = case.model(F32)
    prompts = [Prompt(text="a red cat", width=64, height=64), Prompt(text="dog", negative=True)]
    for mine, its in zip(
        ours.conditioner(prompts).named().values(), folder.conditioner(prompts).named().values(), strict=True
    ):
        assert torch.equal(mine, its)
    assert ours.refused == folder.refused
    if not ours.refused:
        assert torch.equal(latent(ours), latent(folder))
    assert ours.hash != folder.hash


@pytest.mark.parametrize(
    ("case", "markers"),
    [
        ("sdxl ztsnr", {"v_pred": 0.0, "ztsnr": 0.0}),
        ("cosxl", {"edm_vpred.sigma_max": 120.0, "edm_vpred.sigma_min": 0.002}),
        ("playground", {"edm_mean": [-1.6, 1.9, -1.4, 2.5], "edm_std": [8.5, 5.9, 6.5, 5.2]}),
    ],
    indirect=["case"],
)
def test_markers_say_what_a_scheduler_says(case: Case, markers: dict[str, Any], tmp_path: Path) -> None:
    more = {name: torch.tensor(value).flatten() for name, value in markers.items()}
    path = single_file("sdxl", case.peer.folder, tmp_path / "marked.safetensors", more)
    ours, folder = opened(path, case), case.model(F32)
    wanted = "edm" if case.name == "playground" else "v"
    assert ours.denoiser.prediction.kind == folder.denoiser.prediction.kind == wanted
    assert ours.defaults.guidance == folder.defaults.guidance == (3.0 if case.name == "playground" else 5.0)
    close = 0 if case.name == "sdxl ztsnr" else 1e-5  # 0.002 is rounded in the file
    made = latent(folder)
    torch.testing.assert_close(latent(ours), made, rtol=close, atol=close)
    # Converted, the settings become marks, and these settings again.
    with open_source(case.peer.folder) as source:
        convert(source, tmp_path / "one.safetensors", "original")
    with open_source(tmp_path / "one.safetensors") as source:
        convert(source, tmp_path / "folder", "diffusers")
    for converted in ("one.safetensors", "folder"):
        torch.testing.assert_close(latent(opened(tmp_path / converted, case)), made, rtol=close, atol=close)


@pytest.mark.parametrize("case", ["sd3", "flux"], indirect=True)
def test_split_files_are_one_model(case: Case, tmp_path: Path) -> None:
    opened_, text = [], {"text": "diffusers", "text_2": "diffusers", "text_3": "diffusers"}
    for place, part in places(case.peer.folder).items():
        path = tmp_path / f"{place}.safetensors"
        save_tensors(path, tensors(part, "", text.get(place, "original"), tmp_path / "scratch.safetensors"))
        with open_source(path) as source:
            opened_.append(open_checkpoint(source))
    whole = combined(opened_[0], opened_[:0:-1])
    words = T5Tokens.load(case.peer.folder / ("tokenizer_3" if case.name == "sd3" else "tokenizer_2"))
    assert torch.equal(latent(load_checkpoint(whole, tokens=words)), latent(case.model(F32)))
    with pytest.raises(WeightsError, match="holds too"):
        combined(whole, opened_[1:2])
