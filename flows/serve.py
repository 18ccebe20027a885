"""``lacewing serve``: fetch a registered model, then become its server process."""

import json
import os
import sys

from components.core.errors import ServiceError
from conf.schema import ServeCommandConfig
from flows import console, watch
from flows.adapters.mlflow_pages import version_page
from flows.addresses import running
from flows.named_models import is_version
from flows.ports import ensure_free
from flows.promotion import Registry
from flows.watch import WatchSettings


def serve(config: ServeCommandConfig) -> int:
    """Resolve ``config.model`` (alias, version or folder) and serve it until interrupted; does not return normally."""
    if config.port:
        ensure_free(config.host, config.port, "port")
    registry = Registry(config.tracking)
    folder = registry.resolve(config.model).folder
    console.say(f"serving {config.model} from {folder}")
    settings = config.model_dump(mode="json", exclude={"tracking", "model", "follow_seconds"})
    options = [f"--{name.replace('_', '-')}={_option(value)}" for name, value in settings.items() if value is not None]
    command = [sys.executable, "-m", "components.deployment.server", str(folder), f"--name={config.model}", *options]
    command += _registered(registry, config)
    try:
        os.execv(sys.executable, command)
    except OSError as error:
        raise ServiceError(f"cannot start the server process {command}: {error}") from error


def _registered(registry: Registry, config: ServeCommandConfig) -> list[str]:
    """Options that say which version is served, where MLflow shows it, and how it is followed; none for a folder."""
    version = registry.version(config.model) if is_version(config.model) else None
    if version is None:
        return []
    address = registry.connection.address  # without the user and the password, which must not reach the page
    server = address if address.startswith(("http://", "https://")) else ""
    if not registry.connection.cfg.uri:
        server = running("mlflow")
    page = version_page(server, version.model, version.number) if server else ""
    options = [f"--model-version={version.model}/{version.number}", f"--model-page={page}"]
    if config.model.isdigit() or not config.follow_seconds:
        return options
    watched = WatchSettings(
        tracking=config.tracking,
        served=config.model,
        canary=config.canary > 0.0,
        every_seconds=config.follow_seconds,
        server=server,
    )
    return [*options, f"--registry={json.dumps(watch.command(watched))}"]


def _option(value: object) -> str:
    if isinstance(value, dict):
        return json.dumps(value)
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
