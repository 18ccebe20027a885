"""Facts in the prompt that are flipped: does the answer change when it must, and stay when it must?

Three ways, all of the closed world, whose table knows what is right:

- ``another subject``: the prompt names another subject, of which another value is true. The answer must change.
- ``counterfactual``: before the prompt stands the same sentence with a wrong value. The answer must stay, for what is
  asked is the truth, and a cascade has a helper that knows it. ``followed`` counts the answers that repeat the claim.
- ``another fact``: before the prompt stands another, true fact about the subject. The answer must stay.

Rows, beside ``right``: ``changed``, whether the answer differs from the one to the original prompt, and ``as_it_must``.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

from components.data.world.comprehension import World
from components.data.world.facts import Entity, written
from components.data.world.prose import patterns
from components.evaluation.questions import begins_with
from components.evaluation.robustness.items import Item, article_of, beginning, changed, fact_of, fits
from components.evaluation.robustness.openings import told
from components.evaluation.robustness.rows import answer_row
from components.evaluation.score_table import Score
from components.evaluation.text_models.base import TextModel, Written

ANOTHER_SUBJECT, COUNTERFACTUAL, ANOTHER_FACT = "another subject", "counterfactual", "another fact"


@dataclass(frozen=True)
class Flipped:
    """A prompt with a flipped fact."""

    way: str
    prompt: str
    answer: str
    """What is right now."""
    must_change: bool
    claim: str = ""
    """The wrong value that the prompt states."""

    def right(self, item: Item, text: str) -> bool:
        """Whether ``text`` begins with what is right now."""
        return begins_with(text, self.answer) if self.must_change else item.right(text)


def flipped(item: Item, world: World, seed: int) -> list[Flipped]:
    """The ways that the world has for this question: of a value that all share there is no other."""
    subject, relation = fact_of(item, world)
    rng = Random(f"flipped {seed} {item.id}")
    others = _others(item, world, subject, relation)
    found = []
    if others:
        other, claimed = rng.choice(others), rng.choice(others).values[relation]
        prompt = item.prompt.replace(subject.name, other.name)
        found.append(Flipped(ANOTHER_SUBJECT, prompt, written(other.values[relation]), must_change=True))
        lie = told(replace(subject, values=subject.values | {relation: claimed}), relation)
        found.append(Flipped(COUNTERFACTUAL, f"{lie} {item.prompt}", item.answer, False, written(claimed)))
    further = [each for each in subject.values if each in patterns(subject.kind).questions and each != relation]
    if further:
        prompt = f"{told(subject, rng.choice(further))} {item.prompt}"
        found.append(Flipped(ANOTHER_FACT, prompt, item.answer, must_change=False))
    return found


def flipped_scores(
    model: TextModel, task: str, items: Sequence[Item], world: World, seed: int, max_tokens: int
) -> list[Score]:
    """Rows of the original prompts and of those with flipped facts."""
    variants = [flipped(item, world, seed) for item in items]
    prompts = [[item.prompt, *(way.prompt for way in ways)] for item, ways in zip(items, variants, strict=True)]
    answers = iter(model.write([prompt for each in prompts for prompt in each], max_tokens, stop=("\n",)))
    rows: list[Score] = []
    for item, ways in zip(items, variants, strict=True):
        own = next(answers)
        rows.append(answer_row(model.name, task, item, "", "right", item.right(own.text), own))
        for way in ways:
            rows += _judged(model, task, item, way, own, next(answers))
    return rows


def _judged(model: TextModel, task: str, item: Item, way: Flipped, own: Written, said: Written) -> list[Score]:
    differs = changed(item.stated(own.text), beginning(said.text, way.answer))
    judged = {"right": way.right(item, said.text), "changed": differs, "as_it_must": differs == way.must_change}
    if way.claim:
        judged["followed"] = begins_with(said.text, way.claim)
    return [answer_row(model.name, task, item, way.way, *each, said) for each in judged.items()]


def _others(item: Item, world: World, subject: Entity, relation: str) -> list[Entity]:
    """Subjects of that kind, of which another value is true that fits the prompt."""
    article = article_of(item.prompt)
    holders = world.table.profile(subject.kind, (relation,)).holders
    return [
        entity
        for value, entities in holders.items()
        if value != item.answer and fits(value, article)
        for entity in entities
        if entity is not subject
    ]
