"""The blind sheet: what it shows, what it hides, and how answers are counted."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sfumato.cli.main import main
from sfumato.data.record import Record
from sfumato.errors import DataError, InvalidRequest, OutputError, UnknownName
from sfumato.evaluate.judge import (
    Concept,
    concept_of,
    concepts_in,
    make_sheet,
    questions,
    read_answers,
    read_key,
    score_answers,
    subject,
    tellable,
)

FOOD = ["pizza", "hamburger", "taco", "carrot", "egg", "rice", "bread", "honey", "salt", "lemon", "grapes"]
RECORDS = [
    *((label, label, "food", []) for label in FOOD),
    ("cheese wedge", "cheese", "food", ["pizza"]),  # its tag says the truth
    ("pizzas to go", "box", "food", []),  # its label says it
    ("flatbread", "flat", "food", []),  # is a tag of the truth
    ("pizza, half", "pizza", "food", []),  # is of its family
    ("dog face", "dog", "animals", ["pet"]),
]
STYLES = ("3d", "flat")


@pytest.fixture
def corpus() -> list[Record]:
    rows = [(*row, style) for row in RECORDS for style in STYLES]
    rows.append(("pizza", "pizza", "food", ["flatbread"], "3d"))
    return [
        Record(str(i), label, (label,), style, group=group, family=family, tags=tuple(tags))
        for i, (label, family, group, tags, style) in enumerate(rows)
    ]


@pytest.fixture
def concepts(corpus: list[Record]) -> dict[str, Concept]:
    return concepts_in(corpus)[0]


@pytest.fixture
def sheet(tmp_path: Path) -> tuple[Path, Path]:
    """Three prompts and their pictures, whose metadata hold the prompts, as a generator leaves them."""
    prompts = ["a slice of pizza, 3d style", "egg, flat style, teal background", "taco, flat style"]
    (tmp_path / "prompts.txt").write_text("\n".join(prompts) + "\n")
    for i, prompt in enumerate(prompts):
        notes = PngInfo()
        notes.add_text("prompt", prompt)
        Image.new("RGB", (8, 8), (10 * i, 20, 30)).save(tmp_path / f"{i:02}.png", pnginfo=notes, dpi=(i, i))
    return tmp_path, tmp_path / "prompts.txt"


@pytest.mark.parametrize(
    ("prompt", "want"),
    [
        ("a rocket, 3d style", "rocket"),
        ("An egg", "egg"),
        ("3d emoji of dog face, pet", "dog face"),
        ("a flat emoji of an egg, white background", "egg"),
        ("flatbread, flat style", "flatbread"),
        ("antelope, 3d style", "antelope"),
    ],
)
def test_subject_of_a_prompt(prompt: str, want: str) -> None:
    assert subject(prompt, STYLES) == want


def test_concept_is_exact_then_by_hand_then_nearest(concepts: dict[str, Concept]) -> None:
    assert concept_of("egg", concepts).label == "egg"
    assert concept_of("slice of pizza", concepts).label == "pizza"
    assert concept_of("hamburgers", concepts).label == "hamburger"
    with pytest.raises(UnknownName, match="concept"):
        concept_of("xylophone", concepts)


def test_tags_of_all_records_of_a_label_count(concepts: dict[str, Concept]) -> None:
    assert concepts["pizza"].tags == {"flatbread"}


@pytest.mark.parametrize("label", ["cheese wedge", "pizzas to go", "flatbread", "pizza, half", "pizza"])
def test_what_could_be_said_of_a_pizza_is_no_distractor(concepts: dict[str, Concept], label: str) -> None:
    assert not tellable(concepts["pizza"], concepts[label])


def test_common_words_do_not_make_two_things_alike() -> None:
    cat, tiger = (Concept(f"{n} face", n, "animals", frozenset({n, "face"})) for n in ("cat", "tiger"))
    assert tellable(cat, tiger)
    assert not tellable(cat, tiger, said="tigers")
    assert not tellable(cat, Concept("kitten", "kitten", "animals", frozenset({"cats"})))


def test_ten_labels_of_the_group_with_the_truth_among_them(concepts: dict[str, Concept]) -> None:
    places = set()
    for seed in range(200):
        for q in questions(["slice of pizza, 3d style", "egg"], concepts, STYLES, seed):
            assert q.label in q.options
            assert len(set(q.options)) == 10
            assert {concepts[label].group for label in q.options} == {"food"}
            families = [concepts[label].family for label in q.options]
            assert len(set(families)) == 10
            if q.label == "pizza":
                assert set(q.options) <= set(FOOD)
                places.add(q.options.index("pizza"))
    assert places == set(range(10))


def test_equal_seeds_give_equal_questions_and_others_do_not(concepts: dict[str, Concept]) -> None:
    prompts = [f"{label}, 3d style" for label in FOOD]
    first = questions(prompts, concepts, STYLES, 5)
    assert questions(prompts, dict(reversed(concepts.items())), STYLES[::-1], 5) == first
    assert questions(prompts, concepts, STYLES, 6) != first
    assert [q.letter for q in first] == list("ABCDEFGHIJK")
    assert sorted(q.picture for q in first) == [f"{i:02}.png" for i in range(11)]
    assert all(prompts[int(q.picture[:2])] == q.prompt for q in first)
    assert [q.letter for q in questions(prompts * 3, concepts, STYLES, 0)][25:28] == ["Z", "AA", "AB"]


def test_a_group_with_too_few_labels_is_refused(concepts: dict[str, Concept]) -> None:
    with pytest.raises(InvalidRequest, match="has 0 families"):
        questions(["dog face"], concepts, STYLES, 0)


def test_blind_folder_shows_the_pixels_and_hides_the_rest(
    corpus: list[Record], sheet: tuple[Path, Path]
) -> None:
    folder, prompts = sheet
    made = make_sheet(folder, prompts, corpus, folder / "out", seed=1)
    blind = folder / "out" / "blind"
    assert {p.name for p in blind.iterdir()} == {"A.png", "B.png", "C.png", "questions.json"}
    assert json.loads((blind / "questions.json").read_text()) == {q.letter: list(q.options) for q in made}
    for q in made:
        with Image.open(blind / f"{q.letter}.png") as shown, Image.open(folder / q.picture) as given:
            assert given.info
            assert shown.info == {}
            assert np.array_equal(np.array(shown), np.array(given))
        assert b"style" not in (blind / f"{q.letter}.png").read_bytes()
    assert read_key(folder / "out" / "key.json") == made
    with pytest.raises(InvalidRequest, match="holds files already"):
        make_sheet(folder, prompts, corpus, folder / "out", seed=1)


def test_answers_are_counted(corpus: list[Record], sheet: tuple[Path, Path]) -> None:
    folder, prompts = sheet
    key = make_sheet(folder, prompts, corpus, folder / "out", seed=2)
    truth = {q.letter: q.label for q in key}
    assert score_answers(key, truth).right == 3
    wrong = next(option for option in key[0].options if option != key[0].label)
    got = score_answers(key, {**truth, "A": wrong, "B": ""})
    assert (got.right, got.total) == (1, 3)
    assert got.rows[0] == ("A", key[0].prompt, key[0].label, wrong)
    lines = str(got).splitlines()
    assert lines[0] == f" A  WRONG  {key[0].prompt}: {key[0].label}, answered {wrong}"
    assert lines[1] == f" B  WRONG  {key[1].prompt}: {key[1].label}, answered nothing"
    assert lines[2] == f" C  right  {key[2].prompt}: {key[2].label}"
    assert lines[3] == "1 / 3 right (guessing: 0.3)"
    assert score_answers(key, {}).right == 0
    with pytest.raises(InvalidRequest, match="no picture 'D'"):
        score_answers(key, {"D": "egg"})
    with pytest.raises(InvalidRequest, match="none of the labels of A"):
        score_answers(key, {"A": "dog face"})


def test_command_line_from_pictures_to_score(
    corpus: list[Record], sheet: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, prompts = sheet
    pictures = folder / "corpus"
    pictures.mkdir()
    Image.new("RGB", (8, 8)).save(pictures / "x.png")
    rows = ({"file_name": "x.png", **asdict(record)} for record in corpus)
    (pictures / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def run(command: str, **paths: Path) -> tuple[int, str, str]:
        parts = (part for name, path in paths.items() for part in (f"--{name}", str(path)))
        return main(["evaluate", command, *parts]), *capsys.readouterr()

    out, answers = folder / "o", folder / "answers.json"
    code, said, _ = run("judge-make", pictures=folder, prompts=prompts, corpus=pictures, out=out)
    assert code == 0
    assert "a slice of pizza, 3d style: pizza" in said
    key = read_key(out / "key.json")
    assert key == make_sheet(folder, prompts, corpus, folder / "again", seed=0)
    answers.write_text(json.dumps({q.letter: q.label for q in key}))
    code, said, _ = run("judge-score", key=out / "key.json", answers=answers)
    assert code == 0
    assert said.splitlines()[-1] == "3 / 3 right (guessing: 0.3)"
    assert (
        main(["evaluate", "judge-score", "--key", f"{out}/key.json", "--answers", str(answers), "--json"])
        == 0
    )
    assert json.loads(capsys.readouterr().out)["right"] == 3
    code, said, wrong = run("judge-score", key=answers, answers=answers)
    assert (code, said, wrong.count("\n")) == (5, "", 1)
    assert "answers.json is not a key" in wrong


@pytest.mark.parametrize("text", ["[]", "no json", '{"A": ["egg"]}', '{"A": 1}'])
def test_answers_that_are_none_are_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "answers.json").write_text(text)
    with pytest.raises(DataError, match=r"answers\.json"):
        read_answers(tmp_path / "answers.json")


def test_damaged_files_are_named(corpus: list[Record], sheet: tuple[Path, Path]) -> None:
    folder, prompts = sheet
    with pytest.raises(DataError, match=r"absent\.txt"):
        make_sheet(folder, folder / "absent.txt", corpus, folder / "out", seed=0)
    with pytest.raises(OutputError, match="cannot write"):
        make_sheet(folder, prompts, corpus, prompts / "out", seed=0)
    (folder / "01.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"01\.png"):
        make_sheet(folder, prompts, corpus, folder / "out", seed=0)
    assert not (folder / "out").exists()
    for text in ("{}", "[]", '{"questions": [{"letter": "A"}]}', "no json"):
        (folder / "key.json").write_text(text)
        with pytest.raises(DataError, match=r"key\.json"):
            read_key(folder / "key.json")
