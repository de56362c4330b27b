"""Key tables: what each sign means, that a table is proved on a file's names, and that a wrong row is noticed."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sfumato.errors import WeightsError
from sfumato.weights.keys import Column, KeyTable, row
from sfumato.weights.links import links, links_from, pieces, prove

TABLE = KeyTable.parse(
    """
    # ours              original                              diffusers
    embed               text.token_embedding                  embeddings.token
    blocks.{i}.qkv.{p}  resblocks.{i}.attn.in_proj_{p}        layers.{i}.attn.[q,k,v].{p}
    blocks.{i}.out      resblocks.{i}.attn.out_proj           layers.{i}.attn.out
    blocks.{i}.norm     resblocks.{i}.ln.gain                 layers.{i}.norm
    head                proj                                  head.linear : transpose
    head.bias           proj.offset                           head.linear.bias
    -                   logit_scale                           -
    """,
    ranges={"i": 2, "p": ("weight", "bias")},
    ignore={"diffusers": ("*.position_ids",)},
)
OURS = ["embed.weight", "head.weight", "head.bias"] + [
    f"blocks.{i}.{name}" for i in range(2) for name in ("qkv.weight", "qkv.bias", "out.weight", "norm.weight")
]


def told(layout: str) -> dict[str, tuple[str, ...]]:
    return {link.ours[0]: link.theirs for link in links(TABLE, layout, OURS)}


def test_placeholders_lists_and_suffixes_give_the_names_of_both_layouts() -> None:
    assert told("original")["blocks.1.qkv.bias"] == ("resblocks.1.attn.in_proj_bias",)
    assert told("original")["blocks.0.norm.weight"] == ("resblocks.0.ln.gain.weight",)
    names = tuple(f"layers.1.attn.{name}.weight" for name in "qkv")
    assert told("diffusers")["blocks.1.qkv.weight"] == names
    assert told("diffusers")["embed.weight"] == ("embeddings.token.weight",)


def test_the_longest_name_decides() -> None:
    assert told("original")["head.weight"] == ("proj.weight",)
    assert told("original")["head.bias"] == ("proj.offset",)


@pytest.mark.parametrize("layout", ["original", "diffusers"])
def test_both_directions_give_the_same_links(layout: str) -> None:
    forth = links(TABLE, layout, OURS)
    names = [name for link in forth for name in link.theirs]
    back = links_from(
        TABLE, layout, [*reversed(names), "logit_scale" if layout == "original" else "a.position_ids"]
    )
    assert set(back) == set(forth)
    prove(TABLE, layout, forth, names)


def test_the_proof_names_what_is_left_over_on_either_side_with_the_nearest() -> None:
    found = links(TABLE, "original", OURS)
    names = [name for link in found for name in link.theirs]
    prove(TABLE, "original", found, [*names, "logit_scale"])
    renamed = ["resblocks.0.attn.out_projj.weight" if "0.attn.out" in name else name for name in names]
    with pytest.raises(WeightsError) as caught:
        prove(TABLE, "original", found, renamed)
    text = str(caught.value)
    assert (
        "not in the file: resblocks.0.attn.out_proj.weight (nearest: resblocks.0.attn.out_projj.weight)"
        in text
    )
    assert "not wanted: resblocks.0.attn.out_projj.weight" in text
    with pytest.raises(WeightsError, match="and 30 more"):
        prove(TABLE, "original", found, [*names, *(f"more.{n}" for n in range(40))])


def test_a_parameter_without_a_row_or_a_layout_without_a_parameter_is_refused() -> None:
    with pytest.raises(WeightsError, match=r"no row for: tail\.weight"):
        links(TABLE, "original", [*OURS, "tail.weight"])
    table = KeyTable.parse("a  x  -")
    with pytest.raises(WeightsError, match=r"does not have: a\.bias"):
        links(table, "diffusers", ["a.bias"])
    with pytest.raises(
        WeightsError, match=r"only some of the tensors are there of: layers\.0\.attn\.k\.bias"
    ):
        links_from(TABLE, "diffusers", ["layers.0.attn.k.bias"])


def test_two_of_ours_that_ask_for_one_of_theirs_are_noticed() -> None:
    table = KeyTable.of([("a", "x", "-"), ("b", "x.weight", "-")])
    found = links(table, "original", ["a.weight", "b"])
    with pytest.raises(WeightsError, match=r"wanted twice: x\.weight"):
        prove(table, "original", found, ["x.weight"])


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a  b", "three columns"),
        ("a.{i}  b.{i}  c", "different placeholders"),
        ("a.{j}  b.{j}  c.{j}", "no range"),
        ("a  b  c : flip", "'flip' is not known"),
        ("a  b  c.[x]", "no list"),
        ("a  b  c.[x,y,]", "no name|no list"),
        ("a  b  c.[x,y", "no name"),
        ("a  b  c.[x,y] : transpose", "does not go with a list"),
        ("~a  b  c", "belong into"),
        ("a/2  b  c", "belong into"),
        ("a  b/x  c", "no number of turns"),
        ("a  b/0  c", "no number of turns"),
        ("a  [b,c]/2  c", "turns are those of one tensor"),
        ("a  b/2 : transpose  c", "turns are those of one tensor"),
        ("a  b  c\na  d  e", "two rows"),
        ("a  b  c\nd  b  e", "two rows"),
    ],
)
def test_a_table_that_says_nothing_clear_is_refused(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        KeyTable.parse(text, {"i": 2})


def test_tables_add_and_take_prefixes() -> None:
    both = TABLE.prefixed("text.", "cond.", "encoder.") + KeyTable.parse("vae  first_stage_model  vae")
    names = [f"text.{name}" for name in OURS]
    found = {link.ours[0]: link.theirs for link in links(both, "diffusers", [*names, "vae.conv.weight"])}
    assert found["text.embed.weight"] == ("encoder.embeddings.token.weight",)
    assert found["vae.conv.weight"] == ("vae.conv.weight",)
    assert both.ignored("diffusers", "encoder.x.position_ids")
    assert both.ignored("original", "cond.logit_scale")
    assert not both.ignored("original", "logit_scale")


def shapes(cell: str, *ours: tuple[int, ...]) -> list[tuple[int, ...]]:
    names = "a" if len(ours) == 1 else "[a,b]"
    table = KeyTable((row(names, cell, "-"),))
    (link,) = links(table, "original", ["a", "b"][: len(ours)])
    return list(link.their_shapes(ours))


def test_shapes_in_the_file_follow_from_ours() -> None:
    assert shapes("x.[q,k,v]", (12, 4)) == [(4, 4)] * 3
    assert shapes("x.[q,k,v,mlp*4]", (14, 3)) == [(2, 3), (2, 3), (2, 3), (8, 3)]
    assert shapes("x.[q*2,k,v]", (8,)) == [(4,), (2,), (2,)]
    assert shapes("x", (3, 2), (5, 2)) == [(8, 2)]
    assert shapes("x : transpose", (3, 2)) == [(2, 3)]
    assert shapes("x : transpose", (3,)) == [(3,)]
    assert shapes("x : conv->linear", (3, 2, 1, 1)) == [(3, 2)]
    assert shapes("x : linear->conv", (3, 2)) == [(3, 2, 1, 1)]
    assert shapes("x : linear->conv", (3,)) == [(3,)]
    assert shapes("x : linear->line", (3, 2)) == [(3, 2, 1)]
    assert shapes("x/2", (4, 3), (4, 3)) == [(8, 3)]
    assert shapes("x", ()) == [()]


@pytest.mark.parametrize(
    ("cell", "ours"),
    [
        ("x.[q,k,v]", [(10, 4)]),
        ("~x", [(3, 2)]),
        ("~x", [()]),
        ("x : conv->linear", [(3, 2, 3, 3)]),
        ("x : linear->conv", [(3, 2, 1)]),
        ("x", [(3, 2), (3, 3)]),
        ("x", [(), ()]),
        ("x/2", [(3, 3), (3, 3)]),
        ("x/2", [(2, 3), (4, 3)]),
    ],
)
def test_shapes_that_cannot_be_are_refused(cell: str, ours: list[tuple[int, ...]]) -> None:
    with pytest.raises(WeightsError, match=r"shape"):
        shapes(cell, *ours)


@given(st.data(), st.booleans())
def test_pieces_rearrange_as_cat_chunk_and_roll_do(data: st.DataObject, swap: bool) -> None:
    total = 2 * data.draw(st.integers(0, 30))
    sides = []
    for _ in range(2):
        cuts = sorted(data.draw(st.lists(st.integers(0, total), max_size=4)))
        ends = [*cuts, total]
        sides.append([end - start for start, end in zip([0, *cuts], ends, strict=True)])
    ours, theirs = sides
    (link,) = links(KeyTable((row("a", "~x" if swap else "x", "-"),)), "original", ["a"])
    whole = torch.arange(total)
    files = whole.split(theirs)
    filled = [torch.full((size,), -1) for size in ours]
    for which, first, mine, at, count in pieces(link, ours, theirs):
        assert count > 0
        filled[mine][at : at + count] = files[which][first : first + count]
    halves = whole.chunk(2) if total else (whole, whole)
    assert torch.equal(torch.cat(filled), torch.cat(halves[::-1]) if swap else whole)


def test_a_column_says_what_was_written() -> None:
    assert row("a", "~b.[x,y*3].c : linear->conv", "-").original == Column(
        ("b.x.c", "b.y.c"), (1, 3), swap=True, turn="linear->conv"
    )


@given(st.integers(2, 5), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3))
def test_tensors_that_take_turns_are_cut_as_an_axis_of_turns_says(
    rounds: int, rows: int, columns: int, count: int
) -> None:
    names = [f"a{number}" for number in range(count)]
    cell = f"a[{','.join(map(str, range(count)))}]" if count > 1 else "a0"
    (link,) = links(KeyTable((row(cell, f"x/{rounds}", "-"),)), "original", names)
    each = rounds * rows * columns
    whole = torch.arange(count * each).view(rounds, count, rows * columns)
    ours = [torch.full((each,), -1) for _ in names]
    for which, first, mine, at, size in pieces(link, [each] * count, [count * each]):
        assert which == 0
        ours[mine][at : at + size] = whole.flatten()[first : first + size]
    for number, found in enumerate(ours):
        assert torch.equal(found, whole[:, number].flatten())
