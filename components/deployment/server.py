"""The server: OpenAI's completions and chat over HTTP, for one bundle, which may ask a helper.

``python -m components.deployment.server FOLDER --port 8000`` is its own process; ``create_app`` is the same without
one. Listens on loopback unless told otherwise. If there are keys, ``/v1/`` asks for one; only loopback can do without.
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
import socket
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

import uvicorn
from fastapi import FastAPI
from pydantic import ValidationError

from components.core.errors import InputError, LacewingError, ServiceError
from components.core.parent import FOLLOW_PARENT, follow_parent
from components.deployment import documentation, errors, routes
from components.deployment.answering import ServedEngine
from components.deployment.config import API_KEY, ListenConfig, ServeConfig
from components.deployment.connections import GRACE_SECONDS, DrainingServer, timed_protocol
from components.deployment.engine import Engine
from components.deployment.hosts import AllowedHosts, is_loopback
from components.deployment.intake import Intake
from components.deployment.keys import Clients
from components.deployment.metrics import Metrics
from components.deployment.middleware import RequestLimits
from components.deployment.page.origin import Origin
from components.deployment.page.routes import add_page

# Written to stdout once requests are answered; the process that started this one waits for it.
READY = "serving {model} on http://{host}:{port}"

NOBODY = Clients()


def create_app(
    engine: Engine, cfg: ServeConfig, clients: Clients = NOBODY, started: float = 0.0, origin: Origin | None = None
) -> FastAPI:
    """The ASGI application that answers for ``engine`` under the name ``cfg.model``; it closes the engine at the end.

    Arguments:
        engine: the loaded bundle.
        cfg: name of the model and limits.
        clients: whose keys ``/v1/`` accepts; nobody's: it asks for none.
        started: when the model was loaded, in seconds since 1970.
        origin: what the page says about where the model comes from.
    """

    return application(
        "Lacewing",
        engine,
        cfg,
        clients,
        started,
        lambda app: add_page(app, engine, cfg.model, origin or Origin(), cfg.price_per_call),
    )


def application(
    title: str,
    engine: ServedEngine,
    cfg: ListenConfig,
    clients: Clients,
    started: float,
    add_more: Callable[[FastAPI], object] = lambda app: None,
) -> FastAPI:
    """What every server of ours answers, and within which limits, whatever its ``engine``; see ``create_app``.

    ``add_more`` adds the routes that only this one has.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        intake.close()
        await asyncio.to_thread(engine.close)

    # The interactive documentation pages would load scripts from the internet; /openapi.json is there.
    app = FastAPI(title=title, lifespan=lifespan, docs_url=None, redoc_url=None)
    metrics, intake = Metrics(engine), Intake(engine)
    errors.register(app)
    routes.add_health(app, engine, cfg.model)
    routes.add_models(app, engine, cfg.model, started)
    routes.add_generation(app, engine, cfg.model, metrics, intake)
    add_more(app)
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


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; raises ``ServiceError`` if the port is taken or the address is not ours.

    Opened before the model is loaded, so that a conflict is reported at once. Early clients wait in its backlog.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.create_server((str(address[0]), port), family=family, backlog=128)
    except OSError as error:
        advice = f"choose another with port={port + 1 if port < 65535 else 8000}, or port=0 for any free one"
        raise ServiceError(
            f"cannot listen on {host} port {port}: {error.strerror or error}. Stop what uses that port, or {advice}."
        ) from error
    # asyncio does this only for sockets that it makes itself; without it, a token waits for the last one's receipt.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def serve(folder: Path, cfg: ServeConfig, version: str = "", address: str = "") -> None:
    """Serve the bundle in ``folder`` until SIGINT or SIGTERM, which let requests in flight end within a time limit.

    ``version`` and ``address`` say which registered model it is, and where a person can look at it.
    """
    clients = known_clients(cfg, "server")
    with listen(cfg.host, cfg.port) as listener:
        engine = Engine(
            folder,
            max_concurrent_requests=cfg.max_concurrent_requests,
            max_queued_requests=cfg.max_queued_requests,
            threads=cfg.threads,
            device=cfg.device,
            dtype=cfg.dtype,
            call_budget=cfg.call_budget,
            helper_required=cfg.helper_required,
            questions_at_once=cfg.questions_at_once,
        )
        origin = Origin.of(folder, version, address)
        app = create_app(engine, cfg, clients, started=folder.stat().st_mtime, origin=origin)
        answer(app, engine, cfg, listener)


