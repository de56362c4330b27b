"""Adapters and learned words on a loaded model: those that stand, and those that prompts name for one request.

What acts is set before a request and put back after it, so that the model outside of requests has exactly what was
asked of it, to the last bit of its weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sfumato.adapters import (
    Network,
    Strength,
    apply,
    load_adapter,
    load_embedding,
    metadata_for,
    save_adapter,
    teach,
)
from sfumato.adapters.apply import Applied
from sfumato.adapters.embedding import Words
from sfumato.adapters.found import (
    File,
    Given,
    Use,
    by_hash,
    called,
    check_merged,
    check_target,
    digest,
    files_told,
    find,
    named,
    spelled,
    use_of,
)
from sfumato.adapters.place import place
from sfumato.adapters.read import Adapter
from sfumato.device import dtype_named
from sfumato.errors import InvalidRequest, WeightsError
from sfumato.model import Model, Seams
from sfumato.picture.recipe import Recipe
from sfumato.text.prompt.dialects import embeddings, parse
from sfumato.text.prompt.parts import Adapter as Named
from sfumato.text.prompt.parts import Parsed

KEPT = 16
"""Adapters that stay read, so that requests may switch between them."""

KINDS = ("lora", "lyco")
"""What ``<kind:name:0.8>`` may begin with; hypernetworks are not adapters of weights."""

TEXTS = ("prompt", "prompt_2", "prompt_3", "prompt_to", "source")
AVOIDED = ("negative", "negative_2", "negative_3")


@dataclass(frozen=True, kw_only=True)
class Exactly:
    """What a recipe says acted: nothing is looked up by name."""

    uses: tuple[Use, ...] = ()
    words: tuple[Path, ...] = ()
    merged: bool = False


@dataclass(frozen=True, kw_only=True)
class Acting:
    """What acts during a request: ``facts`` for its recipe, and notes for the person."""

    facts: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class Adapters:
    """The adapters of a model; ``add`` and ``remove`` change those that stand. Not to be called during a request."""

    def __init__(self, model: Model, given: Given | None = None) -> None:
        """Take what is ``given``; WeightsError and InvalidRequest as for ``add``."""
        self.model, self.given = model, given or Given()
        self.standing: list[Use] = []
        self._networks: dict[str, Network] = {}
        self._read: dict[tuple[Path, int, int, bool], tuple[Adapter, str]] = {}
        self._applied: Applied | None = None
        self._state: tuple[tuple[Use, ...], bool] = ((), self.given.merged)
        for one in self.given.uses():
            self._put([*self.standing, one])

    def __iter__(self) -> Iterator[Use]:
        """Those that stand."""
        return iter(self.standing)

    def add(
        self,
        path: File,
        strength: float = 1.0,
        *,
        text: float | None = None,
        blocks: Mapping[str, float] | None = None,
        interval: tuple[float, float] = (0.0, 1.0),
        partial: bool = False,
    ) -> tuple[str, ...]:
        """Let the adapter at ``path`` act until it is removed; what should be told of it.

        ``text`` is its strength on text encoders where it is another; ``blocks`` and ``interval`` are those of
        adapters.Strength. WeightsError names the layers that find no place (``partial`` leaves them out).
        """
        own = Strength(value=strength, text=text, blocks=blocks or {}, lo=interval[0], hi=interval[1])
        one = Use(path=Path(path), strength=own, partial=partial)
        if self.given.merged:
            check_merged(one)
        if any(other.name == one.name for other in self.standing):
            raise InvalidRequest(f"the adapter {one.name!r} acts already: remove it first")
        self._put([*self.standing, one])
        return () if self._applied is None else self._applied.placed[-1].notes

    def remove(self, name: str | None = None) -> None:
        """Let the adapter called ``name`` act no more, or all of them; the weights are what they were."""
        left = [one for one in self.standing if name is not None and one.name != name]
        if name is not None and len(left) == len(self.standing):
            raise InvalidRequest(
                f"no adapter {name!r} acts; there are {', '.join(one.name for one in self.standing) or 'none'}"
            )
        self._put(left)

    def write(
        self,
        source: File,
        target: File,
        layout: str,
        *,
        title: str = "",
        dtype: str | None = None,
        partial: bool = False,
    ) -> tuple[Path, tuple[str, ...]]:
        """Write the adapter ``source`` of this model to ``target`` in ``layout``; the file, and what should be told.

        See adapters.save_adapter; ``partial`` leaves out what finds no place. The header says what kohya's and
        ModelSpec's fields say of it, and keeps the trigger phrase. InvalidRequest if ``target`` exists, or its name
        does not go with ``layout``.
        """
        check_target(Path(target), layout)
        adapter, _ = self._adapter(Use(path=Path(source), partial=partial))
        places = self._places(self._seams())
        placed = place(adapter, places, partial=partial)
        adapter = replace(
            adapter, layers=tuple(one for one in adapter.layers if one.name not in placed.missing)
        )
        known = ("modelspec.author", "modelspec.trigger_phrase", "modelspec.license", "modelspec.description")
        kept: dict[str, Any] = {
            name.removeprefix("modelspec."): adapter.metadata[name]
            for name in known
            if name in adapter.metadata
        }
        told = title or adapter.metadata.get("modelspec.title", "") or named(Path(source))
        predicts = self.model.denoiser.prediction.kind
        facts = metadata_for(adapter, self.model.name, title=told, predicts=predicts, **kept)
        wanted = None if dtype is None else dtype_named(dtype, "cpu")
        path = save_adapter(Path(target), adapter, places, layout, dtype=wanted, metadata=facts)
        return path, placed.notes

    def asked(self, task: Any) -> Exactly:
        """What acts in a request of ``task``: what stands, and what its prompts name."""
        parsed = list(_parsed(task))
        return Exactly(
            uses=tuple(self._named(parsed)), words=self._words(task, parsed), merged=self.given.merged
        )

    @contextmanager
    def during(self, task: Any, exactly: Exactly | None = None) -> Iterator[Acting]:
        """Let what stands and what the prompts of ``task`` name act, or ``exactly`` what a recipe says."""
        wanted = {adapter.name for prompt in _parsed(task) for adapter in prompt.adapters}
        exactly = exactly or self.asked(task)
        if not exactly.uses and not exactly.words and not self.standing and not wanted:
            yield Acting()
            return
        seams = self._seams()
        words: Words | None = None
        try:
            self._act(exactly.uses, exactly.merged)
            words, learned = self._teach(exactly.words)
            seams.learned.update(learned)
            seams.acting.update(wanted)
            applied = self._applied
            yield Acting(facts=self._facts(exactly), notes=() if applied is None else applied.notes)
        finally:
            seams.learned.clear()
            seams.acting.clear()
            if words is not None:
                words.remove()
            self._act(tuple(self.standing), self.given.merged)

    def _put(self, uses: list[Use]) -> None:
        self._act(tuple(uses), self.given.merged)
        self.standing = uses

    def _act(self, uses: tuple[Use, ...], merged: bool) -> None:
        """Let ``uses`` act, and nothing else."""
        if (uses, merged) == self._state:
            return
        seams = self._seams()
        read = [(self._adapter(one)[0], one.strength) for one in uses]
        timed = any(not one.strength.always for one in uses)
        into = (merged or seams.copied) and not timed
        try:
            self._exchange(read, into, any(one.partial for one in uses))
        except BaseException:
            if self._applied is None or not self._applied.placed:  # nothing acts any more
                self._applied, self._state = None, ((), merged)
                seams.use("own")
            raise
        self._state = uses, merged
        seams.use("own" if not uses else "merged" if into else "live")

    def _exchange(self, read: list[tuple[Adapter, Strength]], into: bool, partial: bool) -> None:
        """Let the adapters ``read`` act in the place of those that do."""
        old = self._applied
        if old is not None and read and old.merged == into:
            old.partial = partial
            old.switch(read)
            return
        if old is not None:
            old.remove()
        self._applied = None
        if read:
            places = self._places(self._seams())
            self._applied = apply(places, read, merged=into, partial=partial, denoiser=self.model.denoiser)

    def _places(self, seams: Seams) -> dict[str, Network]:
        """The networks, whose names are looked up once."""
        if not self._networks:
            self._networks = {place: Network(*pair) for place, pair in seams.networks().items()}
        return self._networks

    def _seams(self) -> Seams:
        if self.model.seams is None:
            raise InvalidRequest(
                f"the model {self.model.name!r} takes no adapters and no textual inversion: they are for published "
                "checkpoints and the built-in model"
            )
        return self.model.seams

    def _adapter(self, one: Use) -> tuple[Adapter, str]:
        """The adapter in a file, and its sha256; read once for as long as the file is not changed."""
        try:
            stat = one.path.stat()
        except OSError as error:
            raise WeightsError(f"cannot read the adapter {one.path}: {error.strerror}") from error
        key = one.path, stat.st_mtime_ns, stat.st_size, one.partial
        if key not in self._read:
            pickled = self.given.allow_pickle
            read = load_adapter(one.path, partial=one.partial, allow_pickle=pickled)
            self._read[key] = read, digest(one.path, allow_pickle=pickled)
            while len(self._read) > KEPT:
                del self._read[next(iter(self._read))]
        return self._read[key]

    def _named(self, parsed: list[Parsed]) -> list[Use]:
        """Those that stand, with the strengths that prompts give them, and those that prompts name beside them."""
        uses = {one.name: one for one in self.standing}
        seen: dict[str, Named] = {}
        for adapter in (each for prompt in parsed for each in prompt.adapters):
            if adapter.kind not in KINDS:
                raise InvalidRequest(
                    f"<{adapter.kind}:{adapter.name}> is not read: adapters are named as <lora:{adapter.name}:0.8>"
                )
            if adapter.options:
                raise InvalidRequest(
                    f"the option {adapter.options[0][0]!r} of the adapter {adapter.name!r} is not known: only te and "
                    "unet are"
                )
            if seen.setdefault(adapter.name, adapter) != adapter:
                raise InvalidRequest(f"the adapter {adapter.name!r} is named with two strengths")
            own = uses.get(adapter.name)
            strength = replace(own.strength if own else Strength(), value=adapter.denoiser, text=adapter.text)
            path = own.path if own else self._find("adapter", adapter.name, self.given.adapters_in)
            uses[adapter.name] = Use(
                path=path, strength=strength, partial=own.partial if own else self.given.partial
            )
        return list(uses.values())

    def _find(self, kind: str, name: str, folder: File | None) -> Path:
        if folder is None:
            raise InvalidRequest(
                f"the prompt names the {kind} {name!r}: say in which folder it lies ({kind}s_in, --{kind}s-in)"
            )
        return find(kind, name, Path(folder))

    def _words(self, task: Any, parsed: list[Parsed]) -> tuple[Path, ...]:
        """Files of learned words that prompts name: ComfyUI marks them, in other dialects they are bare words."""
        wanted = dict.fromkeys(name.strip(",") for prompt in parsed for name in embeddings(prompt))
        folder = self.given.embeddings_in
        if wanted:
            return tuple(self._find("embedding", name, folder) for name in wanted)
        if folder is None or getattr(task, "dialect", "plain") not in ("a1111", "compel"):
            return ()
        text = " ".join(_texts(task, (*TEXTS, *AVOIDED)))
        return spelled(text, Path(folder))

    def _teach(self, paths: Sequence[Path]) -> tuple[Words | None, dict[str, dict[str, tuple[int, ...]]]]:
        """Teach the text encoders the words in ``paths``; their token ids by word and place."""
        if not paths:
            return None, {}
        places = self._places(self._seams())
        encoders: dict[str, Any] = {p: n.module for p, n in places.items() if hasattr(n.module, "token")}
        if not encoders:
            raise InvalidRequest(
                f"textual inversion is for CLIP and T5 encoders, and {self.model.name!r} has none"
            )
        read = [
            replace(load_embedding(path, allow_pickle=self.given.allow_pickle), name=named(path))
            for path in paths
        ]
        for one in read:
            if lacking := [p for p in encoders if p != "text_3" and p not in one.vectors]:
                raise WeightsError(
                    f"the embedding {one.name!r} has no vectors for {' and '.join(lacking)}: it is made for "
                    "another family"
                )
        words = teach(encoders, read)
        return words, words.ids

    def _facts(self, exactly: Exactly) -> dict[str, Any]:
        """What the recipe says of all that acts."""
        told: dict[str, Any] = {}
        if exactly.uses:
            told["adapters"] = [one.facts(self._adapter(one)[1]) for one in exactly.uses]
            told["merged"] = exactly.merged
        if exactly.words:
            pickled = self.given.allow_pickle
            told["embeddings"] = [
                {"file": path.name, "sha256": digest(path, allow_pickle=pickled)} for path in exactly.words
            ]
        return told


GIVEN = ("adapters", "adapters_in", "embeddings_in", "merged", "partial")
"""Options of loading that a recipe overrules, or that say where its files are."""


def again(recipe: Recipe, given: Given, made: File) -> tuple[Exactly, Recipe]:
    """What acted by the ``recipe`` of the picture ``made``, and the recipe without it.

    They are the same files, by their hashes, among those that are ``given``. InvalidRequest names a file that is
    missing or another one, and what is no list of files.
    """
    arguments = dict(recipe.arguments)
    told, words = (files_told(arguments.pop(name, None), name) for name in ("adapters", "embeddings"))
    merged = bool(arguments.pop("merged", False))
    files = [one.path for one in given.uses()]
    uses: list[Use] = []
    paths: list[Path] = []
    for facts in told:
        name = str(facts.get("file", ""))
        near = [*files, *called(name, given.adapters_in)]
        how = "give it with --adapter FILE, or its folder with --adapters-in"
        path = by_hash(facts, near, str(made), how, allow_pickle=given.allow_pickle)
        uses.append(use_of(facts, path))
    for facts in words:
        near = called(str(facts.get("file", "")), given.embeddings_in)
        how = "give its folder with --embeddings-in"
        paths.append(by_hash(facts, near, str(made), how, allow_pickle=given.allow_pickle))
    return Exactly(uses=tuple(uses), words=tuple(paths), merged=merged), replace(recipe, arguments=arguments)


def _texts(task: Any, names: Sequence[str]) -> list[str]:
    found = [getattr(task, name, None) for name in names]
    return [text for text in (*found, *getattr(task, "prompts", ())) if text]


def _parsed(task: Any) -> Iterator[Parsed]:
    """The prompts of ``task``, read."""
    name = getattr(task, "dialect", "plain")
    if name == "plain":
        return
    for text in _texts(task, TEXTS):
        yield parse(text, name)
    for field_name in AVOIDED:
        if avoided := getattr(task, field_name, None):
            yield parse(avoided, name, compose=False)


__all__ = ["GIVEN", "Acting", "Adapters", "Exactly", "Given", "again"]
