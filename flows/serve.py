"""``lacewing serve``: fetch a registered model, then become its server process."""

import os
import sys

from components.core.errors import ServiceError
from conf.schema import ServeCommandConfig
from flows import console
from flows.ports import ensure_free
from flows.promotion import Registry


def serve(config: ServeCommandConfig) -> int:
    """Resolve ``config.model`` (alias, version or folder) and serve it until interrupted; does not return normally."""
    if config.port:
        ensure_free(config.host, config.port, "port")
    folder = Registry(config.tracking).resolve(config.model).folder
    console.say(f"serving {config.model} from {folder}")
    settings = config.model_dump(mode="json", exclude={"tracking", "model"})
    options = [f"--{name.replace('_', '-')}={_option(value)}" for name, value in settings.items() if value is not None]
    command = [sys.executable, "-m", "components.deployment.server", str(folder), f"--name={config.model}", *options]
    try:
        os.execv(sys.executable, command)
    except OSError as error:
        raise ServiceError(f"cannot start the server process {command}: {error}") from error


def _option(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
