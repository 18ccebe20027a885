"""``lacewing gateway``: fetch what a gateway needs of a registered model, then become its process."""

import os
import sys

from components.core.errors import ServiceError
from conf.schema import GatewayCommandConfig
from flows import console
from flows.ports import ensure_free
from flows.promotion import Registry


def gateway(config: GatewayCommandConfig) -> int:
    """Stand before ``config.upstream`` for ``config.model`` until interrupted; does not return normally."""
    if config.port:
        ensure_free(config.host, config.port, "port")
    folder = Registry(config.tracking).resolve(config.model).folder
    console.say(f"asking {config.upstream} for {config.model}, whose tokenizer and thresholds are in {folder}")
    settings = config.model_dump_json(exclude={"tracking"})
    command = [sys.executable, "-m", "components.deployment.gateway.server", str(folder), "--settings", settings]
    try:
        os.execv(sys.executable, command)
    except OSError as error:
        raise ServiceError(f"cannot start the gateway's process: {error}") from error
