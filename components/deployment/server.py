"""The server: OpenAI's completions and chat over HTTP, for one bundle, which may ask a helper.

``python -m components.deployment.server FOLDER --port 8000`` is its own process; ``create_app`` is the same without
one. Listens on loopback unless told otherwise. If there are keys, ``/v1/`` asks for one; only loopback can do without.
"""

# ruff: noqa: E402 - how OpenMP threads wait is decided before torch is imported
from components.core.environment import quiet_threads

quiet_threads()

import argparse
import asyncio
import json
import logging
import math
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

import uvicorn
from fastapi import FastAPI
from fastapi.telemetry import TelemetryConfig
from pydantic import ValidationError

from components.core.errors import InputError, LacewingError, ServiceError
from components.core.parent import FOLLOW_PARENT, follow_parent
from components.deployment import documentation, errors, log_lines, routes
from components.deployment.config import API_KEY, ListenConfig, ServeConfig
from components.deployment.connections import GRACE_SECONDS, DrainingServer, timed_protocol
from components.deployment.costs import Costs
from components.deployment.energy import EnergyShares
from components.deployment.engine import Engine
from components.deployment.following import Following
from components.deployment.hosts import AllowedHosts, is_loopback
from components.deployment.kept_products import limit_kept_products
from components.deployment.keys import Clients
from components.deployment.loading import checked_version, loaded_version
from components.deployment.metrics import Metrics
from components.deployment.middleware import RequestLimits
from components.deployment.page.routes import add_page
from components.deployment.registry_process import RegistryProcess
from components.deployment.released import spare_modules
from components.deployment.request_log import RequestLog
from components.deployment.traces import Traced, from_environment
from components.deployment.versioned import Versioned
from components.deployment.versions import Versions

# Written to stdout once requests are answered; the process that started this one waits for it.
READY = "serving {model} on http://{host}:{port}"

NOBODY = Clients()
# FastAPI's own, which FASTAPI_OTEL_AUTO_CONFIGURE turns on: it sends paths, and messages of exceptions. Ours does not.
NO_TELEMETRY = TelemetryConfig(tracing=False, metrics=False, logs=False, operation_spans=False, auto_configure=False)


def create_app(versions: Versions, cfg: ServeConfig, clients: Clients = NOBODY) -> FastAPI:
    """The ASGI application that answers for ``versions`` under the name ``cfg.model``; it closes them at the end.

    Arguments:
        versions: the loaded bundle, and those that take its place.
        cfg: name of the model and limits.
        clients: whose keys ``/v1/`` accepts; nobody's: it asks for none.
    """

    return application(
        "Lacewing",
        versions,
        cfg,
        clients,
        lambda app: add_page(app, versions, cfg.model, cfg.price_per_call),
        energy=_energy(versions, cfg.watts),
    )


def application(
    title: str,
    versions: Versions,
    cfg: ListenConfig,
    clients: Clients,
    add_more: Callable[[FastAPI], object] = lambda app: None,
    energy: EnergyShares | None = None,
) -> FastAPI:
    """What every server of ours answers, and within which limits, whatever its engine; see ``create_app``.

    ``add_more`` adds the routes that only this one has; ``energy`` shares what the answers take, where they are
    computed here. Raises ``InputError`` for variables of OpenTelemetry that cannot be followed.
    """
    traces = from_environment(title.lower().replace(" ", "-"))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(versions.close)
        if traces is not None:
            await asyncio.to_thread(traces.close)

    # The interactive documentation pages would load scripts from the internet; /openapi.json is there.
    app = FastAPI(title=title, lifespan=lifespan, docs_url=None, redoc_url=None, telemetry=NO_TELEMETRY)
    metrics = Metrics(versions)
    errors.register(app)
    routes.add_health(app, versions, cfg.model)
    routes.add_models(app, cfg.model)
    routes.add_generation(app, cfg.model, metrics, Costs(cfg.price_per_call, energy))
    add_more(app)
    documentation.without_422(app)
    app.add_middleware(Versioned, versions=versions)
    app.add_middleware(
        RequestLimits,
        hosts=AllowedHosts(cfg.host, cfg.allowed_hosts),
        clients=clients,
        max_body_bytes=cfg.max_body_bytes,
        body_seconds=cfg.client_timeout_seconds,
    )
    metrics.observe(app)  # after the limits, so that it also counts what they refuse
    app.add_middleware(RequestLog, model=cfg.model)
    if traces is not None:
        app.add_middleware(Traced, traces=traces)
    return app


def _energy(versions: Versions, watts: float | None) -> EnergyShares | None:
    """Processors count their own energy: of a model on a GPU, only ``watts`` tells."""
    engine = versions.current.engine
    counted = isinstance(engine, Engine) and engine.model.output_weight.device.type == "cpu"
    return EnergyShares(watts) if counted or watts is not None else None


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


