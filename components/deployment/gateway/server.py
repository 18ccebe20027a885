"""The gateway's server: our own endpoints, with another server's forward pass.

``python -m components.deployment.gateway.server FOLDER --settings JSON`` is its own process; ``create_app`` is the same
without one.
"""

# ruff: noqa: E402 - how OpenMP threads wait is decided before torch is imported
from components.core.environment import quiet_threads

quiet_threads()

import argparse
import asyncio
import logging
import math
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NoReturn

import uvicorn
from fastapi import FastAPI

from components.core.errors import InputError, LacewingError
from components.core.parent import FOLLOW_PARENT, follow_parent
from components.deployment import documentation, errors, routes
from components.deployment.config import API_KEY
from components.deployment.connections import GRACE_SECONDS, DrainingServer, timed_protocol
from components.deployment.gateway.config import UPSTREAM_KEY, GatewayConfig
from components.deployment.gateway.engine import GatewayEngine
from components.deployment.hosts import AllowedHosts, is_loopback
from components.deployment.intake import Intake
from components.deployment.keys import Clients
from components.deployment.metrics import Metrics
from components.deployment.middleware import RequestLimits
from components.deployment.server import NOBODY, READY, listen


def create_app(engine: GatewayEngine, cfg: GatewayConfig, clients: Clients = NOBODY, started: float = 0.0) -> FastAPI:
    """The ASGI application that answers for ``engine``; it closes the engine at the end. As ``server.create_app``."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        intake.close()
        await asyncio.to_thread(engine.close)

    app = FastAPI(title="Lacewing gateway", lifespan=lifespan, docs_url=None, redoc_url=None)
    metrics, intake = Metrics(engine), Intake(engine)
    errors.register(app)
    routes.add_health(app, engine, cfg.model)
    routes.add_models(app, engine, cfg.model, started)
    routes.add_generation(app, engine, cfg.model, metrics, intake)
    documentation.without_422(app)
    app.add_middleware(
        RequestLimits,
        hosts=AllowedHosts(cfg.host, cfg.allowed_hosts),
        clients=clients,
        max_body_bytes=cfg.max_body_bytes,
        body_seconds=cfg.client_timeout_seconds,
    )
    metrics.observe(app)  # last, so that it also counts what the limits refuse
    return app


def serve(folder: Path, cfg: GatewayConfig) -> None:
    """Stand before the server of ``cfg`` for the bundle in ``folder`` until SIGINT or SIGTERM."""
    clients = Clients.of(cfg.keys, os.environ.get(API_KEY, ""))
    if not clients and not is_loopback(cfg.host):
        raise InputError(
            f"{cfg.host} is reachable from other machines, so anyone could use the gateway: set {API_KEY} to a key, "
            "name a file of keys with keys=FILE, or listen on host=127.0.0.1"
        )
    with listen(cfg.host, cfg.port) as listener:
        engine = GatewayEngine(folder, cfg, os.environ.get(UPSTREAM_KEY, ""))
        app = create_app(engine, cfg, clients, started=time.time())
        host = f"[{cfg.host}]" if ":" in cfg.host else cfg.host
        print(f"{cfg.model} is run by {engine.upstream_name}", flush=True)
        print(READY.format(model=cfg.model, host=host, port=listener.getsockname()[1]), flush=True)
        config = uvicorn.Config(
            app,
            http=timed_protocol(cfg.client_timeout_seconds),
            log_level="warning",
            timeout_graceful_shutdown=math.ceil(cfg.shutdown_seconds + GRACE_SECONDS),
        )
        DrainingServer(config, cfg.shutdown_seconds, engine.end_requests).run([listener])


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


def _stop(number: int, frame: object) -> NoReturn:
    # While the server behind is asked, and again after uvicorn's shutdown, which repeats the signal that stopped it.
    raise SystemExit(0)


if __name__ == "__main__":
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    try:
        code = main()
    except SystemExit as stop:  # of ``_stop`` or of the command line's parser
        code = int(stop.code or 0)
    sys.stdout.flush()
    sys.stderr.flush()
    # A thread may still wait for the server behind.
    os._exit(code)
