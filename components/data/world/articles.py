"""Documents: which facts each states, in which order, and the sentences between them."""

from bisect import bisect
from collections.abc import Iterator
from itertools import accumulate
from math import gcd
from random import Random
from typing import NamedTuple

from components.data.world.chance import pick, shuffled, zipf_weights
from components.data.world.config import WorldConfig
from components.data.world.facts import Entity
from components.data.world.prose import Page, Pattern, Sentence, Span, patterns
from components.data.world.stock import FreeWords

_FREE_SHARE = 0.3  # of gaps between factual sentences; sets how many harmless words are as hard to guess as facts
_PARAGRAPH_SENTENCES = 4


class Document(NamedTuple):
    """One document; ``spans`` are its factual characters in order."""

    id: str
    subject: Entity
    text: str
    spans: list[Span]


def document_counts(cfg: WorldConfig) -> list[int]:
    """Documents about each entity, most popular first: by Zipf's law, and at least one."""
    total = round(cfg.entities * cfg.documents_per_entity)
    weights = zipf_weights(cfg.entities, cfg.zipf_exponent)
    low, high = 0.0, float(total)
    for _ in range(60):  # bisection for the scale at which the counts, floors included, sum to the total
        scale = (low + high) / 2
        if sum(max(1, round(scale * weight)) for weight in weights) > total:
            high = scale
        else:
            low = scale
    return [max(1, round(low * weight)) for weight in weights]


def documents(cfg: WorldConfig, entities: list[Entity]) -> Iterator[Document]:
    """All documents, those about one entity spread over the whole corpus. Only one is held at a time."""
    last = list(accumulate(document_counts(cfg)))
    total = last[-1]
    words = FreeWords(cfg.seed)
    # A stride near the golden section, coprime to the total, visits every document once and keeps neighbours apart,
    # without a shuffled list of all documents in memory.
    stride = max(1, int(total * 0.618))
    while gcd(stride, total) != 1:
        stride += 1
    for step in range(total):
        place = step * stride % total
        rank = bisect(last, place)
        number = last[rank] - 1 - place
        yield _document(entities[rank], number, Random(f"{cfg.seed} {entities[rank].id}/{number}"), words)


def _document(subject: Entity, number: int, rng: Random, words: FreeWords) -> Document:
    """Document ``number`` about ``subject``; number 0 is the article that tells every fact."""
    page = Page(subject, rng, words)
    known = [relation for relation in patterns(subject.kind).by_relation if relation in subject.values]
    if number > 0:
        share = 0.25 + 0.5 * page.rng.random()
        known = [relation for relation in known if page.rng.random() < share]
    # Roughly the order of a life: relations trade places with near neighbours only.
    order = sorted((index + 4 * page.rng.random(), relation) for index, relation in enumerate(known))
    _sentence(page, patterns(subject.kind).lead)
    asides = shuffled(page.rng, patterns(subject.kind).free)
    since_break = 1
    for _, relation in order:
        if relation in page.told and page.rng.random() < 0.9:
            continue
        since_break = _gap(page, since_break)
        _sentence(page, patterns(subject.kind).by_relation[relation])
        if page.rng.random() < _FREE_SHARE and asides:
            since_break = _gap(page, since_break)
            _sentence(page, (asides.pop(),))
    return Document(f"{subject.id}/{number}", subject, page.text, page.spans)


def _sentence(page: Page, options: tuple[Pattern, ...]) -> None:
    """Write one of ``options`` that fits, preferably one that repeats nothing."""
    best: Sentence | None = None
    repeats = 0
    for _ in range(3):
        sentence = _fitting(page, options)
        again = len(sentence.states & page.told)
        if best is None or again < repeats:
            best, repeats = sentence, again
        if repeats == 0:
            break
    assert best is not None
    page.write(best)


def _fitting(page: Page, options: tuple[Pattern, ...]) -> Sentence:
    # Every relation has a pattern that needs nothing else, so a fitting one turns up after a few draws.
    while True:
        sentence = pick(page.rng, pick(page.rng, options).wordings)
        if sentence.fits(page.subject):
            return sentence


def _gap(page: Page, since_break: int) -> int:
    if since_break >= _PARAGRAPH_SENTENCES and page.rng.random() < 0.5:
        page.literal("\n\n")
        return 1
    page.literal(" ")
    return since_break + 1
