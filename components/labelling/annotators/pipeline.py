"""Annotation by a trained spaCy pipeline: any installed package, or a path.

Components that no rule set needs are left out. Texts over 100,000 characters are parsed in parts. spaCy's cache of
words is cleared after every batch, so that memory does not grow with the corpus.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from components.core.errors import InputError
from components.core.identity import digest_json
from components.core.inputs import folder_digest
from components.labelling.annotators import schemes
from components.labelling.annotators.base import Annotation
from components.labelling.annotators.chunks import chunks
from components.labelling.annotators.rules import COLUMNS, Parse, ParseRules, Symbols, factual_tokens

_PROBE = "Ada Lovelace was born in London in 1815."
_BATCH_CHARACTERS = 200_000  # some 45,000 words: what the parser's state of one batch may take, about 100 MB
_BATCH_TEXTS = 64
# Attributes that no rule reads: components that set nothing else are left out.
_UNREAD = {"token.lemma", "token.is_sent_start", "doc.sents", "doc.cats", "token.ent_kb_id", "doc.spans"}
_PARSED = {"token.dep", "token.head"}
# Running English has 37 to 60 % stop words (Wikipedia, novels, the closed world), lists and tables down to 20 %; other
# European languages happen upon 5 to 20 % of the English ones.
_STOP_WORD_SHARE = 0.2
_JUDGED_WORDS = 20


class PipelineRecord(NamedTuple):
    """What a manifest says of a pipeline."""

    spacy: str
    name: str
    digest: str
    language: str


class Pipeline:
    """A loaded pipeline with the components that ``rules`` need.

    Raises ``InputError`` if spaCy is not installed, there is no such pipeline, or it cannot be loaded.
    """

    def __init__(self, name: str, rules: Sequence[ParseRules]) -> None:
        self.name = name
        self._rules = rules
        spacy = _spacy()
        self.nlp = _load(name)
        left_out = [pipe for pipe in self.nlp.pipe_names if self._is_left_out(pipe)]
        for pipe in left_out:
            self.nlp.remove_pipe(pipe)
        labels = {label for pipe in self.nlp.pipe_labels.values() for label in pipe}
        self._scheme = schemes.scheme_of(labels)
        self._symbols = Symbols.of(self.nlp.vocab.strings, self._scheme)
        self._columns = [getattr(spacy.attrs, column) for column in COLUMNS]
        self._words = [spacy.attrs.IS_ALPHA, spacy.attrs.IS_STOP]
        self._has_stop_words = bool(self.nlp.Defaults.stop_words)
        meta = self.nlp.meta
        self.record = PipelineRecord(
            spacy.__version__,
            f"{meta['lang']}_{meta['name']} {meta['version']}",
            folder_digest(Path(self.nlp.path)) if self.nlp.path else digest_json(self.nlp.config.to_str()),
            self.nlp.lang,
        )

    def parses(self, texts: Sequence[str]) -> Iterator[list[tuple[int, Parse, bool | None]]]:
        """Per text its pieces: offset, parse, and whether the piece is in the pipeline's language (if that shows)."""
        pieces = [(number, offset, piece) for number, text in enumerate(texts) for offset, piece in chunks(text)]
        parsed: list[list[tuple[int, Parse, bool | None]]] = [[] for _ in texts]
        for batch in _batches(pieces):
            with self.nlp.memory_zone():
                documents = self.nlp.pipe((piece for _, _, piece in batch), batch_size=_BATCH_TEXTS)
                for (number, offset, _), document in zip(batch, documents, strict=True):
                    parsed[number].append((offset, document.to_array(self._columns), self._familiar(document)))
        yield from parsed

    def words(self, pieces: Iterable[tuple[int, Parse, bool | None]], rules: ParseRules) -> "np.ndarray[Any, Any]":
        """The factual words of a text from the parses of its pieces."""
        found = [np.empty((0, 2), dtype=np.int64)]
        for offset, parse, _ in pieces:
            marked = parse[factual_tokens(parse, rules, self._symbols)].astype(np.int64)
            starts = offset + marked[:, COLUMNS.index("IDX")]
            found.append(np.stack([starts, starts + marked[:, COLUMNS.index("LENGTH")]], axis=1))
        return np.concatenate(found)

    def _familiar(self, document: Any) -> bool | None:
        """By the share of the language's stop words: text in another language, or none, has few of them."""
        if not self._has_stop_words:
            return None
        words = document.to_array(self._words).astype(bool)
        alphabetic = int(words[:, 0].sum())
        if alphabetic < _JUDGED_WORDS:
            return None
        return int((words[:, 0] & words[:, 1]).sum()) >= _STOP_WORD_SHARE * alphabetic

    def _is_left_out(self, pipe: str) -> bool:
        meta = self.nlp.get_pipe_meta(pipe)
        unread = _UNREAD | (set() if "ner+pos+attr" in self._rules else _PARSED)
        needed = {need for other in self.nlp.pipe_names for need in self.nlp.get_pipe_meta(other).requires}
        return bool(meta.assigns) and set(meta.assigns) <= unread - needed

    @cached_property
    def _sets(self) -> frozenset[str]:
        """The attributes that the pipeline sets, found by trying, because components may be third-party code."""
        document = self.nlp(_PROBE)
        return frozenset(attribute for attribute in ("ENT_IOB", "POS", "DEP") if document.has_annotation(attribute))

    def lacks(self, rules: ParseRules) -> str | None:
        """What ``rules`` read and the pipeline does not give, in words; ``None`` if it gives all."""
        wants_entities, wants_parse = rules != "pos_only", rules == "ner+pos+attr"
        # Parts of speech also decide which words never count, so every rule set reads them.
        if "POS" not in self._sets:
            return "it sets no parts of speech (a morphologizer, or a tagger with an attribute_ruler)"
        if wants_entities and "ENT_IOB" not in self._sets:
            return "it sets no named entities (a component such as ner)"
        if wants_parse and "DEP" not in self._sets:
            return "it sets no dependencies (a parser)"
        if wants_parse and self._scheme is None:
            return "its dependency labels are neither CLEAR (dobj, pobj) nor Universal Dependencies (obj, obl)"
        if wants_parse and self.nlp.lang != schemes.VERB_LANGUAGE:
            return f"it is for the language {self.nlp.lang!r}, and the rules for attributes know English verbs only"
        entities = {label for pipe in ("ner", "entity_ruler") for label in self.nlp.pipe_labels.get(pipe, ())}
        if wants_entities and entities and not entities & schemes.ENTITIES:
            return f"of its entity types ({', '.join(sorted(entities)[:12])}) the rules know none"
        return None

    def check(self, rules: ParseRules) -> "Pipeline":
        """Return self if the pipeline gives what ``rules`` read; raise ``InputError`` otherwise."""
        if lack := self.lacks(rules):
            raise InputError(
                f"pipeline {self.name!r} cannot serve label.rules={rules}: {lack}. It has "
                f"{', '.join(self.nlp.pipe_names) or 'no components'}. Choose another rule set or pipeline; "
                "label.rules=digits_only and label.annotator=capitals need none"
            )
        return self


