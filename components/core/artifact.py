"""An artifact: a folder with ``artifact.json``, written last and atomically.

The record says what the folder is, from what it was made, and the digest of every file in it. No pickles.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from components.core.acceptance import Acceptance
from components.core.atomic import is_partial, write_text
from components.core.errors import ArtifactError
from components.core.identity import RecordedIdentity, digest_file, digest_json

RECORD = "artifact.json"
REPORT = "report.md"
"""The page for people, where a stage writes one."""
CHECKPOINTS = "checkpoints"
# Written by adapters after sealing (where the artifact was tracked and pushed), and by the stage for itself while it
# works (events, checkpoints to resume from). They are not part of the result.
LOCK = ".lock"
UNSEALED = ("tracking.json", "versions.json", "events.jsonl", "request.json", "error.json", CHECKPOINTS, LOCK)

# Sealed, but no part of the content: how fast the machine was differs from run to run.
SPEED = "speed.jsonl"

# Stage name of what was made by hand, in a notebook or a test: it may be opened as any view.
LOCAL = "local"

Rows = Sequence[tuple[str, str]]


class FileRecord(BaseModel):
    """Size and digest of one file of an artifact."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bytes: int
    sha256: str


class ArtifactRecord(BaseModel):
    """Contents of ``artifact.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    identity: RecordedIdentity
    """Stage, key, config slice, contents of the inputs, code and environment."""
    created: datetime
    """When the artifact was sealed, in UTC."""
    files: dict[str, FileRecord]
    """Every file by its path relative to the folder."""
    metrics: dict[str, float]
    """Final metrics of the stage."""
    details: dict[str, Any]
    """Facts about the result that are not metrics: names, shapes, counts by split."""
    rows: list[tuple[str, str]] = []
    """What people see of this stage in the closing table: a name and a value in each row."""
    accepted: list[Acceptance] = []
    """Acceptances by people, of this artifact or of one that it was made from."""


@dataclass(frozen=True)
class Artifact:
    """A sealed folder and its record.

    A subclass is a typed view: it names the stages whose artifacts it can open, it is the only place that spells the
    paths inside, and its methods open what lies there. The flow's process imports views, so they load neither numpy
    nor torch until a method needs them.
    """

    stages: ClassVar[tuple[str, ...]] = ()
    """Stages whose artifacts may be opened as this view; empty: all."""

    folder: Path
    record: ArtifactRecord

    @property
    def key(self) -> str:
        return self.record.identity.key

    @property
    def content(self) -> str:
        """Digest of what later stages read, the sealed files and the details; it is how an input enters their keys.

        Metrics, rows and the record of speed are for people and not part of it: times differ from run to run.
        """
        files = {name: file.sha256 for name, file in self.record.files.items() if name != SPEED}
        return digest_json([files, self.record.details])[:32]

    @property
    def stage(self) -> str:
        return self.record.identity.stage

    @property
    def metrics(self) -> dict[str, float]:
        return self.record.metrics

    @property
    def details(self) -> dict[str, Any]:
        return self.record.details

    @property
    def report(self) -> Path:
        """The page for people; raises ``ArtifactError`` if the stage wrote none."""
        return self.path(REPORT)

    def path(self, name: str) -> Path:
        """Path of a file or folder inside the artifact; raises ``ArtifactError`` if it is not there."""
        path = self.folder / name
        if not path.exists():
            raise ArtifactError(
                f"{self.stage} artifact {self.folder} has no {name!r}; it holds {sorted(self.record.files)[:12]}"
            )
        return path

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Read the record of a sealed folder.

        Raises ``ArtifactError`` if it is missing or unreadable, or if another stage made it than this view is for.
        """
        path = folder / RECORD
        if not path.is_file():
            raise ArtifactError(
                f"{folder} is not a finished artifact: it has no {RECORD} (stage unfinished or wrong path)"
            )
        try:
            artifact = cls(folder, ArtifactRecord.model_validate_json(path.read_bytes()))
        except ValidationError as error:
            raise ArtifactError(f"{path} cannot be read as an artifact record: {error}") from error
        if cls.stages and artifact.stage not in (*cls.stages, LOCAL):
            raise ArtifactError(
                f"{folder} was made by the stage {artifact.stage!r} and cannot be opened as {cls.__name__}: give an "
                f"artifact of {' or '.join(map(repr, cls.stages))}"
            )
        return artifact

    @classmethod
    def seal(
        cls,
        folder: Path,
        identity: RecordedIdentity,
        metrics: dict[str, float],
        details: dict[str, Any] | None = None,
        rows: Rows = (),
        accepted: Sequence[Acceptance] = (),
    ) -> Self:
        """Digest every file in ``folder`` and write ``artifact.json`` last."""
        record = ArtifactRecord(
            identity=identity,
            created=datetime.now(UTC),
            files={
                name: FileRecord(bytes=path.stat().st_size, sha256=digest_file(path))
                for name, path in _sealed_files(folder)
            },
            metrics=metrics,
            details=details or {},
            rows=list(rows),
            accepted=list(accepted),
        )
        write_text(folder / RECORD, record.model_dump_json(indent=2) + "\n")
        return cls(folder, record)

    def fault(self) -> str | None:
        """First difference between the record and the files on disk, in words; ``None`` if intact."""
        for name, expected in self.record.files.items():
            path = self.folder / name
            if not path.is_file():
                return f"{name} is missing"
            size = path.stat().st_size
            if size != expected.bytes:
                return f"{name} has {size} bytes, {expected.bytes} were recorded"
            if digest_file(path) != expected.sha256:
                return f"{name} was altered (its digest differs from the record)"
        return None

    def verify(self) -> Self:
        """Return self if every file is intact; raise ``ArtifactError`` naming the first fault otherwise."""
        if fault := self.fault():
            raise ArtifactError(
                f"{self.stage} artifact {self.folder} is damaged: {fault}. "
                "Run the flow again to rebuild it, or bring it back with `lacewing data pull`."
            )
        return self


def _sealed_files(folder: Path) -> list[tuple[str, Path]]:
    return sorted(
        (path.relative_to(folder).as_posix(), path)
        for path in folder.rglob("*")
        # While a stage seals, the flow may be writing ``tracking.json``: incomplete files are ignored.
        if not is_partial(path) and path.is_file() and path.relative_to(folder).parts[0] not in (*UNSEALED, RECORD)
    )
