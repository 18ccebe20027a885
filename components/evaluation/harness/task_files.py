"""Which tasks there are: files in lm-eval's format, those of the platform and those of a person.

A file of the platform names its data relative to a folder that is a setting. What lm-eval does not know stands under
``metadata``:

- ``format``: how the examples are put (``letter``, ``cloze``), the column of that name in the table of scores;
- ``scores_as``: the task's name in that table, so that several formats of a task can be paired;
- ``headline``: the metric that stands for the task, if it is not the first that is measured;
- ``split_by``: a field of the data; each of its values is a task of its own, ``blimp_`` + the paradigm.

Reading them needs no lm-eval, so that names can be checked in an instant.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from components.core.errors import InputError

OWN_FOLDER = Path(__file__).with_name("tasks")
_JSON = "json"


@dataclass(frozen=True)
class TaskFile:
    """One task as its file describes it."""

    path: Path
    fields: Mapping[str, Any]
    """In lm-eval's terms."""

    @property
    def name(self) -> str:
        return str(self.fields["task"])

    @property
    def tags(self) -> list[str]:
        """Names under which it is asked for together with others."""
        tag = self.fields.get("tag") or []
        return [tag] if isinstance(tag, str) else list(tag)

    @property
    def scores_as(self) -> str:
        return str(self._metadata.get("scores_as", self.name))

    @property
    def format(self) -> str:
        return str(self._metadata.get("format", ""))

    @property
    def headline(self) -> str:
        """The metric that stands for the task; empty: the first that there is."""
        return str(self._metadata.get("headline", ""))

    @property
    def split_by(self) -> str:
        """Field of the data whose values are tasks of their own; empty for none."""
        return str(self._metadata.get("split_by", ""))

    @property
    def output(self) -> str:
        """``multiple_choice``, ``loglikelihood``, ``loglikelihood_rolling`` or ``generate_until``."""
        return str(self.fields.get("output_type", "generate_until"))

    @property
    def splits(self) -> list[str]:
        """The split that is asked, then the one that holds solved examples, where that is another."""
        named = [self.fields.get(f"{kind}_split") for kind in ("test", "validation", "fewshot", "training")]
        return list(dict.fromkeys(str(name) for name in named if name))

    @cached_property
    def data_files(self) -> dict[str, str] | None:
        """Files by split, relative to the folder of the data; ``None`` if lm-eval must find the data itself."""
        files = (self.fields.get("dataset_kwargs") or {}).get("data_files")
        if self.fields.get("dataset_path") != _JSON or not isinstance(files, Mapping):
            return None
        found = {str(split): file for split, file in files.items()}
        if not all(isinstance(file, str) and "://" not in file for file in found.values()):
            return None
        return found

    @property
    def _metadata(self) -> Mapping[str, Any]:
        metadata = self.fields.get("metadata")
        return metadata if isinstance(metadata, Mapping) else {}


def own_task_files(folder: str = "") -> dict[str, TaskFile]:
    """The platform's tasks by name, then those in ``folder``, which win.

    Raises ``InputError`` naming the folder that is missing or the file that is no task.
    """
    found = {file.name: file for file in map(_read, sorted(OWN_FOLDER.glob("*.yaml")))}
    if folder:
        place = Path(folder)
        paths = sorted(place.glob("**/*.yaml"))
        if not paths:
            raise InputError(
                f"harness.tasks={folder} holds no task file: give a folder with files NAME.yaml in lm-eval's format"
            )
        found |= {file.name: file for file in map(_read, paths)}
    return found


def group_names(files: Mapping[str, TaskFile]) -> dict[str, list[str]]:
    """Tasks by tag, with ``all`` for all tasks."""
    groups: dict[str, list[str]] = {"all": list(files)}
    for file in files.values():
        for tag in file.tags:
            groups.setdefault(tag, []).append(file.name)
    return groups


def names(folder: str = "") -> list[str]:
    """Everything that can be asked for by name but for single paradigms, subjects and relations."""
    files = own_task_files(folder)
    return sorted({*files, *group_names(files)})


def chosen(asked: Sequence[str], files: Mapping[str, TaskFile]) -> dict[str, list[str]]:
    """For every task file that is asked for, the names of its parts that are: empty for all of it.

    Names that are neither a task, a tag nor ``TASK_part`` are left to ``unknown``.
    """
    groups = group_names(files)
    found: dict[str, list[str]] = {}
    for name in asked:
        for task in [name] if name in files else groups.get(name, []):
            found[task] = []
        if name not in files and name not in groups:
            for file in files.values():
                if file.split_by and name.startswith(f"{file.name}_") and found.get(file.name) != []:
                    found.setdefault(file.name, []).append(name)
    return found


def unknown(asked: Sequence[str], files: Mapping[str, TaskFile]) -> list[str]:
    """Names that no task file answers to."""
    groups: Collection[str] = group_names(files)
    split = [file.name for file in files.values() if file.split_by]
    return [
        name
        for name in asked
        if name not in files and name not in groups and not any(name.startswith(f"{task}_") for task in split)
    ]


def _read(path: Path) -> TaskFile:
    try:
        fields = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.constructor.ConstructorError:
        fields = _read_by_harness(path)  # ``!function``: lm-eval's own tag
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not a task file: it cannot be read as YAML ({error})") from error
    if isinstance(fields, dict) and "include" in fields:
        fields = _read_by_harness(path)
    return _checked(path, fields)


def _read_by_harness(path: Path) -> Any:
    from components.evaluation.harness.installed import load_yaml

    try:
        return load_yaml(path)
    except (ValueError, ImportError, AttributeError, OSError, yaml.YAMLError) as error:
        raise InputError(f"{path} is not a task file: {error}") from error


def _checked(path: Path, fields: Any) -> TaskFile:
    problem = ""
    if not isinstance(fields, dict):
        problem = f"it holds {type(fields).__name__}, not a mapping"
    elif not isinstance(fields.get("task"), str):
        problem = "it has no `task: NAME` (groups are given by `tag: NAME` in each of their tasks)"
    elif not fields.get("dataset_path") and not fields.get("custom_dataset"):
        problem = "it has no dataset_path"
    elif not (fields.get("test_split") or fields.get("validation_split")):
        problem = "it names neither test_split nor validation_split"
    elif "doc_to_text" not in fields or ("doc_to_target" not in fields and "process_results" not in fields):
        problem = "it lacks doc_to_text or doc_to_target"
    if problem:
        raise InputError(f"{path} is not a task file: {problem}. The guide on evaluation shows one")
    return TaskFile(path, fields)
