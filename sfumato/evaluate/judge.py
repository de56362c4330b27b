r"""A blind naming test: can somebody who has not seen the prompts say what the pictures are of?

Make pictures ``00.png``, ``01.png``, ... of the lines of a prompts file, in order, then::

    sfumato evaluate judge-make --pictures FOLDER --prompts prompts.txt --corpus emoji-128.tar \
        --out sheet --seed 0

It writes ``sheet/blind/A.png``, ``B.png``, ... (shuffled; pixels only, so that no prompt hides in their
metadata), ``sheet/blind/questions.json`` (ten labels for each, one of them true) and ``sheet/key.json``. Give
the judge the folder ``blind`` and nothing else. The judge writes ``answers.json``, ``{"A": "volcano", ...}``,
one of the ten labels for each letter, and::

    sfumato evaluate judge-score --key sheet/key.json --answers answers.json

prints what was right. Somebody who guesses gets one in ten.

The nine wrong labels are of the same group of the corpus ("food-drink", ...) but of another family, from nine
families, and none that could also be said of the picture: see ``tellable``. Equal seeds give equal sheets.
"""

from __future__ import annotations

import difflib
import io
import json
import random
import re
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from sfumato.data.record import Record
from sfumato.errors import DataError, InvalidRequest, OutputError, UnknownName
from sfumato.evaluate.features import read_on_white
from sfumato.files import why_unwritable, write_bytes

OPTIONS = 10
"""Labels to choose from, one of them true."""

MAPPING: Mapping[str, str] = {
    "slice of pizza": "pizza",
    "grinning face with sunglasses": "smiling face with sunglasses",
}
"""Concepts of prompts that are no label of the corpus word for word, and the labels meant; by hand."""