def known_clients(cfg: ListenConfig, what: str) -> Clients:
    """Whose keys are accepted; raises ``InputError`` if other machines reach ``what``, and it would ask for none."""
    clients = Clients.of(cfg.keys, os.environ.get(API_KEY, ""))
    if not clients and not is_loopback(cfg.host):
        raise InputError(
            f"{cfg.host} is reachable from other machines, so anyone could use the {what}: set {API_KEY} to a key, "
            "name a file of keys with keys=FILE, or listen on host=127.0.0.1"
        )
    return clients


def answer(app: FastAPI, engine: ServedEngine, cfg: ListenConfig, listener: socket.socket) -> None:
    """Say that requests are answered, and answer them until a signal comes."""
    host = f"[{cfg.host}]" if ":" in cfg.host else cfg.host
    print(READY.format(model=cfg.model, host=host, port=listener.getsockname()[1]), flush=True)
    config = uvicorn.Config(
        app,
        http=timed_protocol(cfg.client_timeout_seconds),
        log_level="warning",
        timeout_graceful_shutdown=math.ceil(cfg.shutdown_seconds + GRACE_SECONDS),
    )
    DrainingServer(config, cfg.shutdown_seconds, engine.end_requests).run([listener])


def _stop(number: int, frame: object) -> NoReturn:
    # While the model loads, and again after uvicorn's shutdown, which repeats the signal that stopped it.
    raise SystemExit(0)


def _arguments(arguments: Sequence[str] | None) -> tuple[Path, ServeConfig, str, str]:
    """The bundle's folder, every setting of ``ServeConfig`` as an option, version and page of the registered model."""
    parser = argparse.ArgumentParser(prog="python -m components.deployment.server", description=ServeConfig.__doc__)
    parser.add_argument("folder", type=Path, help="bundle to serve")
    for name, field in ServeConfig.model_fields.items():
        options = [f"--{name.replace('_', '-')}"] + (["--name"] if name == "model" else [])
        parser.add_argument(*options, dest=name, help=f"{field.description} Default: {field.default}.")
    parser.add_argument("--model-version", default="", help="Its version in the registry, which the page at / names.")
    parser.add_argument("--model-page", default="", type=_web_page, help="Page of that version, http or https.")
    parser.add_argument(FOLLOW_PARENT, action="store_true", help="Stop at the end of standard input.")
    given = {name: value for name, value in vars(parser.parse_args(arguments)).items() if value is not None}
    folder, version, address = given.pop("folder"), given.pop("model_version"), given.pop("model_page")
    if given.pop("follow_parent"):
        follow_parent()
    try:
        return folder, ServeConfig.model_validate(given), version, address
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"--{'.'.join(map(str, first['loc']))} {first['input']}: {first['msg']}") from error


def _web_page(address: str) -> str:
    """A link may hold a script (``javascript:``), so only pages of the web are taken."""
    if address and urlsplit(address).scheme not in ("http", "https"):
        raise argparse.ArgumentTypeError(f"{address!r} is no address that begins with http:// or https://")
    return address


def main(arguments: Sequence[str] | None = None) -> int:
    """Process entry; returns the exit code."""
    try:
        serve(*_arguments(arguments))
    except LacewingError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def run(main: Callable[[], int]) -> NoReturn:
    """``main`` as a process of its own, which ends in order at the first signal."""
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    try:
        code = main()
    except SystemExit as stop:  # of ``_stop`` or of the command line's parser
        code = int(stop.code or 0)
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    # Everything that must end in order has ended. Python would go on to take torch apart, or to wait for a thread that
    # asks another server, which can take longer than ``shutdown_seconds``.
    os._exit(code)


if __name__ == "__main__":
    run(main)
