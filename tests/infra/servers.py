"""The services of `infra/compose.yaml` without a container engine: its own commands and settings, started by hand.

PostgreSQL is Debian's, the S3-compatible server is moto's (PyPI), MLflow and Prefect are started with the very commands
of the compose file; only host names and ports are put in their place.
"""

import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.conftest import ROOT

INFRA = ROOT / "infra"
START_SECONDS = 300
ROOT_CERTIFICATE = "caddy/pki/authorities/local/root.crt"
SETTINGS = {
    "POSTGRES_PASSWORD": secrets.token_hex(8),
    "S3_ACCESS_KEY": "lacewing",
    "S3_SECRET_KEY": secrets.token_hex(8),
    "LACEWING_API_KEY": secrets.token_hex(8),
    "DOMAIN": "lacewing.example.org",
    **dict.fromkeys(("OIDC_ISSUER_URL", "OIDC_CLIENT_ID", "OIDC_CLIENT_SECRET", "OIDC_COOKIE_SECRET"), "x"),
    **dict.fromkeys(("OIDC_EMAIL_DOMAINS", "MACHINE_USER", "MACHINE_PASSWORD_HASH"), "x"),
}


def compose() -> dict[str, Any]:
    """The compose file with its variables put in."""
    text = (INFRA / "compose.yaml").read_text()

    def value(match: re.Match[str]) -> str:
        name, _, default = match[1].partition(":-")
        return SETTINGS.get(name.partition(":?")[0], default)

    content: dict[str, Any] = yaml.safe_load(re.sub(r"\$\{([^}]*)\}", value, text))
    return content


def postgres_programs() -> Path | None:
    """Folder of Debian's newest PostgreSQL; ``None`` if it is not installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    if found:
        return found[-1].parent
    program = shutil.which("initdb")
    return Path(program).resolve().parent if program else None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Postgres:
    """A PostgreSQL server with the two databases of the compose file; it can be stopped and started again."""

    def __init__(self, programs: Path) -> None:
        self.programs, self.port = programs, free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="lacewing-postgres-"))
        # PostgreSQL does not run as root.
        self.user = {"user": "postgres", "group": "postgres"} if os.geteuid() == 0 else {}
        if self.user:
            shutil.chown(self.folder, "postgres", "postgres")
        password = self.folder / "password"
        password.write_text(SETTINGS["POSTGRES_PASSWORD"])
        password.chmod(0o644)
        self._run("initdb", "-D", str(self.data), "-U", "lacewing", "-A", "scram-sha-256", f"--pwfile={password}")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def start(self) -> None:
        options = ["-p", str(self.port), "-k", str(self.folder), "-h", "127.0.0.1", "-c", "fsync=off"]
        command = [str(self.programs / "postgres"), "-D", str(self.data), *options]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder, **self.user)  # type: ignore[call-overload]
        deadline = time.monotonic() + START_SECONDS
        while self._psql("postgres", "SELECT 1") and time.monotonic() < deadline:
            time.sleep(0.2)

    def make_databases(self) -> None:
        """What the image does: the database that a variable names, then our file."""
        assert self._psql("postgres", "CREATE DATABASE mlflow") == 0
        assert self._psql("mlflow", (INFRA / "compose" / "databases.sql").read_text()) == 0

    def stop(self) -> None:
        if self._process:
            self._process.send_signal(2)  # without waiting for clients to leave
            self._process.wait(60)
            self._process = None

    def _psql(self, database: str, statements: str) -> int:
        command = ["psql", "-q", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-p", str(self.port), "-U", "lacewing"]
        password = {"PGPASSWORD": SETTINGS["POSTGRES_PASSWORD"]}
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        done = subprocess.run([*command, database], input=statements, text=True, env=os.environ | password, **quiet)  # type: ignore[call-overload]
        return int(done.returncode)

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self.programs / program), *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=self.folder, **self.user)  # type: ignore[call-overload]


class Place:
    """Where the services of the compose file are here: ``postgres:5432`` is another port of this machine, and so on."""

    def __init__(self) -> None:
        self.postgres: Postgres
        self.ports = {"postgres:5432": 0, "s3:7070": 0, "mlflow:5000": 0, "prefect:4200": 0}

    def translated(self, text: str) -> str:
        for name, port in self.ports.items():
            text = text.replace(name, f"127.0.0.1:{port}")
        return text.replace(f"mlflow.{SETTINGS['DOMAIN']}", "localhost:*")  # the proxy's name for it

    def environment(self, service: str) -> dict[str, str]:
        """Of a service of the compose file, beside that of this process."""
        own = compose()["services"][service].get("environment", {})
        unwanted = {"LACEWING_WORKSPACE", "PREFECT_HOME", "PREFECT_API_URL"}
        kept = {name: value for name, value in os.environ.items() if name not in unwanted}
        return {**kept, "PYTHONPATH": str(ROOT), **{name: self.translated(str(own[name])) for name in own}}

    def command(self, service: str) -> list[str]:
        """Of a service; programs of Python are those of this environment."""
        words = [self.translated(str(word)) for word in compose()["services"][service]["command"]]
        port = {"mlflow": "5000", "prefect": "4200"}.get(service)
        words = [str(self.ports[f"{service}:{port}"]) if word == port else word for word in words]
        words = ["127.0.0.1" if word == "0.0.0.0" else word for word in words]
        programs = {"python": [sys.executable], "mlflow": [sys.executable, "-m", "mlflow"]}
        return [*programs.get(words[0], [words[0]]), *words[1:]]


@contextmanager
def running(command: list[str], environment: Mapping[str, str], log: Path, health: str) -> Iterator[None]:
    """A server process while the block lasts; it must answer at ``health`` first."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=dict(environment), stdout=output, stderr=output, start_new_session=True, cwd=log.parent
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while not answers(health):
            assert process.poll() is None, f"{command} ended:\n{log.read_text()[-3000:]}"
            assert time.monotonic() < deadline, f"{command} does not answer:\n{log.read_text()[-3000:]}"
            time.sleep(0.5)
        yield
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, 15)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.wait()


