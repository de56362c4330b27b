"""Sources: every form in which people have weights, and every way in which a folder can be wrong."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest
import torch
from huggingface_hub import load_torch_model, save_torch_state_dict
from safetensors.torch import save_file
from torch import Tensor

from sfumato.errors import WeightsError
from sfumato.weights.header import MAX_TENSORS, make_header, read_header
from sfumato.weights.save import save_tensors
from sfumato.weights.source import Source, join, open_source


def some(value: float = 1.0) -> dict[str, Tensor]:
    return {"a.weight": torch.full((2, 3), value), "b.weight": torch.arange(6.0)}


def shards(folder: Path, stem: str = "model", variant: str = "", index: bool = True) -> Path:
    """Two shards and their index, as diffusers names them."""
    folder.mkdir(parents=True, exist_ok=True)
    where = {}
    for number, (name, tensor) in enumerate(some().items(), 1):
        file = f"{stem}{variant}-{number:05d}-of-00002.safetensors"
        save_file({name: tensor}, folder / file)
        where[name] = file
    if index:
        text = json.dumps({"metadata": {"total_size": 48}, "weight_map": where})
        (folder / f"{stem}.safetensors.index{variant}.json").write_text(text)
    return folder


def check(source: Source, prefix: str = "") -> None:
    assert set(source.entries) == {prefix + name for name in some()}
    for name, tensor in some().items():
        assert torch.equal(source.read(prefix + name), tensor)
        assert source.shapes[prefix + name] == tensor.shape


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file(some(), path, {"modelspec.title": "é"})
    source = open_source(path)
    check(source)
    assert source.metadata == {"modelspec.title": "é"}
    assert (source["a.weight"].dtype, source["a.weight"].bytes) == ("F32", 24)
    assert source.hash() == hashlib.sha256(path.read_bytes()).hexdigest()
    assert source.read("b.weight", torch.float16).dtype == torch.float16
    with pytest.raises(WeightsError, match=r"no tensor 'c'"):
        source.read("c")


def test_a_file_whose_names_are_wrapped(tmp_path: Path) -> None:
    save_file({f"state_dict.{name}": tensor for name, tensor in some().items()}, tmp_path / "x.safetensors")
    check(open_source(tmp_path / "x.safetensors"))


@pytest.mark.parametrize("variant", ["", ".fp16"])
def test_shards_by_folder_and_by_index(tmp_path: Path, variant: str) -> None:
    folder = shards(tmp_path, "diffusion_pytorch_model", variant)
    source = open_source(folder)
    check(source)
    assert len(source.files) == 2
    check(open_source(folder / f"diffusion_pytorch_model.safetensors.index{variant}.json"))
    lines = [f"{hashlib.sha256(f.read_bytes()).hexdigest()}  {f.name}\n" for f in source.files]
    assert source.hash() == hashlib.sha256("".join(lines).encode()).hexdigest()


def test_shards_without_an_index(tmp_path: Path) -> None:
    check(open_source(shards(tmp_path, index=False)))
    (tmp_path / "model-00001-of-00002.safetensors").unlink()
    with pytest.raises(WeightsError, match="1 of 2 are there, not 1"):
        open_source(tmp_path)


def test_variants(tmp_path: Path) -> None:
    for variant, value in (("", 1), (".fp16", 2), (".non_ema", 3)):
        save_file(some(value), tmp_path / f"diffusion_pytorch_model{variant}.safetensors")
    assert open_source(tmp_path).read("a.weight")[0, 0] == 1
    assert open_source(tmp_path, variant="fp16").read("a.weight")[0, 0] == 2
    with pytest.raises(
        WeightsError, match=r"no weights of the variant 'bf16'; it has: diffusion_pytorch_model,"
    ):
        open_source(tmp_path, variant="bf16")
    (tmp_path / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(WeightsError, match="several sets of weights"):
        open_source(tmp_path)
    (tmp_path / "diffusion_pytorch_model.non_ema.safetensors").unlink()
    assert open_source(tmp_path).read("a.weight")[0, 0] == 2


def test_several_files_of_no_known_name_are_not_guessed_at(tmp_path: Path) -> None:
    save_file(some(), tmp_path / "v1-5-pruned.safetensors")
    check(open_source(tmp_path))
    save_file(some(), tmp_path / "v1-5-pruned-emaonly.safetensors")
    with pytest.raises(WeightsError, match=r"v1-5-pruned, v1-5-pruned-emaonly|name one file"):
        open_source(tmp_path)


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """A diffusers folder with sharded, single and weightless components."""
    root = tmp_path / "pipe"
    shards(root / "transformer", "diffusion_pytorch_model")
    (root / "transformer" / "config.json").write_text('{"layers": 2}')
    for name in ("scheduler", "tokenizer", "text_encoder", "unnamed"):
        (root / name).mkdir()
    (root / "scheduler" / "scheduler_config.json").write_text('{"shift": 3.0}')
    save_file(some(), root / "text_encoder" / "model.safetensors")
    index = {
        "_class_name": "Pipe",
        "transformer": ["diffusers", "X"],
        "scheduler": ["diffusers", "Y"],
        "tokenizer": ["transformers", "Z"],
        "text_encoder": ["transformers", "T"],
        "image_encoder": [None, None],
        "vae": ["diffusers", "not there"],
        "force_zeros_for_empty_prompt": True,
    }
    (root / "model_index.json").write_text(json.dumps(index))
    return root


def test_a_whole_folder(whole: Path) -> None:
    source = open_source(whole)
    assert set(source.parts) == {"transformer", "scheduler", "tokenizer", "text_encoder"}
    assert {name.partition(".")[0] for name in source.entries} == {"transformer", "text_encoder"}
    check(source.part("transformer"))
    check(source.under("text_encoder."))
    check(join({"text_encoder": source.part("text_encoder")}), "text_encoder.")
    assert source.part("transformer").config == {"layers": 2}
    assert source.part("scheduler").config == {"shift": 3.0}
    assert source.part("tokenizer").path == whole / "tokenizer"
    assert source.config["force_zeros_for_empty_prompt"] is True
    with pytest.raises(WeightsError, match="no component 'vae'; it has: transformer, scheduler"):
        source.part("vae")


def test_files_published_apart_are_joined(tmp_path: Path) -> None:
    save_file(some(), tmp_path / "ae.safetensors")
    ae = open_source(tmp_path / "ae.safetensors")
    both = join({"vae": ae, "": ae})
    assert len(both.entries) == 4
    check(both.under("vae."))
    inner = Source(ae.path, {"weight": ae["a.weight"]})
    with pytest.raises(WeightsError, match=r"another file has too: 'a\.weight'"):
        join({"": ae, "a": inner})


@pytest.mark.parametrize(
    "name",
    [
        "../x.safetensors",
        "/etc/passwd",
        "sub/x.safetensors",
        "..",
        "",
        "C:\\x.safetensors",
        "..\\x",
        "a\0b",
        ".",
    ],
)
def test_an_index_that_climbs_out_is_refused(tmp_path: Path, name: str) -> None:
    folder = shards(tmp_path / "model")
    save_file(some(), tmp_path / "x.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a.weight": name}}))
    with pytest.raises(WeightsError, match="would lie outside"):
        open_source(folder)
    (folder / "model_index.json").write_text(json.dumps({name: ["diffusers", "X"]}))
    with pytest.raises(WeightsError, match="would lie outside"):
        open_source(folder)


def test_links_that_lead_out_are_refused_and_those_within_are_not(tmp_path: Path, whole: Path) -> None:
    save_file(some(), tmp_path / "secret.safetensors")
    shard = whole / "transformer" / "diffusion_pytorch_model-00001-of-00002.safetensors"
    moved = whole / "transformer" / "blob"
    shard.rename(moved)
    shard.symlink_to("blob")
    check(open_source(whole / "transformer"))
    for target in (tmp_path / "secret.safetensors", Path("../../secret.safetensors"), Path("/dev/zero")):
        shard.unlink()
        shard.symlink_to(target)
        for place in (whole, whole / "transformer"):
            with pytest.raises(WeightsError, match="leads out of the folder"):
                open_source(place)
    shard.unlink()
    shard.symlink_to(shard.name)
    with pytest.raises(WeightsError, match="cannot follow"):
        open_source(whole)
    (whole / "scheduler" / "scheduler_config.json").unlink()
    (whole / "scheduler" / "scheduler_config.json").symlink_to(tmp_path / "secret.safetensors")
    with pytest.raises(WeightsError):
        open_source(whole)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"weight_map": []}',
        '{"weight_map": {"a": 1}}',
        '{"weight_map": {}}',
        "[" * 100_000,
        "\xff",
    ],
)
def test_a_damaged_index_is_refused(tmp_path: Path, text: str) -> None:
    index = shards(tmp_path) / "model.safetensors.index.json"
    index.write_text(text, "latin-1")
    with pytest.raises(WeightsError, match=r"index\.json"):
        open_source(tmp_path)


def test_an_index_that_is_not_what_its_shards_hold_is_refused(tmp_path: Path) -> None:
    index = shards(tmp_path) / "model.safetensors.index.json"
    one, two = (f"model-0000{n}-of-00002.safetensors" for n in (1, 2))
    for where, why in [
        ({"a.weight": one, "b.weight": one}, "not in their shard: 'b.weight'"),
        ({"a.weight": one}, None),
        ({"a.weight": two, "b.weight": two}, "not in their shard: 'a.weight'"),
        ({"a.weight": one, "c": two}, "not in the index: 'b.weight'"),
        ({"a.weight": "gone.safetensors"}, "which is not there"),
    ]:
        index.write_text(json.dumps({"weight_map": where}))
        if why is None:
            assert set(open_source(tmp_path).entries) == {"a.weight"}
            continue
        with pytest.raises(WeightsError, match=why):
            open_source(tmp_path)


def test_a_file_that_changes_after_it_was_opened_is_an_error_and_not_a_dead_process(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.ones(3_000_000)}, path)
    source = open_source(path)
    whole = source.read("a")
    os.truncate(path, 1_000_000)
    with pytest.raises(WeightsError, match="changed while"):
        source.read("a")
    assert whole.sum() == 3_000_000
    path.unlink()
    with pytest.raises(WeightsError, match="No such file"):
        source.read("a")


def test_a_file_that_is_truncated_within_a_read_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.ones(3_000_000)}, path)
    source = open_source(path)
    status = os.stat(path)
    os.truncate(path, 1_000_000)
    monkeypatch.setattr(os, "fstat", lambda handle: status)
    for dtype in (torch.float32, torch.float16):
        with pytest.raises(WeightsError, match="a ends too early"):
            source.read("a", dtype)


def test_what_is_not_there_says_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "readme.txt").write_text("x")
    (tmp_path / "x.onnx").write_text("x")
    os.mkfifo(tmp_path / "pipe.safetensors")
    for path, why in [
        (tmp_path / "none.safetensors", "neither a file nor a folder"),
        (tmp_path / "pipe.safetensors", "neither a file nor a folder"),
        (tmp_path / "x.onnx", "does not end in .safetensors"),
        (Path("a\0b"), "neither a file nor a folder"),
    ]:
        with pytest.raises(WeightsError, match=why):
            open_source(path)
    (tmp_path / "pipe.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"no weights in .*model_index\.json"):
        open_source(tmp_path)


@pytest.mark.parametrize(
    ("header", "body", "why"),
    [
        (b"[]", b"", "not a JSON object"),
        (b"{} {}", b"", "not one JSON object"),
        (b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', b"0" * 9, "does not tell of all"),
        (b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', b"0" * 7, "truncated"),
        (
            b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}',
            b"0" * 4,
            "takes 8 bytes, the header gives it 4",
        ),
        (b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}', b"0" * 8, "begin behind a hole"),
        (b'{"a":{"dtype":"F4","shape":[2],"data_offsets":[0,1]}}', b"0", "dtype 'F4', which is not known"),
        (b'{"a":{"dtype":"U8","shape":[true],"data_offsets":[0,1]}}', b"0", "cannot be"),
        (b'{"a":{"dtype":"U8","shape":[-1],"data_offsets":[0,-1]}}', b"", "cannot be"),
        (b'{"a":{"dtype":"U8","shape":[4611686018427387904,4,0],"data_offsets":[0,0]}}', b"", "cannot be"),
        (b'{"a":{"dtype":"U8","shape":' + b"[" * 4000 + b"}}", b"", "lists in lists|damaged"),
        (b'{"\\ud800":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', b"0", "damaged"),
        (b'{"\xff":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', b"0", "damaged"),
        (b'{"a\\u001b[2J":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', b"0", "cannot be printed"),
        (b'{"__metadata__":{"a":1}}', b"", "is not a text"),
        (b'{"__metadata__":{"a":"1","a":"2"}}', b"", "'a' twice"),
    ],
)
def test_a_header_that_is_wrong_says_how(tmp_path: Path, header: bytes, body: bytes, why: str) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + body)
    with pytest.raises(WeightsError, match=why):
        read_header(path)


def test_two_tensors_that_overlap_or_too_many_are_refused(tmp_path: Path) -> None:
    entry = '"%s":{"dtype":"U8","shape":[2],"data_offsets":[%d,%d]}'
    header = ("{" + ",".join(entry % (name, at, at + 2) for name, at in (("a", 0), ("b", 1))) + "}").encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"000")
    with pytest.raises(WeightsError, match="the bytes of 'b' overlap others"):
        read_header(path)
    data = make_header({f"t{n}": (torch.int8, (0,)) for n in range(MAX_TENSORS + 1)}, {})
    for header in (data, data.replace(b"data_offsets", rb"\u0064ata_offsets")):
        path.write_bytes((len(header) - 8).to_bytes(8, "little") + header[8:])
        with pytest.raises(WeightsError, match="more than 65,536 tensors"):
            read_header(path)


def test_a_pickle_under_another_name_is_named(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(3)}, tmp_path / "x.safetensors")
    with pytest.raises(WeightsError, match="pickled checkpoint that was named"):
        open_source(tmp_path / "x.safetensors")


@pytest.mark.parametrize("length", [640, 1152, 640 + 65536])
def test_a_header_as_long_as_a_pickle_begins_is_a_header(tmp_path: Path, length: int) -> None:
    """Its length is then written in the bytes with which a pickle says its protocol."""
    path = tmp_path / "a.safetensors"
    save_file(some(), path, {"note": ""})
    bare = int.from_bytes(path.read_bytes()[:8], "little")
    save_file(some(), path, {"note": "x" * (length - bare)})
    assert path.read_bytes()[:2] in (b"\x80\x02", b"\x80\x04")
    with open_source(path) as source:
        assert source.metadata == {"note": "x" * (length - bare)}
        assert torch.equal(source.read("a.weight"), some()["a.weight"])


def test_what_we_write_without_tensors_opens_without_any(tmp_path: Path) -> None:
    assert open_source(save_tensors(tmp_path / "x.safetensors", {}, metadata={"a": "b"})).metadata == {
        "a": "b"
    }


@pytest.mark.parametrize("variant", ["", ".fp16"])
def test_shards_as_the_hub_s_tools_write_them_and_theirs_of_ours(tmp_path: Path, variant: str) -> None:
    pattern = f"diffusion_pytorch_model{variant}{{suffix}}.safetensors"
    tensors = {f"layer.{n}": torch.full((10, 10), float(n)) for n in range(5)}
    save_torch_state_dict(tensors, tmp_path, filename_pattern=pattern, max_shard_size=900)
    source = open_source(tmp_path, variant="fp16" if variant else None)
    assert len(source.files) == 3
    for name, tensor in tensors.items():
        assert torch.equal(source.read(name), tensor)
    ours = tmp_path / "ours"
    ours.mkdir()
    save_tensors(ours / pattern.format(suffix=""), tensors, shard_bytes=900)
    assert sorted(p.name for p in ours.iterdir()) == sorted(p.name for p in tmp_path.iterdir() if p.is_file())
    module = torch.nn.Module()
    module.layer = torch.nn.ParameterList(torch.zeros(10, 10) for _ in tensors)
    load_torch_model(module, ours, filename_pattern=pattern, strict=True)
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in module.state_dict().items())
