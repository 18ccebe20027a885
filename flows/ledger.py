"""The ledger: every decision about the champion that this workspace knows of, one JSON object per line, append-only.

A change of champion takes two lines: what is intended, before anything happens, and what came of it. The second is
missing if the process was killed in between; the first then says how to complete the change. A model that the gate
refuses or holds takes one.

Every line names the digest of the line before it. So nobody can alter, remove or insert one without all later lines
telling. The last line has nobody after it: its digest is kept with the version that it is about, in MLflow.
"""

import hashlib
import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from components.core.errors import ArtifactError
from components.core.records import first_fault

Action = Literal["promote", "rollback", "observed", "refuse", "hold"]
Decision = Literal["refuse", "hold"]
DECISIONS: tuple[Decision, ...] = ("refuse", "hold")


class Entry(BaseModel):
    """One line of the ledger."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    time: datetime
    """When, in UTC."""
    action: Action
    """``observed``: the change was made elsewhere, or by hand. ``refuse``, ``hold``: the gate let the champion be."""
    state: Literal["intended", "done", "abandoned"] = "done"
    """``abandoned``: the process was killed before the champion changed."""
    uri: str
    """Address of MLflow."""
    model: str
    """Name of the registered model."""
    version: int
    """The champion from now on, or the version that did not become it."""
    key: str
    """Key of its bundle."""
    previous: int
    """The champion before; 0 if there was none."""
    by: str
    """Who did it."""
    reason: str
    """Why."""
    after: str | None = None
    """SHA-256 of the line before this one, empty in the first. Lines from before there was a chain have none."""


class Ledger:
    """The entries of one registered model at one address; other models share the file, and the chain."""

    def __init__(self, path: Path, uri: str, model: str) -> None:
        self.path, self.uri, self.model = path, uri, model

    def entries(self) -> list[Entry]:
        """Everything about this model at this address that was carried out, oldest first."""
        return [entry for entry in self._own() if entry.state == "done"]

    def changes(self) -> list[Entry]:
        """The changes of champion among them."""
        return [entry for entry in self.entries() if entry.action not in DECISIONS]

    def last(self) -> Entry | None:
        """The last change of champion."""
        return next(reversed(self.changes()), None)

    def interrupted(self) -> Entry | None:
        """The change that was intended last, if nobody has written down what came of it."""
        last = next(reversed(self._own()), None)
        return last if last and last.state == "intended" else None

    def following(self, entry: Entry) -> Entry:
        """``entry`` as it will be written if nothing is written before it."""
        lines = self._lines()
        return entry.model_copy(update={"after": digest(lines[-1]) if lines else ""})

    def append(self, entry: Entry) -> None:
        """Add a line, flushed to disk before this returns; one that a killed process did not finish gives way to it."""
        line = _line(self.following(entry))
        with self.path.open("a+b") as file:
            file.seek(0)
            file.truncate(len(_complete(file.read())))
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

    def receipt(self, entry: Entry) -> str:
        """What a version says of the line that ``append(entry)`` would write now: of which ledger, and its digest."""
        line = _line(self.following(entry))
        return f"{self._identity(line)}:{digest(line)}"

    def fault(self, receipts: Mapping[str, str]) -> str | None:
        """The first place where the file is not as it was written, in words; ``None`` if there is none.

        Args:
            receipts: of versions of this model, by the name of each. Those of other ledgers are left aside.
        """
        lines = self._lines()
        chained = False
        for number, line in enumerate(lines, 1):
            after = self._read(number, line).after
            chained = chained or after is not None
            if chained and after != (digest(lines[number - 2]) if number > 1 else ""):
                return f"{self.path}, line {number} was written after another line than the one before it now"
        known, identity = {digest(line) for line in lines}, self._identity()
        for name, receipt in receipts.items():
            ledger, _, of_line = receipt.partition(":")
            if ledger == identity and of_line not in known:
                return f"{self.path} lacks the line that {name} has the receipt of"
        return None

    def _identity(self, line: bytes = b"") -> str:
        """What tells this ledger from others: the digest of its first line, which is ``line`` if it is empty."""
        return digest(next(iter(self._lines()), line))[:16]

    def _own(self) -> list[Entry]:
        """Everything about this model at this address; raises ``ArtifactError`` that names a damaged line."""
        entries = [self._read(number, line) for number, line in enumerate(self._lines(), 1)]
        return [entry for entry in entries if (entry.uri, entry.model) == (self.uri, self.model)]

    def _lines(self) -> list[bytes]:
        content = _complete(self.path.read_bytes()) if self.path.exists() else b""
        return [line for line in content.splitlines(keepends=True) if line.strip()]

    def _read(self, number: int, line: bytes) -> Entry:
        try:
            return Entry.model_validate_json(line)
        except ValidationError as error:
            raise ArtifactError(
                f"{self.path}, line {number} is damaged ({first_fault(error)}). Put the line right, or "
                "delete it if nobody knows what it said: the champion itself is kept in MLflow, and a change that the "
                "ledger does not know is entered again as `observed`. `lacewing verify` tells of a line that is gone."
            ) from error


def digest(line: bytes) -> str:
    """SHA-256 of a line with its end."""
    return hashlib.sha256(line).hexdigest()


def _line(entry: Entry) -> bytes:
    return entry.model_dump_json().encode() + b"\n"


def _complete(content: bytes) -> bytes:
    """``content`` up to its last line end: what follows was being written when its process was killed."""
    return content[: content.rfind(b"\n") + 1]
