"""A suite: tasks of one kind, and what has to be done for them. The stage ``evaluate`` knows suites, and no task."""

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from components.core.errors import InputError
from components.evaluation.evaluate_config import EvaluateStageConfig
from components.evaluation.score_table import Piece
from components.evaluation.text_models.base import TextModel


class Suite(Protocol):
    """Tasks of one kind."""

    def knows(self, task: str) -> bool:
        """Whether a task of this name is one of them."""
        ...

    def names(self) -> Sequence[str]:
        """The tasks, for people; where there are very many, how they are named."""
        ...

    def pieces(self, model: TextModel, tasks: Sequence[str], config: EvaluateStageConfig) -> Mapping[str, Piece]:
        """What makes the rows of ``tasks``, by name, in pieces of at most a few minutes.

        Raises ``InputError`` for what cannot be read.
        """
        ...


@dataclass(frozen=True)
class NamedSuite:
    """A suite whose tasks are few."""

    tasks: tuple[str, ...]
    make: Callable[[TextModel, Sequence[str], EvaluateStageConfig], Mapping[str, Piece]]

    def knows(self, task: str) -> bool:
        return task in self.tasks

    def names(self) -> Sequence[str]:
        return self.tasks

    def pieces(self, model: TextModel, tasks: Sequence[str], config: EvaluateStageConfig) -> Mapping[str, Piece]:
        return self.make(model, tasks, config)


def by_suite(suites: Sequence[Suite], tasks: Sequence[str]) -> list[tuple[Suite, list[str]]]:
    """The tasks of each suite that has any; raises ``InputError`` for a task that none knows."""
    found: list[tuple[Suite, list[str]]] = [(suite, []) for suite in suites]
    for task in tasks:
        members = next((members for suite, members in found if suite.knows(task)), None)
        if members is None:
            known = [name for suite in suites for name in suite.names()]
            near = difflib.get_close_matches(task, known)
            hint = f"did you mean {' or '.join(near)}?" if near else f"tasks are {', '.join(known)}"
            raise InputError(f"evaluate.tasks: unknown task {task!r}; {hint}")
        members.append(task)
    return [(suite, members) for suite, members in found if members]
