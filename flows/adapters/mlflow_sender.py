"""Requests to one MLflow address, and whether it answers."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from components.core.errors import DiskFullError, LacewingError, ServiceError
from components.core.identity import leaves
from conf.services import TrackingConfig
from flows.adapters.mlflow_connection import ERROR, PROCESS, Connection, limited
from flows.owner import this_process

# MLflow's own limits: entries in one request, characters in one value.
MAX_PARAMETERS = 100
MAX_PARAMETER_CHARACTERS = 6000


class Sender:
    """Sends until the first failure. After that nothing more is tried: a flow must not wait for the same dead server
    at every stage."""

    def __init__(self, cfg: TrackingConfig) -> None:
        self.connection = Connection(cfg)
        self.failure: LacewingError | None = None
        self.unsent: list[str] = []

    def attempt(self, what: str, action: Callable[[], None]) -> None:
        """Do something with MLflow; a failure is remembered and ends all attempts, but is not raised.

        Only a full disk is: it would stop the next stage anyway.
        """
        if self.failure is None:
            try:
                with self.connection.explained():
                    action()
                return
            except ServiceError as error:
                self.failure = error
            except DiskFullError as error:
                self.failure = error
                raise
        self.unsent.append(what)

    def has(self, run_id: str) -> bool:
        """Whether MLflow has this run; the store may have been emptied or replaced."""
        from mlflow.exceptions import MlflowException

        try:
            return bool(self.connection.client.get_run(run_id).info.lifecycle_stage == "active")
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise

    def reopen(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Go on with a run that was interrupted; from now on it belongs to this process."""
        client = self.connection.client
        self.tags(run_id, {PROCESS: this_process(), **tags})
        if ERROR in client.get_run(run_id).data.tags:
            client.delete_tag(run_id, ERROR)
        client.update_run(run_id, status="RUNNING")

    def parameters(self, run_id: str, config: Mapping[str, Any]) -> None:
        """Record ``config`` as parameters with dotted names."""
        from mlflow.entities import Param

        # Values beyond MLflow's limit would be cut with a warning each; the whole config is in artifact.json.
        texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in leaves(config)}
        parameters = [Param(name, text[:MAX_PARAMETER_CHARACTERS]) for name, text in texts.items()]
        for start in range(0, len(parameters), MAX_PARAMETERS):
            batch = parameters[start : start + MAX_PARAMETERS]
            self.connection.client.log_batch(run_id, params=batch, synchronous=True)

    def tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set ``tags`` on a run in one request."""
        from mlflow.entities import RunTag

        entries = [RunTag(name, text) for name, text in limited(tags).items()]
        self.connection.client.log_batch(run_id, tags=entries, synchronous=True)
