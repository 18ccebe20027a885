"""``tracking.json`` in an artifact's folder: which run stands for it at which MLflow address."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from components.core.atomic import write_text
from components.core.errors import ArtifactError
from components.core.records import first_fault
from flows.adapters.mlflow_connection import Connection

TRACKING = "tracking.json"


class TrackedRun(BaseModel):
    """The run that stands for an artifact at one MLflow address."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    uri: str
    """Address, without password."""
    experiment: str
    """Name of the experiment."""
    run_id: str = ""
    """Run of the stage; empty while MLflow has not answered yet."""
    flow: str = ""
    """Name of the flow that ran the stage."""
    flow_run: str = ""
    """Id of that flow's execution, by which its parent run is found again."""
    title: str = ""
    """Name of that parent run."""
    complete: bool = False
    """Whether everything has been sent."""


class TrackingRecord(BaseModel):
    """Contents of ``tracking.json``: one entry per address the artifact was sent to."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    runs: list[TrackedRun] = []

    @classmethod
    def read(cls, folder: Path) -> "TrackingRecord":
        """The record in ``folder``, empty if there is none; raises ``ArtifactError`` if it is damaged."""
        path = folder / TRACKING
        if not path.exists():
            return cls()
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise ArtifactError(
                f"{path} is damaged: {first_fault(error)}. Delete it: it only says which run of MLflow stands for the "
                "artifact, and the next run of the same command, or `lacewing sync`, sends the artifact again."
            ) from error

    def at(self, connection: Connection) -> TrackedRun | None:
        """The entry for this address and experiment."""
        place = (connection.address, connection.cfg.experiment)
        return next((run for run in self.runs if (run.uri, run.experiment) == place), None)

    def latest(self) -> TrackedRun | None:
        """The entry written last, whatever its address: which flow made the artifact."""
        return self.runs[-1] if self.runs else None

    def put(self, folder: Path, entry: TrackedRun) -> None:
        """Write the file with ``entry`` in the place of the one for the same address."""
        others = [run for run in self.runs if (run.uri, run.experiment) != (entry.uri, entry.experiment)]
        write_text(folder / TRACKING, TrackingRecord(runs=[*others, entry]).model_dump_json(indent=2) + "\n")
