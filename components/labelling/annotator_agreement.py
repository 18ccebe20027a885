"""Agreement of annotators: with the exact labels of the closed world, and with each other on any text.

They are compared token by token on the same documents. Agreement beyond chance is Cohen's kappa. F1 takes one annotator
as the truth for the other; it is symmetric.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict

from components.core.metrics import f1, kappa, precision_recall
from components.data.shards import Split
from components.data.split import TRAIN
from components.labelling.alignment import Words, factual_tokens
from components.labelling.annotators import capitals, world
from components.labelling.annotators.capitals import Capitals
from components.labelling.annotators.control import Control
from components.labelling.annotators.copied import without_copied
from components.labelling.annotators.pipeline import Pipeline
from components.labelling.annotators.rules import PARSE_RULES, ParseRules
from components.labelling.annotators.world import WorldAnnotator
from components.labelling.document_labeller import DocumentLabeller
from components.labelling.labels import Bits

_SEED = 0
# A parser reads some 40 kB/s: with two parses of this much, the comparison of annotators costs half a minute.
_LARGEST_SAMPLE_BYTES = 500_000
# One parse serves these; attributes need the parser besides, whose presence may move an entity's border.
_RULES_BY_PARSE: tuple[tuple[ParseRules, ...], ...] = (("ner_only", "pos_only", "ner+pos"), ("ner+pos+attr",))


class Standing(BaseModel):
    """One annotator under one rule set. Scores against the exact labels are ``None`` where there are none."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    annotator: str
    rules: str
    share: float
    precision: float | None = None
    recall: float | None = None
    f1: float | None = None


class Agreement(BaseModel):
    """Two annotators, each given as ``annotator rules``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    one: str
    other: str
    kappa: float
    f1: float


class AnnotatorAgreement(BaseModel):
    """The comparison, over ``tokens`` tokens of ``documents`` training documents."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    documents: int
    tokens: int
    exact: bool
    """Whether the exact labels are known."""
    standings: list[Standing]
    agreements: list[Agreement]
    unavailable: dict[str, str]
    """Rule sets that the pipeline cannot serve, and why."""

    def markdown(self) -> str:
        """The tables a person reads."""
        lines = [
            "# Annotators compared",
            "",
            f"{self.tokens:,} tokens of {self.documents} documents; "
            + ("exact labels are known." if self.exact else "no exact labels: agreement only."),
            "",
            "| annotator | rules | factual share | precision | recall | F1 |",
            "|---|---|---|---|---|---|",
        ]
        lines += [
            f"| {s.annotator} | {s.rules} | {s.share:.1%} | {_percent(s.precision)} | {_percent(s.recall)} | "
            f"{_percent(s.f1)} |"
            for s in self.standings
        ]
        lines += ["", "| one | other | Cohen's kappa | F1 |", "|---|---|---|---|"]
        lines += [f"| {a.one} | {a.other} | {a.kappa:.3f} | {a.f1:.1%} |" for a in self.agreements]
        lines += ["", *(f"{rules} is not available: {reason}." for rules, reason in self.unavailable.items())]
        return "\n".join(lines).rstrip() + "\n"


class _Candidate(NamedTuple):
    annotator: str
    rules: str
    words: list[Words]

    @property
    def name(self) -> str:
        return f"{self.annotator} {self.rules}"


def compare(labeller: DocumentLabeller, documents: int) -> AnnotatorAgreement:
    """Compare every annotator that is available, under all rule sets, on a fixed sample of training documents.

    With ``documents=0`` no annotators are compared.

    Raises ``InputError`` if a pipeline is named but cannot be loaded.
    """
    if documents == 0:
        return AnnotatorAgreement(documents=0, tokens=0, exact=False, standings=[], agreements=[], unavailable={})
    split = labeller.shards.splits[TRAIN]
    numbers = list(_sample(split, documents))
    ids = [split.document(number) for number in numbers]
    texts = [labeller.text(each, f"document {number}") for each, number in zip(ids, numbers, strict=True)]
    exact, candidates, unavailable = _candidates(labeller, texts)

    def bits(words: Sequence[Words]) -> Bits:
        rows = [
            factual_tokens(
                text,
                labeller.token_bytes[each],
                without_copied(text, found) if labeller.skip_copied else found,
                labeller.subwords,
            )
            for text, each, found in zip(texts, ids, words, strict=True)
        ]
        return np.concatenate(rows) if rows else np.zeros(0, dtype=bool)

    labels = {candidate.name: bits(candidate.words) for candidate in candidates}
    truth = labels[exact] if exact else None
    return AnnotatorAgreement(
        documents=len(numbers),
        tokens=sum(map(len, ids)),
        exact=bool(exact),
        standings=[_standing(candidate, labels[candidate.name], truth) for candidate in candidates],
        agreements=[
            Agreement(one=one, other=other, kappa=kappa(labels[one], labels[other]), f1=f1(labels[one], labels[other]))
            for one, other in combinations(labels, 2)
        ],
        unavailable=unavailable,
    )


def _standing(candidate: _Candidate, labels: Bits, truth: Bits | None) -> Standing:
    share = float(labels.mean()) if len(labels) else 0.0
    if truth is None:
        return Standing(annotator=candidate.annotator, rules=candidate.rules, share=share)
    precision, recall = precision_recall(labels, truth)
    return Standing(
        annotator=candidate.annotator,
        rules=candidate.rules,
        share=share,
        precision=precision,
        recall=recall,
        f1=f1(labels, truth),
    )


def _candidates(labeller: DocumentLabeller, texts: list[str]) -> tuple[str, list[_Candidate], dict[str, str]]:
    """The name of the exact one (empty if there is none), everyone's words, and rule sets that cannot be had."""
    choice = labeller.choice
    found: list[_Candidate] = []
    unavailable: dict[str, str] = {}
    exact = ""
    if choice.documents is not None:
        known = [WorldAnnotator(choice.documents, Capitals()).annotate(texts)]
        if all(annotation.annotator == "world" for annotation in known[0]):  # a mixed corpus has no exact labels
            found.append(_Candidate("world", world.RULE, [annotation.words for annotation in known[0]]))
            exact = found[0].name
    if choice.pipeline:
        everything = Pipeline(choice.pipeline, PARSE_RULES)
        for group in _RULES_BY_PARSE:
            lacking = {rules: lack for rules in group if (lack := everything.lacks(rules))}
            unavailable |= {f"spacy {rules}": lack for rules, lack in lacking.items()}
            served = [rules for rules in group if rules not in lacking]
            if served:
                pipeline = Pipeline(choice.pipeline, served)
                parses = list(pipeline.parses(texts))
                found += [
                    _Candidate("spacy", rules, [pipeline.words(pieces, rules) for pieces in parses]) for rules in served
                ]
    found.append(_Candidate("capitals", capitals.RULE, [each.words for each in Capitals().annotate(texts)]))
    found.append(_Candidate("control", "digits_only", [each.words for each in Control("digits_only").annotate(texts)]))
    return exact, found, unavailable


def _sample(split: Split, documents: int) -> Iterator[int]:
    """A fixed shuffle cut at a number of documents and bytes; at least one document, if there is any."""
    room = _LARGEST_SAMPLE_BYTES
    for number in np.random.default_rng(_SEED).permutation(split.n_documents)[:documents].tolist():
        size = int(split.documents[number, 2])
        if size > room:
            if room < _LARGEST_SAMPLE_BYTES:
                return
            continue  # a book alone would be the whole sample
        room -= size
        yield number


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"
