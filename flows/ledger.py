"""The ledger: every change of champion that this workspace knows of, one JSON object per line, append-only."""

import os
from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict


class Move(BaseModel):
    """One line of the ledger."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    time: datetime
    """When, in UTC."""
    action: Literal["promote", "rollback", "observed"]
    """``observed``: the move was made elsewhere, or by a process that died before it could write this line."""
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
        """All moves of this model at this address, oldest first."""
        lines = self.path.read_bytes().splitlines() if self.path.exists() else []
        moves = []
        for line in lines:
            try:
                moves.append(Move.model_validate_json(line))
            except ValueError:  # half a line of a process that was killed; the move is found again by its alias
                continue
        return [move for move in moves if (move.uri, move.model) == (self.uri, self.model)]

    def last(self) -> Move | None:
        return next(reversed(self.moves()), None)

    def append(self, move: Move) -> None:
        """Add a line, flushed to disk before this returns."""
        broken = self.path.exists() and not self.path.read_bytes().endswith(b"\n")
        with self.path.open("a") as file:
            file.write("\n" * broken + move.model_dump_json() + "\n")
            file.flush()
            os.fsync(file.fileno())
