"""Where the servers are that ``lacewing up`` keeps in this workspace."""

import json
from pathlib import Path
from typing import Literal

from flows.ports import answers
from flows.workspace import workspace_folder

Server = Literal["prefect", "mlflow"]

_HEALTH = {"prefect": "/api/health", "mlflow": "/health"}


def address_file() -> Path:
    """Written by ``lacewing up`` while it runs."""
    return workspace_folder() / "up.json"


def running(server: Server) -> str:
    """Address of the server, if ``lacewing up`` runs and it answers; otherwise empty."""
    if not address_file().exists():
        return ""
    address = str(json.loads(address_file().read_text())[server])
    return address if answers(address + _HEALTH[server]) else ""