class SpacyAnnotator:
    """Labels the words that a rule set finds in the parses of a pipeline."""

    def __init__(self, pipeline: Pipeline, rules: ParseRules) -> None:
        self._pipeline = pipeline.check(rules)
        self._rules = rules

    def annotate(self, texts: Sequence[str]) -> list[Annotation]:
        return [
            Annotation(self._pipeline.words(pieces, self._rules), "spacy", familiar=_all_familiar(pieces))
            for pieces in self._pipeline.parses(texts)
        ]


def _all_familiar(pieces: Sequence[tuple[int, Parse, bool | None]]) -> bool | None:
    told = [familiar for _, _, familiar in pieces if familiar is not None]
    return all(told) if told else None


def _batches(pieces: Iterable[tuple[int, int, str]]) -> Iterator[list[tuple[int, int, str]]]:
    batch: list[tuple[int, int, str]] = []
    room = _BATCH_CHARACTERS
    for piece in pieces:
        if batch and len(piece[2]) > room:
            yield batch
            batch, room = [], _BATCH_CHARACTERS
        batch.append(piece)
        room -= len(piece[2])
    if batch:
        yield batch


def _spacy() -> Any:
    try:
        import spacy
    except ImportError as error:
        raise InputError(
            f"label.pipeline needs spaCy, which cannot be imported here ({error}): install it with "
            "`pip install spacy`, or set label.annotator=capitals"
        ) from error
    return spacy


def _load(name: str) -> Any:
    spacy = _spacy()
    if not name:
        raise InputError(
            "label.annotator=spacy needs label.pipeline: an installed spaCy package such as en_core_web_sm, or the "
            "path of a trained pipeline"
        )
    if not spacy.util.is_package(name) and not Path(name).exists():
        raise InputError(
            f"there is no spaCy pipeline {name!r}: it is neither an installed package nor a path. Install it "
            f"(`python -m spacy download {name}`), give the path of a trained pipeline, or set label.annotator=capitals"
        )
    try:
        return spacy.load(name)
    except Exception as error:  # factories of third parties may raise anything
        raise InputError(
            f"the spaCy pipeline {name!r} cannot be loaded: {error}. Give an installed package or the folder of a "
            f"trained pipeline that fits spaCy {spacy.__version__}"
        ) from error
