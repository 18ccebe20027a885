"""The harness as a suite of an evaluation: which tasks there are, and the pieces that measure a model on them."""

import difflib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from components.core.errors import InputError
from components.core.identity import digest_json
from components.evaluation.harness.config import HarnessConfig
from components.evaluation.harness.data import DataMissingError
from components.evaluation.harness.loading import LoadedTask, harness_task, harness_tasks, index, local_tasks
from components.evaluation.harness.task_files import TaskFile, chosen, names, own_task_files, unknown
from components.evaluation.heldout import first_shuffled
from components.evaluation.score_table import Piece, Score
from components.evaluation.text_models.base import TextModel

__all__ = ["HarnessSuite", "Plan", "examples", "names", "pieces", "plan"]

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """Tasks that can be asked, and why others cannot."""

    tasks: list[LoadedTask]
    left_out: dict[str, str]
    """Reason by name."""


def plan(tasks: Sequence[str], config: HarnessConfig) -> Plan:
    """Load tasks by name: a task, a tag, ``all``, or one part of a task, such as ``blimp_anaphor_gender_agreement``.

    A task whose data is missing is left out. Raises ``InputError`` for a name that is no task (with the nearest ones),
    for a file that is malformed, and if the data of all tasks is missing.
    """
    loaded: list[LoadedTask] = []
    left_out: dict[str, str] = {}
    for name, (load, wanted) in _loaders(tasks, config).items():
        try:
            found = load()
        except DataMissingError as error:
            left_out[name] = str(error)
            continue
        if absent := [part for part in wanted if part not in found]:
            raise InputError(_no_task(absent[0], list(found)))
        loaded += [task for part, task in found.items() if not wanted or part in wanted]
    if not loaded:
        raise InputError("no task can be asked: " + "; ".join(left_out.values()))
    return Plan(loaded, left_out)


def pieces(model: TextModel, tasks: Sequence[str], config: HarnessConfig) -> dict[str, Piece]:
    """What measures ``model`` on ``tasks``: see ``plan`` for the names, and for errors. Tasks left out are logged."""
    planned = plan(tasks, config)
    for reason in planned.left_out.values():
        _logger.warning("left out: %s", reason)
    return {name: piece for task in planned.tasks for name, piece in _pieces(model, task, config)}


def examples(task: str, config: HarnessConfig) -> dict[str, list[tuple[str, str]]]:
    """What a model that has been trained on ``task`` would have read: prompts with their right answers.

    By ``Score.task``, for every example its ``Score.document`` and its text.
    """
    found: dict[str, list[tuple[str, str]]] = {}
    for loaded in plan([task], config).tasks:
        texts = found.setdefault(loaded.scores_as, [])
        texts += [(str(number), loaded.solved(number)) for number in _numbers(loaded, config)]
    return found


class HarnessSuite:
    """The harness among the suites of the stage ``evaluate``."""

    def __init__(self, config: HarnessConfig) -> None:
        self._config = config

    def knows(self, task: str) -> bool:
        """Whether a task of this name is one of them; with ``include_defaults`` lm-eval's own too."""
        if not unknown([task], own_task_files(self._config.tasks)):
            return True
        return self._config.include_defaults and task in index().task_index

    def names(self) -> Sequence[str]:
        """The tasks of the platform and of a person's folder, and their tags."""
        return names(self._config.tasks)

    def pieces(self, model: TextModel, tasks: Sequence[str], config: object) -> Mapping[str, Piece]:
        """What measures ``model`` on ``tasks``, as ``suite.pieces`` says; ``config`` is not needed."""
        return pieces(model, tasks, self._config)


Loader = Callable[[], dict[str, LoadedTask]]


def _loaders(tasks: Sequence[str], config: HarnessConfig) -> dict[str, tuple[Loader, list[str]]]:
    """For every task how it is loaded, and which parts of it are wanted; none for all."""
    files = own_task_files(config.tasks)
    theirs = [name for name in tasks if config.include_defaults and name in index().task_index]
    ours = [name for name in tasks if name not in theirs]
    if strangers := unknown(ours, files):
        known = [*names(config.tasks), *(index().all_tasks if config.include_defaults else [])]
        raise InputError(_no_task(strangers[0], known, config.include_defaults))
    found: dict[str, tuple[Loader, list[str]]] = {name: (partial(harness_tasks, name, config), []) for name in theirs}
    return found | {name: (partial(_load, files[name], config), wanted) for name, wanted in chosen(ours, files).items()}


def _load(file: TaskFile, config: HarnessConfig) -> dict[str, LoadedTask]:
    return (local_tasks if file.data_files is not None else harness_task)(file, config)


def _no_task(name: str, known: Sequence[str], with_defaults: bool = True) -> str:
    near = difflib.get_close_matches(name, known, n=3)
    hint = f"; did you mean {' or '.join(near)}?" if near else f"; tasks are {', '.join(known)}"
    more = "" if with_defaults else ". lm-eval's own tasks are found with harness.include_defaults=true"
    return f"there is no task {name!r}{hint}{more}"


def _numbers(task: LoadedTask, config: HarnessConfig) -> list[int]:
    """Indices of the examples that are asked."""
    count = len(task.rows)
    return list(first_shuffled(count, config.limit)) if config.limit else list(range(count))


def _pieces(model: TextModel, task: LoadedTask, config: HarnessConfig) -> Iterator[tuple[str, Piece]]:
    numbers = _numbers(task, config)
    for start in range(0, len(numbers), config.piece_examples):
        some = numbers[start : start + config.piece_examples]
        content = digest_json([task.identity, some, [dict(task.rows[number]) for number in some]])[:12]
        yield f"{model.name} {task.name} {some[0]}-{some[-1]} {content}", partial(_measured, model, task, some)


def _measured(model: TextModel, task: LoadedTask, numbers: Sequence[int]) -> list[Score]:
    from components.evaluation.harness.adapter import HarnessModel  # imports lm-eval
    from components.evaluation.harness.running import answered
    from components.evaluation.harness.scoring import scores

    return scores(task, model.name, answered(task, HarnessModel(model), numbers))
