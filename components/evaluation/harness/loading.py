"""Task files made into lm-eval's tasks: over local rows, or as lm-eval itself makes them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from components.core.errors import InputError
from components.evaluation.harness.config import HarnessConfig
from components.evaluation.harness.data import DataMissingError, Row, part_name, parts_of, rows_of
from components.evaluation.harness.installed import harness
from components.evaluation.harness.task_files import TaskFile
from components.evaluation.harness.templates import compiled

if TYPE_CHECKING:
    from lm_eval.api.task import Task

FEWSHOT_SEED = 1234  # lm-eval's


class Rows(list[Row]):
    """Examples in memory, with what lm-eval asks of a data set of Hugging Face."""

    @property
    def features(self) -> dict[str, None]:
        return dict.fromkeys(self[0]) if self else {}


@dataclass(frozen=True)
class LoadedTask:
    """A task of lm-eval with its examples."""

    name: str
    scores_as: str
    format: str
    headline: str
    """Metric that stands for the task; empty: the first that there is."""
    task: "Task"

    @property
    def rows(self) -> Sequence[Mapping[str, Any]]:
        """The examples that are asked."""
        rows: Sequence[Mapping[str, Any]] = self.task.eval_docs
        return rows

    @property
    def identity(self) -> list[Any]:
        """What decides the requests besides the examples, as JSON values."""
        solved = self.task.sampler.df if self.task.config.num_fewshot else []
        fields = self.task.config.to_dict()
        plain = {name: value for name, value in sorted(fields.items()) if isinstance(value, str | int)}
        return [self.name, plain, [dict(row) for row in solved]]

    def solved(self, number: int) -> str:
        """The example as a text that holds its right answer, without other examples before it."""
        example, task = self.rows[number], self.task
        target = task.doc_to_target(example)
        if task.OUTPUT_TYPE == "multiple_choice":
            choices = task.doc_to_choice(example)
            if task.multiple_input:
                return f"{choices[task.doc_to_text(example)]} {target}"
            target = [choices[each] if isinstance(each, int) else each for each in _listed(target)]
        return f"{task.doc_to_text(example)} {' '.join(map(str, _listed(target)))}".strip()


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def local_tasks(file: TaskFile, config: HarnessConfig) -> dict[str, LoadedTask]:
    """The tasks that a file of local data holds, by name: one, or one for each paradigm, subject or relation.

    Raises ``DataMissingError`` if its data is not there, and ``InputError`` if the file does not fit its data.
    """
    rows = {split: rows_of(file, config.data, split) for split in file.splits}
    asked, *others = file.splits
    parts = parts_of(file, rows[asked])
    if not rows[asked]:
        raise DataMissingError(f"the data of {file.name} holds no example: {(file.data_files or {})[asked]} is empty")
    fields = compiled(file.fields, file.path)
    return {
        name: _local_task(
            file,
            fields,
            config,
            name,
            {asked: part, **{split: _same_part(file, rows[split], name) for split in others}},
        )
        for name, part in parts.items()
    }


def harness_tasks(name: str, config: HarnessConfig) -> dict[str, LoadedTask]:
    """Tasks of lm-eval's own index, which find their data themselves. A group gives several.

    Raises ``DataMissingError`` if the data cannot be had, for example without a network.
    """
    loaded = _made(name, lambda: index().load(name))["tasks"]
    return {each: _ready(each, each, "", "", task, config) for each, task in loaded.items()}


def harness_task(file: TaskFile, config: HarnessConfig) -> dict[str, LoadedTask]:
    """A person's task file whose data lm-eval finds."""
    harness()
    from lm_eval.api.task import ConfigurableTask

    task = _made(file.name, lambda: ConfigurableTask(config=dict(file.fields)))
    return {file.name: _ready(file.name, file.scores_as, file.format, file.headline, task, config)}


_index: Any = None


def index() -> Any:
    """lm-eval's ``TaskManager`` over its own task files; made once, in about 11 s."""
    global _index
    harness()
    from lm_eval.tasks import TaskManager

    if _index is None:
        _index = TaskManager()
    return _index


def _same_part(file: TaskFile, rows: Sequence[Row], name: str) -> list[Row]:
    """Solved examples for the part called ``name``."""
    return [row for row in rows if not file.split_by or part_name(file, row) == name]


def _local_task(
    file: TaskFile, fields: Mapping[str, Any], config: HarnessConfig, name: str, rows: Mapping[str, Sequence[Row]]
) -> LoadedTask:
    harness()
    from lm_eval.api.task import ConfigurableTask

    splits = {split: Rows(some) for split, some in rows.items()}
    own = {**fields, "task": name, "dataset_path": None, "dataset_kwargs": None, "metadata": None}
    try:
        task = ConfigurableTask(config={**own, "custom_dataset": lambda: splits})
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise InputError(f"{file.path} does not make a task ({type(error).__name__}: {error})") from error
    scores_as = file.scores_as + name[len(file.name) :]
    return _ready(name, scores_as, file.format, file.headline, task, config)


def _ready(name: str, scores_as: str, format: str, headline: str, task: "Task", config: HarnessConfig) -> LoadedTask:
    shots = task.config.num_fewshot
    if config.num_fewshot is not None and shots != 0:  # 0 in a task file is meant, as in lm-eval
        shots = config.num_fewshot
    task.set_config("num_fewshot", shots or 0)
    task.set_fewshot_seed(FEWSHOT_SEED)
    return LoadedTask(name, scores_as, format, headline, task)


def _made(name: str, make: Any) -> Any:
    try:
        return make()
    except InputError:
        raise
    except Exception as error:  # the Hub's libraries raise a dozen types
        raise DataMissingError(
            f"lm-eval cannot load {name} ({type(error).__name__}: {str(error)[:300]}): it fetches the data from the "
            "Hugging Face Hub and needs a network, or a task file with local data in harness.tasks"
        ) from error
