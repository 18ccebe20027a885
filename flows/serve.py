"""``lacewing serve``: fetch a registered model, then become its server process."""

import json
import os
import sys

from components.core.errors import ServiceError
from conf.schema import ServeCommandConfig
from flows import console
from flows.adapters.mlflow_pages import version_page
from flows.addresses import running
from flows.ports import ensure_free
from flows.promotion import CHALLENGER, CHAMPION, Registry


def serve(config: ServeCommandConfig) -> int:
    """Resolve ``config.model`` (alias, version or folder) and serve it until interrupted; does not return normally."""
    if config.port:
        ensure_free(config.host, config.port, "port")
    registry = Registry(config.tracking)
    folder = registry.resolve(config.model).folder
    console.say(f"serving {config.model} from {folder}")
    settings = config.model_dump(mode="json", exclude={"tracking", "model"})
    options = [f"--{name.replace('_', '-')}={_option(value)}" for name, value in settings.items() if value is not None]
    command = [sys.executable, "-m", "components.deployment.server", str(folder), f"--name={config.model}", *options]
    command += _registered(registry, config.model)
    try:
        os.execv(sys.executable, command)
    except OSError as error:
        raise ServiceError(f"cannot start the server process {command}: {error}") from error


def _registered(registry: Registry, reference: str) -> list[str]:
    """Options that tell the server's page which version it serves, and where MLflow shows it; none for a folder."""
    version = registry.version(reference) if reference in (CHAMPION, CHALLENGER) or reference.isdigit() else None
    if version is None:
        return []
    address = registry.connection.address  # without the user and the password, which must not reach the page
    server = address if address.startswith(("http://", "https://")) else ""
    if not registry.connection.cfg.uri:
        server = running("mlflow")
    page = version_page(server, version.model, version.number) if server else ""
    return [f"--model-version={version.model} version {version.number}", f"--model-page={page}"]


def _option(value: object) -> str:
    if isinstance(value, dict):
        return json.dumps(value)
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
