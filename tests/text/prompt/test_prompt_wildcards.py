"""Patterns: what they can become, how often, the same everywhere, and never without end."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfumato.errors import DataError, InvalidRequest, UnknownName
from sfumato.text.prompt.lists import Folder
from sfumato.text.prompt.wildcards import combinations, draw

LISTS = {"colour": ["red", "{dark|light} blue", "__grey__"], "grey": ["ash", "lead"]}


def lists(name: str) -> Sequence[str]:
    if name not in LISTS:
        raise UnknownName("list", name, LISTS)
    return LISTS[name]


@pytest.mark.parametrize(
    ("pattern", "all_of_them"),
    [
        ("plain", ["plain"]),
        ("", [""]),
        ("{a|b} {c|d}", ["a c", "a d", "b c", "b d"]),
        ("{a|{b|c}}", ["a", "b", "c"]),
        ("{a|}x", ["ax", "x"]),
        ("{ a |\n2:: b c }x", ["ax", "b cx"]),
        ("{2$$a|b|c}", ["a, b", "a, c", "b, c"]),
        ("{2$$ and $$a|b|c}", ["a and b", "a and c", "b and c"]),
        ("{1-2$$/$$a|b}", ["a", "b", "a/b"]),
        ("{-1$$a|b}", ["a", "b"]),
        ("{1-$$a|b}", ["a", "b", "a, b"]),
        ("{0-1$$a}", ["", "a"]),
        ("{9$$a|b}", ["a, b"]),
        ("{0::a|2::b|c}", ["b", "c"]),
        (r"\{a\|b\} | {c\|d|\}}", ["{a|b} | c|d", "{a|b} | }"]),
        ("__colour__ cat", ["red cat", "dark blue cat", "light blue cat", "ash cat", "lead cat"]),
        ("{2$$__grey__}", ["ash, lead"]),
        ("snake_case __ and _x_", ["snake_case __ and _x_"]),
        ("[a|b] (c:1.2)", ["[a|b] (c:1.2)"]),
    ],
)
def test_all_that_a_pattern_becomes(pattern: str, all_of_them: list[str]) -> None:
    assert list(combinations(pattern, lists)) == all_of_them
    drawn = {draw(pattern, seed, lists) for seed in range(60)}
    if "$$" in pattern:  # several of a choice come in any order
        assert {frozenset(text) for text in drawn} == {frozenset(text) for text in all_of_them}
    else:
        assert drawn == set(all_of_them)


def test_the_first_so_many_come_without_making_the_rest() -> None:
    pattern = "{a|b}" * 200
    assert list(combinations(pattern, limit=3)) == ["a" * 200, "a" * 199 + "b", "a" * 198 + "ba"]


def test_weights_are_chances() -> None:
    # 3000 draws: three standard deviations of a half are 82, of a fifth 66.
    counted = Counter(draw("{2.5::a|b|1.5::c}", seed) for seed in range(3000))
    assert abs(counted["a"] - 1500) < 82
    assert abs(counted["b"] - 600) < 66


def test_several_are_different_and_in_any_order() -> None:
    drawn = {draw("{2$$a|b|c}", seed) for seed in range(200)}
    assert drawn == {f"{x}, {y}" for x in "abc" for y in "abc" if x != y}


def test_a_seed_is_the_same_prompt_in_every_version() -> None:
    first = hashlib.sha256(b"sfumato prompt 7 0").digest()
    index = int((int.from_bytes(first[:8], "big") >> 11) / 2**53 * 5)
    assert draw("{a|b|c|d|e}", 7) == "abcde"[index]
    assert [draw("{a|b|c|d} {1-3$$x|y|z}", seed) for seed in range(4)] == [
        "c z",
        "b y, z",
        "b y, z, x",
        "b y",
    ]


@given(st.integers(0, 2**63 - 1))
def test_seeds_may_be_large(seed: int) -> None:
    assert draw("{a|b}", seed) in ("a", "b")


@pytest.mark.parametrize(
    ("pattern", "told"),
    [
        ("a {b", "character 3 is not closed"),
        ("a} b", "character 2 was not opened"),
        ("${x=1}", "variables"),
        ("{3-1$$a|b}", "3 at least and 1 at most"),
        ("{99999$$a|b}", "more than there can be"),
        ("{0::a|0::b}", "not all 0"),
        ("{" * 40 + "a" + "}" * 40, "32 deep"),
        ("__none__", "unknown list 'none'"),
        ("a" * 200_000, "longer than 100000"),
    ],
)
def test_what_is_refused(pattern: str, told: str) -> None:
    with pytest.raises(InvalidRequest, match=told):
        draw(pattern, 0, lists)


@pytest.mark.parametrize(
    "line", ["__x__", "a __x__", "{__x__|__x__}", "__x__ __x__", "{2$$__x__|__x__|b}", "a" * 90_000 + "__y__"]
)
def test_lists_that_ask_for_themselves_are_refused(line: str) -> None:
    with pytest.raises(InvalidRequest, match="ask for itself"):
        draw("__x__", 1, lambda name: [line] if name == "x" else ["b" * 20_000])
    with pytest.raises(InvalidRequest, match="ask for itself"):
        list(combinations("__x__", lambda name: [line] if name == "x" else ["b" * 20_000]))


def test_without_lists_a_name_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="no folder of lists"):
        draw("__colour__", 0)


def test_a_folder_of_lists(tmp_path: Path) -> None:
    (tmp_path / "art" / "old").mkdir(parents=True)
    (tmp_path / "colours-warm.txt").write_bytes(b"\xef\xbb\xbf# warm ones\r\nred\r\n\r\n  orange \r\n")
    (tmp_path / "colours-cold.txt").write_text("blue\n")
    (tmp_path / "art" / "old" / "ink.txt").write_text("ink")
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe\x00")
    (tmp_path.parent / "secret.txt").write_text("secret")
    folder = Folder(tmp_path)
    assert folder("colours-warm") == ["red", "orange"]
    assert folder("colours*") == ["blue", "red", "orange"]
    assert folder("art/old/ink") == folder("art/**") == ["ink"]
    with pytest.raises(UnknownName):
        folder("art/*")
    for name in ("../secret", "/etc/hostname", "art/../../secret", "colour"):
        with pytest.raises(UnknownName):
            folder(name)
    with pytest.raises(DataError, match=r"bad\.txt"):
        folder("bad")
    with pytest.raises(InvalidRequest, match="does not exist"):
        Folder(tmp_path / "none")
    assert draw("__art/old/ink__ {2$$__colours*__}", 3, folder).startswith("ink ")
