"""Questions about the world's facts, each also as the beginning of a sentence that the answer continues."""

from collections.abc import Iterator, Mapping
from functools import cache
from heapq import nlargest
from math import log
from random import Random
from typing import NamedTuple

from components.data.world.config import WorldConfig
from components.data.world.facts import NUMBER_WORDS, Entity, written
from components.data.world.prose import Page, Sentence, Slot, Span, find, patterns
from components.data.world.stock import FreeWords

# "In" and a year say nothing of which year it is.
_TELLING_CHARACTERS = 4


class Question(NamedTuple):
    """A line of ``questions.jsonl``."""

    id: str
    question: str
    prompt: str
    answer: str
    aliases: list[str]
    fact: str
    mentions: int
    stated: int


def questions(cfg: WorldConfig, entities: list[Entity], counts: Mapping[str, int]) -> Iterator[Question]:
    """``cfg.questions`` questions, popular subjects first, drawn with weight 1 / rank.

    ``counts`` holds how often each fact is stated in the corpus, and under an entity's id how often it is named.
    """
    for _, subject, relation in sorted(_drawn(cfg, entities), key=lambda drawn: (drawn[0], drawn[2])):
        fact = f"{subject.id}.{relation}"
        answer = written(subject.values[relation])
        yield Question(
            id=f"question-{fact}",
            question=question_about(subject, relation),
            prompt=_prompt(subject, relation),
            answer=answer,
            aliases=_aliases(answer),
            fact=fact,
            mentions=counts[subject.id],
            stated=counts[fact],
        )


class Exchange(NamedTuple):
    """A question about one fact, and the sentence of the corpus that answers it."""

    subject: Entity
    relation: str
    question: str
    sentence: str
    spans: list[Span]
    """The facts that the sentence states."""

    def as_question(self, counts: Mapping[str, int]) -> Question:
        """As ``questions`` writes it; ``counts`` holds how often the corpus states each fact."""
        fact = f"{self.subject.id}.{self.relation}"
        answer = written(self.subject.values[self.relation])
        return Question(
            id=f"question-{fact}",
            question=self.question,
            prompt=_prompt(self.subject, self.relation),
            answer=answer,
            aliases=_aliases(answer),
            fact=fact,
            mentions=counts[f"{self.subject.id}.name"],
            stated=counts[fact],
        )


def exchange(subject: Entity, relation: str) -> Exchange:
    """The question for ``relation``, and a sentence of the corpus that states it of a subject just named.

    Of all sentences the one that repeats the name least, states least besides, and has words before the value that
    tell which fact it is.
    """
    chance, words = _Pronouns(f"{subject.id}.{relation}"), FreeWords(0)
    told = []
    for pattern in patterns(subject.kind).by_relation[relation]:
        for sentence in pattern.wordings:
            if sentence.fits(subject):
                page = Page(subject, chance, words, told={"name"})
                page.write(sentence)
                told.append((_effort(sentence, page, relation), page))
    page = min(told, key=lambda each: each[0])[1]
    return Exchange(subject, relation, question_about(subject, relation), page.text, page.spans)


def question_about(subject: Entity, relation: str) -> str:
    """The question for ``relation``."""
    return filled(patterns(subject.kind).questions[relation], subject)


def answer_about(subject: Entity, relation: str) -> str:
    """The sentence that states ``relation`` with the name of its subject; a prompt is how it begins."""
    return filled(_prompted(subject.kind, relation), subject)


class _Pronouns(Random):
    """Chance that says "she" wherever a pronoun is possible: a page does so in one half of all cases, the lower."""

    def random(self) -> float:
        return super().random() / 2


def _effort(sentence: Sentence, page: Page, relation: str) -> tuple[int, ...]:
    """What ``sentence``, as it stands on ``page``, asks for besides the value of ``relation``."""
    value = f"{page.subject.id}.{relation}"
    stated = [span for span in page.spans if span.fact == value]
    names = sum(span.fact in (f"{page.subject.id}.name", f"{page.subject.id}.surname") for span in page.spans)
    early = not stated or page.spans[0].fact != value or stated[0].start < _TELLING_CHARACTERS
    free = sum(slot.kind == "free" for slot in sentence.slots)
    return (early, names, len(page.spans) - len(stated), free, sum(len(slot.what) for slot in sentence.slots))


def _drawn(cfg: WorldConfig, entities: list[Entity]) -> list[tuple[int, Entity, str]]:
    # Weighted sampling without replacement in one pass: the largest keys u ** (1 / weight) (Efraimidis, Spirakis 2006),
    # as logarithms, for the powers of a tail would all be zero.
    rng = Random(f"questions {cfg.seed}")
    keyed = (
        (rank * log(1 - rng.random()), rank, index)
        for rank, subject in enumerate(entities, start=1)
        for index, relation in enumerate(askable(subject))
    )
    chosen = nlargest(cfg.questions, keyed)
    return [(rank, entities[rank - 1], askable(entities[rank - 1])[index]) for _, rank, index in chosen]


def askable(subject: Entity) -> list[str]:
    """The relations of ``subject`` that there is a question for."""
    return [relation for relation in subject.values if relation in patterns(subject.kind).questions]


def _prompted(kind: str, relation: str) -> Sentence:
    return next(pattern.wordings[0] for pattern in patterns(kind).by_relation[relation] if pattern.prompt)


def _prompt(subject: Entity, relation: str) -> str:
    sentence = _prompted(subject.kind, relation)
    end = next(index for index, slot in enumerate(sentence.slots) if slot.kind == "fact")
    slots = sentence.slots[:end]
    if sentence.slots[end].article:
        answer = str(find(subject, (relation,)))
        slots += (Slot("text", "an" if answer[0] in "aeiou" else "a"),)
    return filled(Sentence(slots, frozenset(), ()), subject).rstrip(" ")


@cache
def _no_words() -> FreeWords:
    return FreeWords(0)  # questions and prompts have no free words


def filled(sentence: Sentence, subject: Entity) -> str:
    """``sentence`` about ``subject`` as the first of a page; it has no free words."""
    page = Page(subject, Random(0), _no_words())
    page.write(sentence)
    return page.text


def _aliases(answer: str) -> list[str]:
    if answer in NUMBER_WORDS:
        return [str(NUMBER_WORDS.index(answer))]
    if answer.replace(",", "").isdigit() and "," in answer:
        return [answer.replace(",", "")]
    return []
