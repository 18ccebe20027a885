"""A prompt begins a sentence as the corpus writes it; only the answer is missing."""

import re
from pathlib import Path

import pytest

from components.data.world.config import WorldConfig
from components.data.world.facts import NUMBER_WORDS
from components.data.world.prose import Slot, patterns
from components.data.world.writer import write_world
from tests.data.world.conftest import WORLD, WrittenWorld, read_back


def test_answers_are_the_facts(world: WrittenWorld) -> None:
    assert len(world.questions) == WORLD.questions
    assert len({question["id"] for question in world.questions}) == WORLD.questions
    for question in world.questions:
        fact = world.facts[question["fact"]]
        assert question["answer"] == fact["value"]
        assert fact["subject"] in question["question"]
        assert fact["subject"] in question["prompt"]
        assert question["question"].endswith("?")
        assert question["prompt"] == question["prompt"].strip()


def test_prompts_are_continued_by_the_answer_in_the_corpus(world: WrittenWorld) -> None:
    """Wherever the corpus has the prompt, the answer follows; and it has very many of them."""
    text = "\n".join(row["text"] for row in world.documents)
    found = 0
    for question in world.questions:
        for match in re.finditer(re.escape(question["prompt"]) + r"\b ?", text):
            found += 1
            assert text.startswith(question["answer"], match.end()), (question, text[match.end() :][:40])
    assert found > 0.3 * len(world.questions)


@pytest.mark.parametrize("kind", ["person", "place", "work", "event"])
def test_a_prompt_asks_for_one_relation_only(kind: str) -> None:
    """No other sentence of the corpus that begins like a prompt goes on with another fact or word."""
    known = patterns(kind)
    groups = [*known.by_relation.values(), known.lead, known.free]
    shapes = {shape(wording.slots) for group in groups for pattern in group for wording in pattern.wordings}
    for relation, group in known.by_relation.items():
        for pattern in group:
            if not pattern.prompt or relation not in pattern.wordings[0].states:
                continue
            slots = pattern.wordings[0].slots
            end = next(index for index, slot in enumerate(slots) if slot.kind == "fact")
            assert all(slot.kind != "free" for slot in slots[:end])
            prompt = shape(slots[:end])
            assert all(other[len(prompt) :].startswith(f"<{relation}>") for other in shapes if other.startswith(prompt))


def shape(slots: tuple[Slot, ...]) -> str:
    return "".join(slot.what if slot.kind == "text" else f"<{slot.what}>" for slot in slots)


def test_head_and_tail_are_both_asked_about(world: WrittenWorld) -> None:
    mentions = [question["mentions"] for question in world.questions]
    assert min(mentions) >= 1
    assert sum(count >= 50 for count in mentions) > 100
    assert sum(count <= 12 for count in mentions) > 100


def test_counts_are_those_of_the_corpus(world: WrittenWorld) -> None:
    for question in world.questions[::50]:
        stated = sum(fact == question["fact"] for row in world.documents for *_, fact in row["facts"])
        assert question["stated"] == stated >= 1
        name = world.facts[question["fact"]]["subject"]
        named = sum(
            world.facts[fact]["value"] == name or fact == question["fact"].split(".")[0] + ".surname"
            for row in world.documents
            for *_, fact in row["facts"]
        )
        assert question["mentions"] == named


def test_number_answers_have_digits_as_alias(world: WrittenWorld) -> None:
    aliases = {question["answer"]: question["aliases"] for question in world.questions}
    words = [answer for answer in aliases if answer in NUMBER_WORDS]
    assert words
    assert all(aliases[word] == [str(NUMBER_WORDS.index(word))] for word in words)
    assert any(answer.replace(",", "") == names[0] for answer, names in aliases.items() if "," in answer)


def test_a_small_world_has_fewer_questions_than_asked(tmp_path: Path) -> None:
    write_world(WorldConfig(entities=20, questions=100_000), tmp_path)
    small = read_back(tmp_path)
    assert len(small.questions) == sum(not fact.endswith("name") for fact in small.facts)
