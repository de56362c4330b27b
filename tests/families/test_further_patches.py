"""PixArt-alpha, PixArt-Sigma and DiT against diffusers' pipelines: conditions, networks, walks, both layouts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import sfumato
from sfumato.condition import Cond, Prompt
from sfumato.denoiser import row_levels
from sfumato.errors import InvalidRequest, WeightsError
from sfumato.families.checkpoint import open_checkpoint
from sfumato.families.convert import convert
from sfumato.families.inspect import inspect
from sfumato.families.published import load_checkpoint
from sfumato.families.shapes import dit
from sfumato.tasks.text2image import Text2Image
from sfumato.tasks.unconditional import Class2Image, Unconditional
from sfumato.text.prompt.dialects import parse, parts_at
from sfumato.weights.load import load_into
from sfumato.weights.save import save_module, save_tensors
from sfumato.weights.source import open_source
from tests.families.test_published import far, walked
from tests.families.test_published_rows import check
from tests.peers.further import FURTHER, further
from tests.peers.pipelines import Case, wide_tables

F64, F32 = torch.float64, torch.float32
PROMPT, NEGATIVE = "A red cat at NIGHT, 42 rockets (naïve) ", "dog"
NAMES = ["pixart alpha", "pixart alpha 1024", "pixart sigma", "dit"]


@pytest.fixture(scope="module")
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """The case of a name, built once for all tests of a module."""
    return further(request.param, tmp_path_factory.mktemp("further"))


def sides(name: str) -> tuple[int, int]:
    """Height and width of the pictures in tests; diffusers' DiT makes squares of one size."""
    return (32, 32) if name == "dit" else (80, 64)


def told(name: str) -> list[tuple[Prompt, str]]:
    """A prompt and a negative one as tasks give them, and what the pipeline is given."""
    height, width = sides(name)
    text, avoid = ("ostrich", "") if name == "dit" else (PROMPT, NEGATIVE)
    return [
        (Prompt(text=text, height=height, width=width), text),
        (Prompt(text=avoid, height=height, width=width, negative=True), avoid),
    ]


def theirs(case: Case, text: str) -> Cond:
    """What the pipeline makes of a text."""
    if case.name == "dit":
        return Cond(label=torch.tensor([case.pipe.get_label_ids([text])[0] if text else 1000]))
    with torch.no_grad():
        tokens, mask, _, _ = case.pipe.encode_prompt(text, False)
    return Cond(tokens=tokens, mask=mask.bool())


