"""Questions and answers about the closed world's facts.

An answer is a sentence as the corpus has it of a subject that was just named ("She died in the town of ..."), so the
tuning asks for what the base has learnt in text, and not for the spelling of names.
The split is by fact (or by subject): of the facts of the test split, no question is ever trained on.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import NamedTuple

from components.data.chats.config import ConversationsConfig
from components.data.chats.conversation import ASSISTANT, USER, Conversation, Fact, Turn
from components.data.split import position, split_of
from components.data.world.config import WorldConfig
from components.data.world.facts import Entity, build
from components.data.world.questions import Exchange, Question, askable, exchange

_FACTS_AT_ONCE = (2, 3)
_NAMES = (".name", ".surname")  # who is asked about stands in the question


class Asked(NamedTuple):
    """A fact, and the split that asks for it."""

    subject: Entity
    relation: str
    split: str


class WorldConversations:
    """All conversations about one closed world, and the questions that are held out."""

    def __init__(self, world: WorldConfig, documents: Path, config: ConversationsConfig) -> None:
        """Invent ``world`` again; its ``documents`` say how often the corpus states each fact."""
        self._config = config
        self._documents = documents
        self._facts = [
            Asked(subject, relation, _split(subject, relation, config))
            for subject in build(world)
            for relation in askable(subject)
        ]

    def conversations(self, split: str) -> Iterator[Conversation]:
        """Those of ``split``: one question, or several about the same subject."""
        for subject, relations in self._by_subject(split):
            random = Random(f"conversations {self._config.seed} {subject.id}")
            random.shuffle(relations)
            while relations:
                several = random.random() < self._config.multi_turn
                count = random.choice(_FACTS_AT_ONCE) if several else 1
                now, relations = relations[:count], relations[count:]
                yield _conversation(subject, [exchange(subject, relation) for relation in now])

    def questions(self, split: str) -> Iterator[Question]:
        """Every question of ``split``, as ``questions.jsonl`` of the world has them."""
        counts = Counter(fact for row in _rows(self._documents) for fact in row)
        for fact in self._facts:
            if fact.split == split:
                yield exchange(fact.subject, fact.relation).as_question(counts)

    def _by_subject(self, split: str) -> Iterator[tuple[Entity, list[str]]]:
        found: dict[str, tuple[Entity, list[str]]] = {}
        for fact in self._facts:
            if fact.split == split:
                found.setdefault(fact.subject.id, (fact.subject, []))[1].append(fact.relation)
        yield from found.values()


def _split(subject: Entity, relation: str, config: ConversationsConfig) -> str:
    named = subject.id if config.split_by == "subject" else f"{subject.id}.{relation}"
    return split_of(position(named.encode()), config.validation_fraction, config.test_fraction)


def _conversation(subject: Entity, exchanges: Sequence[Exchange]) -> Conversation:
    turns: list[Turn] = []
    facts: list[Fact] = []
    length = 0
    for each in exchanges:
        question, answer = Turn(USER, each.question), Turn(ASSISTANT, each.sentence)
        start = length + len(question.text) + 1 + len(answer.text) - len(answer.content)
        facts += [Fact(start + at, start + end, id) for at, end, id in each.spans if not id.endswith(_NAMES)]
        length += len(question.text) + len(answer.text) + 2
        turns += [question, answer]
    return Conversation(f"the world's {subject.id}", tuple(turns), subject.id, tuple(facts))


def _rows(documents: Path) -> Iterator[list[str]]:
    with documents.open(encoding="utf-8", newline="\n") as file:
        for line in file:
            yield [fact for _, _, fact in json.loads(line)["facts"]]
