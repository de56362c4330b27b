"""Full-size lists of keys: every published network is recognised by them, and our writer makes exactly them."""

from __future__ import annotations

import pytest

from tests.families.published_keys import digest, index, read
from tests.families.published_keys.fake import part_from
from tests.families.published_keys.make import NETWORKS, ours, readers_answer, theirs

INDEX = index()
# As the authors or the hub's pages count them, in the folder layout.
PARAMETERS = {
    "sd15-unet": 859_520_964,
    "sd21-unet": 865_910_724,
    "sdxl-unet": 2_567_463_684,
    "vae-c4": 83_653_863,
    "clip-l": 123_060_480,
    "clip-bigg": 694_659_840,
    "t5-xxl": 4_762_310_656,
    "flux-dev": 11_901_408_320,
    "flux-schnell": 11_891_178_560,
}


@pytest.mark.parametrize("name", INDEX)
def test_full_size_lists_are_a_bijection_in_both_layouts(name: str) -> None:
    layouts = [layout for layout in ("diffusers", "original") if layout in INDEX[name]]
    lists = {layout: read(name, layout) for layout in layouts}
    for layout, keys in lists.items():
        told = INDEX[name][layout]
        assert (len(keys), digest(keys)) == (told["tensors"], told["sha256"])
        part = part_from(name, keys)
        assert (part.kind, part.layout) == (INDEX[name]["kind"], layout)
        for other, wanted in lists.items():
            assert ours(part, other) == wanted, other
    if name in PARAMETERS:
        assert INDEX[name]["diffusers"]["parameters"] == PARAMETERS[name]


def test_the_index_is_of_the_networks_that_are_made() -> None:
    assert {name: told["source"] for name, told in INDEX.items()} == {k: v for k, (v, _) in NETWORKS.items()}


@pytest.mark.parametrize("name", ["vae-c16", "x4-unet", "sd35-medium", "flux-schnell", "clip-h"])
def test_the_reference_has_the_folder_layout_and_reads_the_original(name: str) -> None:
    """The rest is checked so when the lists are made."""
    module, folder = theirs(name)
    assert folder == read(name, "diffusers")
    again = readers_answer(INDEX[name]["kind"], module, read(name, "original"))
    strip = "text_model."
    assert {k.removeprefix(strip): v for k, v in again.items()} == {
        k.removeprefix(strip): v for k, v in folder.items()
    }