@pytest.mark.parametrize("case", NAMES, indirect=True)
def test_conditions_and_networks(case: Case) -> None:
    height, width = sides(case.name)
    x = torch.randn(1, 4, height // 2, width // 2, generator=torch.Generator().manual_seed(8), dtype=F64)
    for prompt, text in told(case.name):
        wanted = theirs(case, text)
        added = {"resolution": None, "aspect_ratio": None}
        if case.name == "pixart alpha 1024":
            added = {
                "resolution": torch.tensor([[height, width]], dtype=F64),
                "aspect_ratio": torch.tensor([[height / width]], dtype=F64),
            }
        clock = torch.tensor([512.0], dtype=F64)
        with torch.no_grad():
            if case.name == "dit":
                expected = case.pipe.transformer(x, clock, wanted.label).sample
            else:
                expected = case.pipe.transformer(
                    x, wanted.tokens, clock, added, encoder_attention_mask=wanted.mask.double()
                ).sample
        for dtype, most in ((F64, 1e-6), (F32, 1e-5)):
            model = case.model(dtype)
            cond = model.conditioner([prompt])
            if wanted.tokens is not None:
                assert torch.equal(cond.mask, wanted.mask)
                assert far(cond.tokens, wanted.tokens) < most
            else:
                assert torch.equal(cond.label, wanted.label)
            at = row_levels([model.schedule(x.shape[1:]).level(512.0)])
            assert far(model.denoiser.output(x, at, cond), expected) < most


def their_walk(case: Case, steps: int, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """The latent that the pipeline decodes at the end of a walk from our noise."""
    height, width = sides(case.name)
    noise = torch.randn(1, 4, height // 2, width // 2, generator=torch.Generator().manual_seed(3)).double()
    seen: list[Tensor] = []
    scale = case.pipe.vae.config.scaling_factor
    if case.name == "dit":
        module = __import__(type(case.pipe).__module__, fromlist=["randn_tensor"])
        monkeypatch.setattr(module, "randn_tensor", lambda *_, **__: noise)
    decode = type(case.pipe.vae).decode

    def listen(z: Tensor, *more: Any, **options: Any) -> Any:
        seen.append(z * scale)
        return decode(case.pipe.vae, z, *more, **options)

    monkeypatch.setattr(case.pipe.vae, "decode", listen)
    with torch.no_grad(), wide_tables(case.pipe):
        if case.name == "dit":
            case.pipe(class_labels=[9], guidance_scale=4.0, num_inference_steps=steps, output_type="pt")
        else:
            case.pipe(
                PROMPT,
                negative_prompt=NEGATIVE,
                height=height,
                width=width,
                num_inference_steps=steps,
                guidance_scale=4.0,
                latents=noise,
                use_resolution_binning=False,
                output_type="pt",
            )
    return seen[0]


def our_task(name: str, steps: int | None = None) -> Any:
    """The same as a task."""
    height, width = sides(name)
    chosen: dict[str, Any] = {"steps": steps, "seed": 3, "size": f"{width}x{height}", "guidance": 4.0}
    if name == "dit":
        return Class2Image(label="Ostrich", **chosen)
    return Text2Image(prompt=PROMPT, negative=NEGATIVE, **chosen)


@pytest.mark.parametrize("case", NAMES, indirect=True)
def test_whole_walks(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = their_walk(case, 4, monkeypatch)
    for dtype, most in ((F64, 1e-5), (F32, 1e-4)):
        latent, _ = walked(case.model(dtype), our_task(case.name, 4))
        assert far(latent, expected) < most


def original(case: Case, path: Path) -> Path:
    """The denoiser of a case as its authors' file has it, with their tables beside the weights."""
    with open_source(case.peer.folder) as source:
        part = open_checkpoint(source).parts["denoiser"]
    module = load_into(part.make, part.source, part.table, part.layout)
    save_module(path, module, part.table, "original")
    with open_source(path) as source:
        whole = {name: source.read(name) for name in source.entries}
    side = part.config.side
    whole["pos_embed"] = torch.zeros(1, side * side, part.config.width)
    if case.name != "dit":
        length = 300 if "sigma" in case.name else 120
        whole["y_embedder.y_embedding"] = torch.zeros(length, part.config.tokens)
    return save_tensors(path, whole)


@pytest.mark.parametrize("case", NAMES, indirect=True)
def test_the_authors_layout_is_the_same_network(case: Case, tmp_path: Path) -> None:
    path = original(case, tmp_path / "theirs.safetensors")
    with open_source(path) as source, open_source(case.peer.folder) as folder:
        report = inspect(source)
        alone, whole = open_checkpoint(source), open_checkpoint(folder)
        assert inspect(folder).family == report.family == case.name.split()[0]
        part, wanted = alone.parts["denoiser"], whole.parts["denoiser"]
        assert part.layout == "original"
        assert part.config == wanted.config if case.name != "pixart alpha" else part.config.side == 8
        mixed = load_checkpoint(type(whole)(whole.source, {**whole.parts, "denoiser": part}, whole.configs))
    found = mixed.denoiser.network.state_dict()
    for name, tensor in case.model(F32).denoiser.network.state_dict().items():
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize("case", [n for n in NAMES if n != "dit"], indirect=True)
def test_diffusers_reads_what_we_write_in_its_layout(case: Case, tmp_path: Path) -> None:
    with open_source(case.peer.folder) as source:
        part = open_checkpoint(source).parts["denoiser"]
        module = load_into(part.make, part.source, part.table, part.layout)
    save_module(tmp_path / "back.safetensors", module, part.table, "diffusers")
    with open_source(tmp_path / "back.safetensors") as back:
        state = case.pipe.transformer.state_dict()
        assert back.entries.keys() == state.keys()
        for name, tensor in state.items():
            assert torch.equal(back.read(name).double(), tensor), name


@pytest.mark.parametrize("case", ["pixart sigma", "dit"], indirect=True)
def test_a_transformer_alone_is_converted(case: Case, tmp_path: Path) -> None:
    path = original(case, tmp_path / "theirs.safetensors")
    with open_source(path) as source:
        if case.name == "dit":
            with pytest.raises(WeightsError, match="not written in diffusers' layout"):
                convert(source, tmp_path / "made", layout="diffusers")
            return
        convert(source, tmp_path / "made", layout="diffusers")
    made = type(case.pipe.transformer).from_pretrained(tmp_path / "made")
    for name, tensor in case.pipe.transformer.state_dict().items():
        assert torch.equal(made.state_dict()[name].double(), tensor), name
    for name in ("sample_size", "interpolation_scale", "use_additional_conditions", "num_attention_heads"):
        assert made.config[name] == case.pipe.transformer.config[name], name
    with open_source(case.peer.folder) as source, pytest.raises(WeightsError, match="its denoiser alone"):
        convert(source, tmp_path / "whole.safetensors", layout="original")


@pytest.mark.parametrize("case", NAMES, indirect=True)
def test_no_two_rows_of_a_key_table_can_be_exchanged(case: Case) -> None:
    with open_source(case.peer.folder) as source:
        part = open_checkpoint(source).parts["denoiser"]
    draws = torch.Generator().manual_seed(2)
    x, tokens = torch.randn(1, 4, 8, 8, generator=draws), torch.randn(1, 5, 48, generator=draws)
    doors: dict[str, Tensor] = {"tokens": tokens, "mask": torch.tensor([[True] * 4 + [False]])}
    if part.config.sizes:
        doors["vector"] = torch.randn(1, 3 * 256, generator=draws)
    if part.config.classes:
        doors = {"label": torch.tensor([7])}

    def say(table: Any) -> list[Tensor]:
        net = load_into(part.make, part.source, table, part.layout, dtype=F32)
        with torch.no_grad():
            return [net(x, torch.tensor([431.0]), **doors)]

    check(part, say)


@pytest.mark.parametrize("case", ["dit"], indirect=True)
def test_what_is_not_followed_of_a_prompt_is_refused(case: Case) -> None:
    part = parse("(red:1.4) cat", "a1111")
    for prompt in (Prompt(text="9", part=parts_at(part, 0, 1)[0], dialect="a1111"), Prompt(text="9", skip=1)):
        with pytest.raises(InvalidRequest, match="reads a prompt as it is written"):
            case.model(F32).conditioner([prompt])
    for text in ("9", "ostrich"):
        alone = Prompt(text=text, part=parts_at(parse(text, "a1111"), 0, 1)[0], dialect="a1111")
        assert case.model(F32).conditioner([alone]).label.tolist() == [9]


@pytest.mark.parametrize("case", ["dit"], indirect=True)
def test_classes_by_number_and_name_and_what_is_none(case: Case) -> None:
    model = case.model(F32)
    names = ["9", "struthio CAMELUS", " goldfish ", "999", ""]
    assert model.conditioner([Prompt(text=n) for n in names]).label.tolist() == [9, 9, 1, 999, 1000]
    for wrong in ("1001", "-1", "cat", "tench, Tinca tinca"):
        with pytest.raises(InvalidRequest, match="no class: allowed are 0 to"):
            model.conditioner([Prompt(text=wrong)])
    with pytest.raises(InvalidRequest, match="near: Tinca tinca"):
        model.conditioner([Prompt(text="inca")])
    # A number that stands for none is no class, but what an unconditional picture is made of.
    free, _ = walked(model, Unconditional(steps=2, seed=3, size="32x32"))  # type: ignore[arg-type]
    bound, _ = walked(model, Class2Image(label="9", steps=2, seed=3, size="32x32", guidance=1.0))  # type: ignore[arg-type]
    assert far(free, bound) > 1e-2


@pytest.mark.parametrize("case", ["pixart sigma"], indirect=True)
@pytest.mark.parametrize("told", [{"num_attention_heads": 5}, {"num_attention_heads": 0}, {"sample_size": 0}])
def test_settings_that_fit_no_network_are_told(case: Case, told: dict[str, int], tmp_path: Path) -> None:
    shutil.copytree(case.peer.folder, tmp_path / "it")
    path = tmp_path / "it" / "transformer" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **told}), "utf-8")
    with pytest.raises(WeightsError, match="does not fit"):
        sfumato.load(str(tmp_path / "it"))


@pytest.mark.parametrize("case", ["dit"], indirect=True)
def test_blocks_that_embed_the_clock_each_in_its_own_way_are_refused(case: Case, tmp_path: Path) -> None:
    shutil.copytree(case.peer.folder, tmp_path / "it")
    path = tmp_path / "it" / "transformer" / "diffusion_pytorch_model.safetensors"
    with open_source(path) as source:
        whole = {name: source.read(name) for name in source.entries}
    whole["transformer_blocks.1.norm1.emb.timestep_embedder.linear_1.bias"][3] += 0.25
    save_tensors(path, whole)
    with open_source(tmp_path / "it") as source, pytest.raises(WeightsError, match="each block differently"):
        load_checkpoint(open_checkpoint(source))


def test_learned_variance_and_sizes_are_told_by_shapes() -> None:
    shapes = {
        "x_embedder.proj.weight": (384, 4, 4, 4),
        "y_embedder.embedding_table.weight": (1001, 384),
        "blocks.0.mlp.fc1.weight": (1536, 384),
        "blocks.11.mlp.fc1.weight": (1536, 384),
        "final_layer.linear.weight": (4 * 4 * 8, 384),
        "pos_embed": (1, 64, 384),
    }
    config = dit(shapes, "original")
    assert (config.heads, config.patch, config.outer, config.side, config.classes) == (6, 4, 8, 8, 1001)


def test_every_further_family_is_here() -> None:
    assert set(NAMES) == {name for name in FURTHER if name.startswith(("pixart", "dit"))}


@pytest.mark.parametrize("case", ["pixart sigma"], indirect=True)
def test_the_authors_pickle_with_the_other_networks_beside_it_makes_the_folders_pictures(
    case: Case, tmp_path: Path
) -> None:
    with open_source(original(case, tmp_path / "theirs.safetensors")) as source:
        torch.save({"state_dict": {name: source.read(name) for name in source.entries}}, tmp_path / "it.pth")
    files = [case.peer.folder / place for place in ("vae", "text_encoder")]
    words = case.peer.folder / "tokenizer"
    asked: dict[str, Any] = {"dtype": "float32", "tokens": words, "allow_pickle": True}
    ours = sfumato.load(str(tmp_path / "it.pth"), parts=files, **asked)
    folder = sfumato.load(str(case.peer.folder), dtype="float32")
    found, wanted = (m("a red cat", steps=2, size="64x64").images[0].pixels for m in (ours, folder))
    assert (found == wanted).all()
