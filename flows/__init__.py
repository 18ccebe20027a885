"""The flows, the command line, and every adapter to Prefect, MLflow, DVC and Hydra.

Importing this package disables the telemetry of the libraries and gives them a place in the workspace. This has to
happen here, because MLflow and Prefect read these variables while they are imported. Each is a default; a variable that
is already set has precedence.
"""

import os
from pathlib import Path

from flows.sqlite_address import PREFECT, sqlite_address
from flows.workspace import workspace_folder

_QUIET = {
    "DO_NOT_TRACK": "true",  # MLflow knows only the word "true"; Prefect takes 1, true and yes
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "PREFECT_SERVER_UI_V2_ENABLED": "false",  # the first page is then of the UI that asks nobody outside
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_MODEL_CATALOG_URI": "",
    "MLFLOW_SKIP_PIP_REQUIREMENTS_CHECK": "true",
    "MLFLOW_ENABLE_AI_GATEWAY": "false",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "DVC_NO_ANALYTICS": "1",
    "DVC_STUDIO_OFFLINE": "true",
    "ITERATIVE_DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "WANDB_MODE": "disabled",
    # Prefect's own server, started when no address is given, needs more than its default 20 s on two cores.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_HOME": str(workspace_folder() / "prefect"),
}

for _name, _value in _QUIET.items():
    os.environ.setdefault(_name, _value)

# Prefect itself writes the path of its database into the address as it is.
_prefect_database = Path(os.environ["PREFECT_HOME"]) / "prefect.db"
_address = sqlite_address(_prefect_database, PREFECT)
_is_chosen = {"PREFECT_SERVER_DATABASE_CONNECTION_URL", "PREFECT_API_DATABASE_CONNECTION_URL"} & os.environ.keys()
if not _is_chosen and not _address.endswith(str(_prefect_database)):
    os.environ["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = _address
