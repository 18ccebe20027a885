"""The connection to MLflow: one address, one experiment, no global state, and no long wait for an absent server.

MLflow's defaults retry a dead server for minutes and its active run is invisible inside Prefect's task threads. Here
every call goes through a client with an explicit address, and the first failure is reported at once.
"""

import logging
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from components.core.atomic import full_disk_explained
from components.core.errors import ServiceError
from conf.services import TrackingConfig
from flows.adapters.mlflow_database import bring_up_to_date, full_database_explained
from flows.adapters.mlflow_pages import view_tags
from flows.owner import this_process
from flows.sqlite_address import sqlite_address
from flows.workspace import workspace_folder

if TYPE_CHECKING:
    from mlflow import MlflowClient

_REQUEST = "MLFLOW_HTTP_REQUEST_"
_CHOSEN = {name for name in os.environ if name.startswith(_REQUEST)}  # values that the user has set are kept
DATABASE = "mlflow.db"
ERROR = "lacewing.error"
"""Tag of a run that did not end well: why."""
PROCESS = "lacewing.process"
"""Tag of a run: the process that it belongs to while it is open."""
MAX_TAG_CHARACTERS = 8000  # MLflow's own limit
_DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}


class Connection:
    """One MLflow address and one experiment in it. Nothing is imported or opened before the first use."""

    def __init__(self, cfg: TrackingConfig) -> None:
        self.cfg = cfg
        self.workspace = workspace_folder()
        self.uri = cfg.uri or sqlite_address(self.workspace / DATABASE)
        self.files = self.workspace / "mlartifacts"

    @property
    def address(self) -> str:
        """The address as it may be shown and stored: without user name and password."""
        parts = urlsplit(self.uri)
        if not parts.hostname:
            return self.uri
        return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))

    @cached_property
    def client(self) -> "MlflowClient":
        """Client of this address; raises ``ServiceError`` if a database server does not answer."""
        self._reach_database()
        self._limit_waiting()
        if file := self.database_file:
            bring_up_to_date(file)
        from mlflow import MlflowClient

        # It prints pages of traceback about what is raised here as well, and explained.
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
        return MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)

    @cached_property
    def database_file(self) -> Path | None:
        """The SQLite file behind the address; ``None`` for a server."""
        if not self.uri.startswith("sqlite"):
            return None
        from sqlalchemy import make_url

        name = make_url(self.uri).database
        return Path(name) if name and name != ":memory:" else None

    @cached_property
    def experiment_id(self) -> str:
        """Id of the experiment, made at first need."""
        from mlflow.exceptions import MlflowException

        name = self.cfg.experiment
        if (found := self.client.get_experiment_by_name(name)) is None:
            try:
                # A server has its own place for files; for a bare database MLflow would take the current folder.
                served = self.uri.startswith("http")
                location = None if served else self.files.as_uri()
                made = self.client.create_experiment(name, artifact_location=location, tags=view_tags())
                return str(made)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another process created it a moment ago
                    raise
                found = self.client.get_experiment_by_name(name)
        assert found is not None
        if found.lifecycle_stage != "active":
            raise ServiceError(
                f"the experiment {name!r} at {self.address} has been deleted: restore it in MLflow "
                "(`mlflow experiments restore`) or choose another name with tracking.experiment"
            )
        for tag, value in view_tags().items():
            if found.tags.get(tag) != value:  # made by an earlier version, or by hand
                self.client.set_experiment_tag(found.experiment_id, tag, value)
        return str(found.experiment_id)

    def create_run(self, name: str, tags: Mapping[str, str], started: float | None = None) -> str:
        """Open a run in the experiment; returns its id. ``started`` is in seconds since 1970; ``None`` means now."""
        start_time = int(started * 1000) if started is not None else None
        owned = limited({PROCESS: this_process(), **tags})
        run = self.client.create_run(self.experiment_id, start_time=start_time, tags=owned, run_name=name)
        return str(run.info.run_id)

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turn whatever MLflow and what lies below it raise into a ``ServiceError`` that names the address.

        A full disk becomes a ``DiskFullError`` instead.
        """
        file = self.database_file
        try:
            with full_disk_explained(self.files), full_database_explained(file) if file else nullcontext():
                yield
        except _failures() as error:
            first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ServiceError(f"a request to MLflow at {self.address} failed: {first_line[:300]}") from error

    @contextmanager
    def as_default(self) -> Iterator[None]:
        """Let this be MLflow's default address: its registry on a database resolves ``models:/m-...`` through that."""
        import mlflow

        before = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else None
        mlflow.set_tracking_uri(self.uri)
        try:
            yield
        finally:
            mlflow.set_tracking_uri(before)

    def _limit_waiting(self) -> None:
        # Read by MLflow at each request. Its own defaults (7 retries, 120 s each) would hold a flow for many minutes.
        limits = {"MAX_RETRIES": 1, "BACKOFF_FACTOR": 1, "TIMEOUT": self.cfg.timeout_seconds}
        for name, value in limits.items():
            if f"{_REQUEST}{name}" not in _CHOSEN:
                os.environ[f"{_REQUEST}{name}"] = str(value)

    def _reach_database(self) -> None:
        # MLflow tries an absent database server ten times with growing pauses, over three minutes in all.
        parts = urlsplit(self.uri)
        port = parts.port or _DATABASE_PORTS.get(parts.scheme.partition("+")[0])
        if parts.scheme.startswith("http") or not parts.hostname or port is None:
            return
        try:
            socket.create_connection((parts.hostname, port), timeout=self.cfg.timeout_seconds).close()
        except OSError as error:
            raise ServiceError(f"MLflow's database at {self.address} cannot be reached: {error}") from error

    def download(self, artifact_uri: str, folder: Path) -> Path:
        """Copy an artifact folder of MLflow into ``folder``; returns where it came to lie."""
        from mlflow.artifacts import download_artifacts

        return Path(download_artifacts(artifact_uri=artifact_uri, dst_path=str(folder), tracking_uri=self.uri))


def warm_up(cfg: TrackingConfig) -> None:
    """Import MLflow and open its store while there is nothing better to do; later connections find both ready.

    Whether MLflow answers is left to the first real request to find out.
    """
    connection = Connection(cfg)
    with suppress(ServiceError), connection.explained():
        _ = connection.client


def limited(tags: Mapping[str, str]) -> dict[str, str]:
    """``tags`` with values no longer than MLflow accepts."""
    return {name: text[:MAX_TAG_CHARACTERS] for name, text in tags.items()}


def _failures() -> tuple[type[BaseException], ...]:
    import sqlite3

    from mlflow.exceptions import MlflowException
    from requests.exceptions import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    return (MlflowException, RequestException, SQLAlchemyError, sqlite3.Error, OSError)