def serve(
    folder: Path, cfg: ServeConfig, version: str = "", address: str = "", registry: Sequence[str] | None = None
) -> None:
    """Serve the bundle in ``folder`` until SIGINT or SIGTERM, which let requests in flight end within a time limit.

    Arguments:
        folder: a bundle.
        cfg: settings.
        version: which registered model it is.
        address: where a person can look at it.
        registry: a command that says which version is wanted, see ``RegistryProcess``; ``None``: this one for ever.
    """
    log_lines.configure(cfg.log)
    clients = known_clients(cfg, "server")
    limit_kept_products(cfg.max_concurrent_requests)
    with listen(cfg.host, cfg.port) as listener:
        spare_modules()  # before the first version, which will go
        versions = Versions(loaded_version(cfg, folder, version, address))
        app = create_app(versions, cfg, clients)
        if registry is None:
            answer(app, versions, cfg, listener)
            return
        following = Following(versions, partial(checked_version, cfg), cfg)
        process = RegistryProcess(registry, following.told)
        try:
            answer(app, versions, cfg, listener)
        finally:
            following.close()
            process.close()


def known_clients(cfg: ListenConfig, what: str) -> Clients:
    """Whose keys are accepted; raises ``InputError`` if other machines reach ``what``, and it would ask for none."""
    clients = Clients.of(cfg.keys, os.environ.get(API_KEY, ""))
    if not clients and not is_loopback(cfg.host):
        raise InputError(
            f"{cfg.host} is reachable from other machines, so anyone could use the {what}: set {API_KEY} to a key, "
            "name a file of keys with keys=FILE, or listen on host=127.0.0.1"
        )
    return clients


def answer(app: FastAPI, versions: Versions, cfg: ListenConfig, listener: socket.socket) -> None:
    """Say that requests are answered, and answer them until a signal comes."""
    host = f"[{cfg.host}]" if ":" in cfg.host else cfg.host
    print(READY.format(model=cfg.model, host=host, port=listener.getsockname()[1]), flush=True)
    config = uvicorn.Config(
        app,
        http=timed_protocol(cfg.client_timeout_seconds),
        log_level="warning",
        log_config=None,  # its own handlers would write lines of another form
        timeout_graceful_shutdown=math.ceil(cfg.shutdown_seconds + GRACE_SECONDS),
    )
    DrainingServer(config, cfg.shutdown_seconds, versions.end_requests).run([listener])


def _stop(number: int, frame: object) -> NoReturn:
    # While the model loads, and again after uvicorn's shutdown, which repeats the signal that stopped it.
    raise SystemExit(0)


def _arguments(arguments: Sequence[str] | None) -> tuple[Path, ServeConfig, str, str, list[str] | None]:
    """The bundle's folder, every setting of ``ServeConfig`` as an option, and the arguments of ``serve`` after it."""
    parser = argparse.ArgumentParser(prog="python -m components.deployment.server", description=ServeConfig.__doc__)
    parser.add_argument("folder", type=Path, help="bundle to serve")
    for name, field in ServeConfig.model_fields.items():
        options = [f"--{name.replace('_', '-')}"] + (["--name"] if name == "model" else [])
        parser.add_argument(*options, dest=name, help=f"{field.description} Default: {field.default}.")
    parser.add_argument("--model-version", default="", help="Its version in the registry, which the page at / names.")
    parser.add_argument("--model-page", default="", type=_web_page, help="Page of that version, http or https.")
    parser.add_argument("--registry", type=_command, help="Command that says which version is wanted, a JSON list.")
    parser.add_argument(FOLLOW_PARENT, action="store_true", help="Stop at the end of standard input.")
    given = {name: value for name, value in vars(parser.parse_args(arguments)).items() if value is not None}
    folder, version, address = given.pop("folder"), given.pop("model_version"), given.pop("model_page")
    registry = given.pop("registry", None)
    if given.pop("follow_parent"):
        follow_parent()
    try:
        return folder, ServeConfig.model_validate(given), version, address, registry
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"--{'.'.join(map(str, first['loc']))} {first['input']}: {first['msg']}") from error


def _web_page(address: str) -> str:
    """A link may hold a script (``javascript:``), so only pages of the web are taken."""
    if address and urlsplit(address).scheme not in ("http", "https"):
        raise argparse.ArgumentTypeError(f"{address!r} is no address that begins with http:// or https://")
    return address


def _command(words: str) -> list[str]:
    found = json.loads(words)
    if not (isinstance(found, list) and found and all(isinstance(word, str) for word in found)):
        raise argparse.ArgumentTypeError(f"{words!r} is no JSON list of words")
    return found


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
    logging.getLogger("components.deployment").setLevel(logging.INFO)  # which version answers is worth a line
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
