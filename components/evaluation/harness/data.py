"""Examples of the tasks: JSON Lines in a folder that a person keeps. Nothing is copied, cached or fetched."""

import gzip
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from components.core.errors import ArtifactError, InputError
from components.evaluation.harness.task_files import TaskFile

Row = dict[str, Any]


class DataMissingError(InputError):
    """The data of a task is not there; other tasks go on."""


def rows_of(file: TaskFile, folder: str, split: str) -> list[Row]:
    """The examples in one split of a task.

    Raises ``DataMissingError`` if its file is not there, ``ArtifactError`` naming the line that is no example.
    """
    path = data_path(file, folder, split)
    return list(_read(path))


def data_path(file: TaskFile, folder: str, split: str) -> Path:
    """Where one split lies; raises ``DataMissingError`` if it does not."""
    name = (file.data_files or {}).get(split)
    if name is None:
        raise InputError(f"{file.path}: dataset_kwargs.data_files names no file for the split {split!r}")
    if not folder and not Path(name).is_absolute():
        raise DataMissingError(
            f"the data of {file.name} is looked for nowhere: set harness.data to the folder that holds {name}"
        )
    path = Path(folder) / name
    if not path.is_file():
        raise DataMissingError(
            f"the data of {file.name} is missing: {path}. Put the published {split} split there as JSON Lines with the "
            f"fields that {file.path.name} uses (the guide on evaluation lists them), or correct harness.data"
        )
    return path


def parts_of(file: TaskFile, rows: list[Row]) -> dict[str, list[Row]]:
    """The tasks that one file holds, by name: one, or one for each value of its ``split_by``."""
    if not file.split_by:
        return {file.name: rows}
    parts: dict[str, list[Row]] = {}
    for row in rows:
        parts.setdefault(part_name(file, row), []).append(row)
    return parts


def part_name(file: TaskFile, row: Mapping[str, Any]) -> str:
    """Name of the part of ``file`` that holds ``row``."""
    if file.split_by not in row:
        raise ArtifactError(f"an example of {file.name} has no field {file.split_by!r}: {str(row)[:200]}")
    return f"{file.name}_{row[file.split_by]}"


def _read(path: Path) -> Iterator[Row]:
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rb") as lines:  # bytes, because nothing but a newline ends a line of JSON
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield _example(path, number, line)
    except (OSError, EOFError) as error:
        raise ArtifactError(f"{path} cannot be read: {error}; it is truncated or damaged, get it again") from error


def _example(path: Path, number: int, line: bytes) -> Row:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ArtifactError(f"{path}, line {number} is not JSON: {error}") from error
    if not isinstance(row, dict):
        raise ArtifactError(f"{path}, line {number} is not an example: it holds {type(row).__name__}, not an object")
    return row
