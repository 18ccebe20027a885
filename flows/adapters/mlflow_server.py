"""MLflow's server over the workspace's database, as ``lacewing up`` starts it.

``python -m flows.adapters.mlflow_server OPTIONS`` prepares the database and goes on as ``mlflow server OPTIONS``. Left
to itself, the server would migrate the database in place, and no experiment would have a view of its runs.
"""

import runpy
import sys
from collections.abc import Sequence

from components.core.errors import LacewingError
from conf.services import TrackingConfig
from flows.adapters.mlflow_abandoned import close_abandoned
from flows.adapters.mlflow_connection import Connection


def main(options: Sequence[str]) -> None:
    """Prepare, then be the server; ends with one message if that is impossible."""
    connection = Connection(TrackingConfig(uri=""))  # also where another address is the default of this machine
    try:
        with connection.explained():
            close_abandoned(connection)  # asks for the experiment, which is made where it is missing
    except LacewingError as error:
        raise SystemExit(f"error: {error}") from error
    store = ["--backend-store-uri", connection.uri, "--artifacts-destination", connection.files.as_uri()]
    # Not exec: the thread by which this process follows its parent would be lost.
    sys.argv = ["mlflow", "server", *store, *options]
    runpy.run_module("mlflow", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
