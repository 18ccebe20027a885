"""The ledger: every change of champion that this workspace knows of, one JSON object per line, append-only.

A change takes two lines: what is intended, before anything happens, and what came of it. The second is missing if the
process was killed in between; the first then says how to complete the change.
"""

import os
from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from components.core.errors import ArtifactError
from components.core.records import first_fault


class Move(BaseModel):
    """One line of the ledger."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    time: datetime
    """When, in UTC."""
    action: Literal["promote", "rollback", "observed"]
    """``observed``: the move was made elsewhere, or by hand."""
    state: Literal["intended", "done", "abandoned"] = "done"
    """``abandoned``: the process was killed before the champion changed."""
    uri: str
    """Address of MLflow."""
    model: str
    """Name of the registered model."""
    version: int
    """The champion from now on."""
    key: str
    """Key of its bundle."""
    previous: int
    """The champion before; 0 if there was none."""
    by: str
    """Who did it."""
    reason: str
    """Why."""


class Ledger:
    """The moves of one registered model at one address; other models share the file."""

    def __init__(self, path: Path, uri: str, model: str) -> None:
        self.path, self.uri, self.model = path, uri, model

    def moves(self) -> list[Move]:
        """All moves of this model at this address that were made, oldest first."""
        return [move for move in self._lines() if move.state == "done"]

    def last(self) -> Move | None:
        return next(reversed(self.moves()), None)

    def interrupted(self) -> Move | None:
        """The move that was intended last, if nobody has written down what came of it."""
        last = next(reversed(self._lines()), None)
        return last if last and last.state == "intended" else None

    def append(self, move: Move) -> None:
        """Add a line, flushed to disk before this returns; one that a killed process did not finish gives way to it."""
        with self.path.open("a+b") as file:
            file.seek(0)
            file.truncate(len(_complete(file.read())))
            file.write(move.model_dump_json().encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def _lines(self) -> list[Move]:
        """Everything about this model at this address; raises ``ArtifactError`` that names a damaged line."""
        content = _complete(self.path.read_bytes()) if self.path.exists() else b""
        moves = [self._read(number, line) for number, line in enumerate(content.splitlines(), 1) if line.strip()]
        return [move for move in moves if (move.uri, move.model) == (self.uri, self.model)]

    def _read(self, number: int, line: bytes) -> Move:
        try:
            return Move.model_validate_json(line)
        except ValidationError as error:
            raise ArtifactError(
                f"{self.path}, line {number} is damaged ({first_fault(error)}). Put the line right, or "
                "delete it if nobody knows what it said: the champion itself is kept in MLflow, and a move that the "
                "ledger does not know is entered again as `observed`."
            ) from error


def _complete(content: bytes) -> bytes:
    """``content`` up to its last line end: what follows was being written when its process was killed."""
    return content[: content.rfind(b"\n") + 1]
