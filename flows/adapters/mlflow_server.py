"""MLflow's server over the workspace's database, as ``lacewing up`` starts it.

``python -m flows.adapters.mlflow_server OPTIONS`` prepares the database and becomes ``mlflow server OPTIONS``. Left to
itself, the server would migrate the database in place, and no experiment would have a view of its runs.
"""

import os
import sys
from collections.abc import Sequence

from components.core.errors import LacewingError
from conf.services import TrackingConfig
from flows.adapters.mlflow_abandoned import close_abandoned
from flows.adapters.mlflow_connection import Connection


def main(options: Sequence[str]) -> None:
    """Prepare and be replaced by the server; ends with one message if that is impossible."""
    connection = Connection(TrackingConfig())
    try:
        with connection.explained():
            close_abandoned(connection)  # asks for the experiment, which is made where it is missing
    except LacewingError as error:
        raise SystemExit(f"error: {error}") from error
    store = ["--backend-store-uri", connection.uri, "--artifacts-destination", connection.files.as_uri()]
    os.execv(sys.executable, [sys.executable, "-m", "mlflow", "server", *store, *options])


if __name__ == "__main__":
    main(sys.argv[1:])
