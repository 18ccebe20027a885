"""Reads the JSON records that lie in artifacts."""

import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from components.core.errors import ArtifactError

Record = TypeVar("Record", bound=BaseModel)


def read_record(path: Path, record: type[Record], what: str) -> Record:
    """The file as ``record``; raises ``ArtifactError`` that calls it ``what`` if it is damaged."""
    try:
        return record.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise ArtifactError(f"{path} cannot be read as {what}: {error}") from error


def read_lines(path: Path, record: type[Record], what: str) -> list[Record]:
    """Every line of the file as ``record``; raises ``ArtifactError`` that names the damaged line."""
    records = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            records.append(record.model_validate_json(line))
        except ValidationError as error:
            raise ArtifactError(f"{path}, line {number} cannot be read as {what}: {error}") from error
    return records


def first_fault(error: ValidationError) -> str:
    """The first thing that is wrong, with its place, on one line."""
    fault = error.errors()[0]
    return ": ".join([*filter(None, [".".join(map(str, fault["loc"]))]), fault["msg"]])


def read_object(path: Path, what: str = "JSON") -> dict[str, Any]:
    """The JSON object in a file that others wrote; raises ``ArtifactError`` that calls it ``what`` if it holds none.

    A missing file raises ``FileNotFoundError``: what to do about it depends on whose file it is.
    """
    try:
        found = json.loads(path.read_bytes())
    except ValueError as error:
        raise ArtifactError(f"{path} cannot be read as {what}: {error}") from error
    if not isinstance(found, dict):
        raise ArtifactError(f"{path} cannot be read as {what}: it holds no JSON object")
    return found