@contextmanager
def proxy(folder: Path, places: Mapping[str, str], sites: Mapping[str, str], password: str) -> Iterator[int]:
    """Debian's Caddy with the file of the compose file; yields its port for HTTPS.

    Args:
        folder: for its files; its authority's certificate comes to lie in ``ROOT_CERTIFICATE`` there.
        places: where the services are that the file names.
        sites: other addresses for its names, where ``prefect.localhost`` and so on cannot be used.
        password: of machines.

    Skips the test without Caddy.
    """
    caddy = shutil.which("caddy")
    if caddy is None:
        pytest.skip("caddy is not installed: apt install caddy")
    port, plain = free_port(), free_port()
    hashed = subprocess.run(
        [caddy, "hash-password", "--plaintext", password], capture_output=True, text=True, check=True
    )
    text = (INFRA / "compose" / "Caddyfile").read_text()
    text = text.replace("admin off", f"admin off\n\thttp_port {plain}\n\thttps_port {port}\n\tskip_install_trust", 1)
    for name, site in sites.items():
        text = text.replace(f"\n{name}.{{$DOMAIN}} {{", f"\n{site} {{")
    for name, place in places.items():
        text = text.replace(name, place)
    (folder / "Caddyfile").write_text(text)
    settings = {"DOMAIN": "localhost", "MACHINE_USER": "machine", "MACHINE_PASSWORD_HASH": hashed.stdout.strip()}
    environment = {**settings, "HOME": str(folder), "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    command = [caddy, "run", "--adapter", "caddyfile", "--config", str(folder / "Caddyfile")]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not (folder / ROOT_CERTIFICATE).exists() or not _listens(port):
            assert time.monotonic() < deadline, (folder / "log").read_text()
            assert process.poll() is None, (folder / "log").read_text()
            time.sleep(0.2)
        yield port
    finally:
        process.terminate()
        process.wait(20)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).status_code < 500
    except httpx.HTTPError:
        return False


def health_of(service: str) -> str:
    """The address that the health check of a service of the compose file asks."""
    text = " ".join(map(str, compose()["services"][service]["healthcheck"]["test"]))
    found = re.search(r"http://[\w.:/-]+", text)
    assert found
    return found[0]


@contextmanager
def services(programs: Path, logs: Path) -> Iterator[Place]:
    """PostgreSQL, an S3-compatible server, and MLflow, as the compose file starts them."""
    place = Place()
    with ExitStack() as stack:
        place.postgres = Postgres(programs)
        place.postgres.start()
        stack.callback(place.postgres.stop)
        place.postgres.make_databases()
        place.ports = {name: free_port() for name in place.ports} | {"postgres:5432": place.postgres.port}
        store = ["-m", "moto.server", "-H", "127.0.0.1", "-p", str(place.ports["s3:7070"])]
        address = place.translated("http://s3:7070/")
        stack.enter_context(running([sys.executable, *store], place.environment("s3"), logs / "s3.log", address))
        subprocess.run(place.command("bucket"), env=place.environment("bucket"), check=True)
        health = health_of("mlflow").replace("127.0.0.1:5000", "mlflow:5000")
        server = (place.command("mlflow"), place.environment("mlflow"), logs / "mlflow.log", place.translated(health))
        stack.enter_context(running(*server))
        yield place


class Machine:
    """A process with a workspace of its own, which shares the services."""

    def __init__(self, place: Place, workspace: Path, **settings: str) -> None:
        self.workspace = workspace
        environment = place.environment("worker") | {"LACEWING_WORKSPACE": str(workspace)} | settings
        self.log = workspace.with_suffix(".log")
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.infra.machine"],
                env=environment,
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def tell(self, verb: str, *arguments: Any) -> None:
        """Send a command; the machine begins at once."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([verb, *arguments]) + "\n")
        self.process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        """The answer to the oldest command that has not been answered."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.log.read_text()[-3000:]
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ask(self, verb: str, *arguments: Any) -> Any:
        """What a command returns, which must succeed."""
        self.tell(verb, *arguments)
        answer = self.answer()
        assert "result" in answer, answer
        return answer["result"]

    def stop(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(30)
