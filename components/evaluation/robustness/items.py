"""The questions of the robustness tasks, with what each needs to be put in other ways."""

import gzip
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import IO, Any

from components.core.errors import InputError
from components.data.world.comprehension import World
from components.data.world.facts import Entity
from components.evaluation.contamination.words import words
from components.evaluation.heldout import first_shuffled
from components.evaluation.questions import Question, begins_with, read_questions
from components.evaluation.robustness.config import RobustnessConfig

_ARTICLES = {"a", "an"}


@dataclass(frozen=True)
class Item:
    """One question."""

    id: str
    question: str
    prompt: str
    """Text that the answer continues."""
    answer: str
    aliases: tuple[str, ...]
    choices: tuple[str, ...]
    """With the answer among them, in the order in which they are first shown."""

    @property
    def gold(self) -> int:
        return self.choices.index(self.answer)

    def right(self, written: str) -> bool:
        """Whether ``written`` begins with the answer."""
        return any(begins_with(written, spelling) for spelling in (self.answer, *self.aliases))

    def stated(self, written: str) -> list[str]:
        """What ``written`` gives as the answer: as many words as the right one has."""
        return beginning(written, self.answer)


def beginning(written: str, answer: str) -> list[str]:
    """As many words of ``written`` as ``answer`` has."""
    return words(written)[: len(words(answer))]


def changed(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether two stated answers differ; the beginning of a longer one is the same answer."""
    common = min(len(one), len(other))
    return not common or list(one[:common]) != list(other[:common])


def world_items(questions: Path, world: World, cfg: RobustnessConfig) -> list[Item]:
    """Questions of the closed world. The wrong choices are true of other subjects of that kind."""
    found = []
    for question in read_questions(questions, cfg.questions):
        subject, relation = fact_of(question, world)
        known = [value for value in world.table.profile(subject.kind, (relation,)).holders if value != question.answer]
        rng = Random(f"choices {cfg.seed} {question.id}")
        choices = [question.answer, *rng.sample(sorted(known), min(cfg.choices - 1, len(known)))]
        rng.shuffle(choices)
        aliases, prompt = tuple(question.aliases), question.prompt
        found.append(Item(question.id, question.question, prompt, question.answer, aliases, tuple(choices)))
    return found


def fact_of(question: Question | Item, world: World) -> tuple[Entity, str]:
    """The subject of a question of the closed world, and the relation that it asks for."""
    subject, relation = question.id.removeprefix("question-").rsplit(".", 1)
    return world.table.entities[subject], relation


def article_of(prompt: str) -> str:
    """The article at the end of ``prompt``, which only some answers fit; empty if there is none."""
    last = prompt.rsplit(" ", 1)[-1].lower()
    return last if last in _ARTICLES else ""


def fits(value: str, article: str) -> bool:
    """Whether ``value`` may follow the article."""
    return not article or (value[0].lower() in "aeiou") == (article == "an")


def file_items(path: Path, cfg: RobustnessConfig) -> list[Item]:
    """Questions of a file; raises ``InputError`` naming the file, and the line that is no question."""
    try:
        with _open(path) as file:
            lines = file.readlines()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise InputError(f"the questions in {path} cannot be read: {error}") from error
    return [_item(path, number, lines[number]) for number in first_shuffled(len(lines), cfg.questions)]


def _open(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8", newline="\n")
    return path.open(encoding="utf-8", newline="\n")


def _item(path: Path, number: int, line: str) -> Item:
    try:
        question, choices, answer = _fields(json.loads(line))
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise InputError(
            f"{path}, line {number + 1} is not a question ({error!r}): a line holds question, choices (a list of at "
            "least two different texts) and answer (the index of the right one, from 0)"
        ) from error
    return Item(f"{path.name} {number}", question, f"Question: {question}\nAnswer:", choices[answer], (), choices)


def _fields(row: Any) -> tuple[str, tuple[str, ...], int]:
    choices, answer = tuple(map(str, row["choices"])), row["answer"]
    if len(set(choices)) != len(choices) or len(choices) < 2:
        raise ValueError(f"choices {list(choices)}")
    if not isinstance(answer, int) or not 0 <= answer < len(choices):
        raise ValueError(f"answer {answer!r} of {len(choices)} choices")
    return str(row["question"]), choices, answer


def numbered(items: Sequence[Item], size: int) -> Iterator[tuple[int, Sequence[Item]]]:
    """Neighbouring items together, with the number of the first."""
    for start in range(0, len(items), size):
        yield start, items[start : start + size]
