"""The gateway's server: our own endpoints, with another server's forward pass.

``python -m components.deployment.gateway.server FOLDER --settings JSON`` is its own process; ``create_app`` is the same
without one.
"""

# ruff: noqa: E402 - how OpenMP threads wait is decided before torch is imported
from components.core.environment import quiet_threads

quiet_threads()

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from fastapi import FastAPI

from components.core.errors import LacewingError
from components.core.parent import FOLLOW_PARENT, follow_parent
from components.deployment import log_lines
from components.deployment.gateway.config import UPSTREAM_KEY, GatewayConfig
from components.deployment.gateway.engine import GatewayEngine
from components.deployment.keys import Clients
from components.deployment.page.origin import Origin
from components.deployment.server import NOBODY, answer, application, known_clients, listen, run
from components.deployment.versions import Version, Versions


def create_app(versions: Versions, cfg: GatewayConfig, clients: Clients = NOBODY) -> FastAPI:
    """The ASGI application that answers for the one version of a gateway. As ``server.create_app``."""

    return application("Lacewing gateway", versions, cfg, clients)


def serve(folder: Path, cfg: GatewayConfig) -> None:
    """Stand before the server of ``cfg`` for the bundle in ``folder`` until SIGINT or SIGTERM."""
    log_lines.configure(cfg.log)
    clients = known_clients(cfg, "gateway")
    with listen(cfg.host, cfg.port) as listener:
        engine = GatewayEngine(folder, cfg, os.environ.get(UPSTREAM_KEY, ""))
        versions = Versions(Version(engine, Origin.of(folder), created=time.time()))
        app = create_app(versions, cfg, clients)
        print(f"{cfg.model} is run by {engine.upstream_name}", flush=True)
        answer(app, versions, cfg, listener)


def main(arguments: Sequence[str] | None = None) -> int:
    """Process entry; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m components.deployment.gateway.server")
    parser.add_argument("folder", type=Path, help="bundle of the model that the server behind runs")
    parser.add_argument("--settings", required=True, help="GatewayConfig as JSON")
    parser.add_argument(FOLLOW_PARENT, action="store_true", help="Stop at the end of standard input.")
    given = parser.parse_args(arguments)
    if given.follow_parent:
        follow_parent()
    try:
        serve(given.folder, GatewayConfig.model_validate_json(given.settings))
    except LacewingError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    run(main)