# Words that two quite different pictures may share.
_COMMON = frozenset(
    (
        *("a", "an", "the", "of", "with", "and", "in", "on", "face", "animal", "nature", "food", "emoji"),
        *("person", "man", "woman", "men", "women", "people", "boy", "girl"),
        *("button", "symbol", "object", "sign"),
        *("black", "white", "red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "gray"),
    )
)


@dataclass(frozen=True)
class Concept:
    """A label of the corpus with its family, group and tags (of all its records together)."""

    label: str
    family: str
    group: str
    tags: frozenset[str]


@dataclass(frozen=True)
class Question:
    """One blind picture: its letter, file, prompt, true label and the ten labels shown."""

    letter: str
    picture: str
    prompt: str
    label: str
    options: tuple[str, ...]


@dataclass(frozen=True)
class Result:
    """``right`` of ``total`` answers; rows of letter, prompt, true label, answer ("" where there is none)."""

    right: int
    total: int
    rows: tuple[tuple[str, str, str, str], ...]

    def __str__(self) -> str:
        """The table, then ``right / total``."""
        lines = [
            f"{letter:>2}  {'right' if label == answer else 'WRONG'}  {prompt}: {label}"
            + ("" if label == answer else f", answered {answer or 'nothing'}")
            for letter, prompt, label, answer in self.rows
        ]
        return "\n".join([*lines, f"{self.right} / {self.total} right (guessing: {self.total / OPTIONS:g})"])


def concepts_in(records: Iterable[Record]) -> tuple[dict[str, Concept], frozenset[str]]:
    """The concepts of a corpus by label, and the names of its styles."""
    concepts: dict[str, Concept] = {}
    styles = set()
    for record in records:
        styles.add(record.style)
        seen = concepts.get(record.label)
        tags = frozenset(record.tags) | (seen.tags if seen else frozenset())
        first = seen or Concept(record.label, record.family, record.group, tags)
        concepts[record.label] = Concept(first.label, first.family, first.group, tags)
    return concepts, frozenset(styles)


def subject(prompt: str, styles: Iterable[str]) -> str:
    """What ``prompt`` says the picture is of, in lower case, without article, style or background.

    That is the text before the first comma: "a rocket, 3d style" and "3d emoji of rocket" are both "rocket".
    """
    style = "|".join(map(re.escape, sorted(styles)))
    before = prompt.split(",")[0].strip().lower()
    return re.sub(rf"^(an? )?(({style}) emoji of (an? )?)?", "", before)


def concept_of(name: str, concepts: Mapping[str, Concept]) -> Concept:
    """The concept of the corpus that is meant by ``name``, the subject of a prompt.

    Where that is no label (in lower case), MAPPING says which one is meant, else the most alike by difflib
    (cutoff 0.6). Raises UnknownName if none is.
    """
    name = MAPPING.get(name, name)
    by_name = {label.lower(): concept for label, concept in concepts.items()}
    near = [name] if name in by_name else difflib.get_close_matches(name, by_name, n=1)
    if not near:
        raise UnknownName("concept", name, concepts)
    return by_name[near[0]]


def tellable(truth: Concept, other: Concept, said: str = "") -> bool:
    """Whether a judge can be asked to tell a picture of ``truth`` from one of ``other``.

    Not if they are of one family, if the label or the tags of ``other`` have a telling word of the label of
    ``truth`` or of ``said``, the words of the prompt ("poodle" has the tag "dog", "last quarter moon" a word
    of "crescent moon"), or if the label of ``other`` is a tag of ``truth`` ("mountain" of "volcano").
    Colours, "face", "person" and the like tell nothing.
    """
    if other.family == truth.family or other.label in truth.tags:
        return False
    telling = _words(truth.label) | _words(said)
    return not telling & _words(" ".join((other.label, *other.tags)))


def questions(
    prompts: Sequence[str], concepts: Mapping[str, Concept], styles: Iterable[str], seed: int
) -> list[Question]:
    """A question for each prompt, shuffled and lettered by ``seed``; picture i of prompt i is ``{i:02}.png``.

    Raises UnknownName for a prompt that names nothing in the corpus and InvalidRequest where a group has not
    nine labels that can be told from the truth.
    """
    known = frozenset(styles)
    draw = random.Random(seed)
    order = list(range(len(prompts)))
    draw.shuffle(order)
    made = []
    for place, i in enumerate(order):
        said = subject(prompts[i], known)
        truth = concept_of(said, concepts)
        by_family: dict[str, list[str]] = {}
        for other in sorted(concepts.values(), key=lambda c: c.label):
            if other.group == truth.group and tellable(truth, other, said):
                by_family.setdefault(other.family, []).append(other.label)
        if len(by_family) < OPTIONS - 1:
            raise InvalidRequest(
                f"group {truth.group!r} has {len(by_family)} families that can be told from {truth.label!r}; "
                f"{OPTIONS - 1} are needed"
            )
        families = draw.sample(sorted(by_family), OPTIONS - 1)
        options = [truth.label, *(draw.choice(by_family[family]) for family in families)]
        draw.shuffle(options)
        made.append(Question(_letter(place), f"{i:02}.png", prompts[i], truth.label, tuple(options)))
    return made


def make_sheet(
    pictures: Path, prompts: Path, records: Iterable[Record], out: Path, seed: int
) -> list[Question]:
    """Write the blind folder and the key into the folder ``out`` (made if absent); return the questions.

    The labels are those of ``records``, the corpus that the pictures were learned from.
    Raises DataError for files that are missing or damaged, OutputError for what cannot be written,
    InvalidRequest if ``out/blind`` holds files already, and as ``questions``.
    """
    concepts, styles = concepts_in(records)
    made = questions(read_prompts(prompts), concepts, styles, seed)
    sheets = [_pixels(pictures / question.picture) for question in made]
    blind = out / "blind"
    if blind.exists() and any(blind.iterdir()):
        raise InvalidRequest(f"{blind} holds files already; choose another --out")
    try:
        blind.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(why_unwritable(blind, error)) from error
    for question, sheet in zip(made, sheets, strict=True):
        write_bytes(blind / f"{question.letter}.png", sheet)
    write_bytes(blind / "questions.json", _json({question.letter: question.options for question in made}))
    write_bytes(out / "key.json", _json({"seed": seed, "questions": [asdict(q) for q in made]}))
    return made


def read_prompts(path: Path) -> list[str]:
    """The lines of a prompts file that are not empty; DataError if it cannot be read."""
    try:
        return [line.strip() for line in path.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the prompts {path}: {error}") from error


def read_key(path: Path) -> list[Question]:
    """The questions of a key file; DataError if it is none."""
    try:
        rows = _read_json(path)["questions"]
        return [Question(**{**row, "options": tuple(row["options"])}) for row in rows]
    except (KeyError, TypeError) as error:
        raise DataError(f"{path} is not a key that `judge-make` wrote") from error


def read_answers(path: Path) -> dict[str, str]:
    """The answers in a file, ``{"A": "volcano", ...}``; DataError if it holds something else."""
    answers = _read_json(path)
    for letter, answer in answers.items():
        if not isinstance(answer, str):
            raise DataError(
                f"{path}: the answer for {letter!r} must be one of its labels, not {answer!r:.60}"
            )
    return answers


def score_answers(key: Sequence[Question], answers: Mapping[str, str]) -> Result:
    """Count the right ``answers``; one that is missing or empty is wrong.

    Raises InvalidRequest for a letter that has no picture, or a label that was not offered for it.
    """
    offered = {question.letter: question.options for question in key}
    for letter, answer in answers.items():
        if letter not in offered:
            raise InvalidRequest(f"there is no picture {letter!r}; they are {', '.join(sorted(offered))}")
        if answer and answer not in offered[letter]:
            raise InvalidRequest(
                f"{answer!r} is none of the labels of {letter}: {', '.join(offered[letter])}"
            )
    rows = [(q.letter, q.prompt, q.label, answers.get(q.letter) or "") for q in key]
    return Result(sum(label == answer for _, _, label, answer in rows), len(rows), tuple(rows))


def _words(text: str) -> set[str]:
    """The telling words of ``text``: lower case, without plural s, without the common ones."""
    found = re.findall(r"[^\W_]+", text.lower())
    singular = (w.removesuffix("s") if len(w) > 3 else w for w in found)
    return {w for w in singular if w not in _COMMON}


def _letter(place: int) -> str:
    """0 -> A, 25 -> Z, 26 -> AA, as the columns of a spreadsheet."""
    rest, last = divmod(place, 26)
    return (_letter(rest - 1) if rest else "") + string.ascii_uppercase[last]


def _pixels(path: Path) -> bytes:
    """The picture file as a PNG of its pixels on white, and of nothing else; DataError if it is none."""
    file = io.BytesIO()
    Image.fromarray(read_on_white(path)).save(file, "png")
    return file.getvalue()


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()


def _read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; DataError if there is none."""
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path}: {error}") from error
    if not isinstance(value, dict):
        raise DataError(f"{path} does not hold a JSON object")
    return value
