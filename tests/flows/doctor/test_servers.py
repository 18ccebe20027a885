"""MLflow and Prefect: servers of another version, silent ones, damaged databases."""

import socket
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from pathlib import Path

import pytest

from conf.compose import compose_project
from conf.schema import ProjectConfig
from flows.adapters.databases import revisions
from flows.doctor import servers
from flows.doctor.finding import Finding

Serve = Callable[[dict[str, str | int]], str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """A server that gives these answers, text or a status, by path; returns its address."""
    made: list[ThreadingHTTPServer] = []

    def start(answers: dict[str, str | int]) -> str:
        class Answering(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                answer = answers.get(self.path, 404)
                self.send_response(200 if isinstance(answer, str) else answer)
                self.end_headers()
                self.wfile.write(str(answer).encode())

            def log_message(self, *_: object) -> None: ...

        made.append(ThreadingHTTPServer(("127.0.0.1", 0), Answering))
        threading.Thread(target=made[-1].serve_forever, args=(0.01,), daemon=True).start()
        return f"http://127.0.0.1:{made[-1].server_port}"

    yield start
    for server in made:
        server.shutdown()
        server.server_close()


def tracked(uri: str) -> ProjectConfig:
    return compose_project("world", [f"tracking.uri={uri}"])


def test_a_server_of_our_version_is_in_order_and_another_version_a_warning(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = serve({"/health": "OK", "/version": metadata.version("mlflow")})
    assert servers.mlflow(tracked(ours)).state == "ok"
    found = servers.mlflow(tracked(serve({"/health": "OK", "/version": "2.22.0"})))
    assert (found.state, "is MLflow 2.22.0" in found.found) == ("warning", True)
    old = serve({"/api/health": "true", "/api/admin/version": '"3.4.1"'})
    monkeypatch.setenv("PREFECT_API_URL", f"{old}/api")
    found = servers.prefect()
    assert (found.state, "is Prefect 3.4.1" in found.found) == ("warning", True)


def test_a_silent_server_and_a_stranger_are_faults(
    serve: Serve, closed_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = servers.mlflow(tracked(f"http://127.0.0.1:{closed_port}"))
    assert (found.state, "does not answer (" in found.found) == ("fault", True)
    found = servers.mlflow(tracked(f"postgresql://me:secret@127.0.0.1:{closed_port}/mlflow"))
    assert (found.state, "secret" in found.found) == ("fault", False)
    monkeypatch.setenv("PREFECT_API_URL", f"{serve({})}/api")
    found = servers.prefect()
    assert (found.state, "does not look like Prefect (status 404)" in found.found) == ("fault", True)
    assert "unset PREFECT_API_URL" in found.remedy
    assert servers.mlflow(tracked(serve({"/health": "OK"}))).state == "fault"


def test_what_speaks_no_http_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def greet() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"220 mail\r\n")

        threading.Thread(target=greet, daemon=True).start()
        monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{listening.getsockname()[1]}/api")
        found = servers.prefect()
    assert (found.state, "does not answer (220 mail" in found.found) == ("fault", True)


def test_a_server_that_refuses_says_what_it_wants(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "export MLFLOW_TRACKING_USERNAME=" in servers.mlflow(tracked(serve({"/health": 401}))).remedy
    assert "--allowed-hosts 127.0.0.1" in servers.mlflow(tracked(serve({"/health": 403}))).remedy
    monkeypatch.setenv("PREFECT_API_URL", f"{serve({'/api/health': 401})}/api")
    assert servers.prefect().remedy == "export PREFECT_API_AUTH_STRING=user:password"


def test_the_address_may_be_in_a_profile(closed_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    assert "a flow brings its own" in servers.prefect().found
    address = f"http://127.0.0.1:{closed_port}/api"
    (tmp_path / "profiles.toml").write_text(f'active = "far"\n[profiles.far]\nPREFECT_API_URL = "{address}"\n')
    found = servers.prefect()
    assert (found.state, address in found.found) == ("fault", True)


@pytest.fixture
def revised(workspace: Path) -> Callable[[str], Path]:
    """A database of MLflow's with this revision of its schema."""

    def make(revision: str) -> Path:
        workspace.mkdir(exist_ok=True)
        path = workspace / "mlflow.db"
        path.unlink(missing_ok=True)
        with closing(sqlite3.connect(path)) as database:
            database.execute("CREATE TABLE alembic_version (version_num TEXT)")
            database.execute("INSERT INTO alembic_version VALUES (?)", [revision])
            database.commit()
        return path

    return make


def test_the_schema_is_compared_with_what_the_package_knows(
    revised: Callable[[str], Path], settings: ProjectConfig
) -> None:
    newest, known = revisions("mlflow")
    revised(newest)
    assert servers.mlflow(settings).state == "ok"
    revised(next(iter(known - {newest})))
    found = servers.mlflow(settings)
    assert (found.state, "which the next flow migrates" in found.found) == ("ok", True)
    path = revised("ffffffffffff")
    found = servers.mlflow(settings)
    assert (found.state, "made by a newer mlflow" in found.found) == ("fault", True)
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE _alembic_tmp_runs (name TEXT)")
    found = servers.mlflow(settings)
    assert (found.state, found.remedy) == ("warning", "lacewing sync")


def test_a_damaged_database_is_a_fault(
    revised: Callable[[str], Path], settings: ProjectConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = revised(revisions("mlflow")[0])
    content = path.read_bytes()
    path.write_bytes(content[:5000])
    expect_damage(servers.mlflow(settings), path, "&& lacewing sync")
    path.write_bytes(b"SQLite format 2" + content[15:])
    expect_damage(servers.mlflow(settings), path, "&& lacewing sync")
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    (tmp_path / "prefect.db").write_bytes(b"no database at all" * 100)
    expect_damage(servers.prefect_database(), tmp_path / "prefect.db", "")


def expect_damage(found: Finding, path: Path, then: str) -> None:
    assert (found.state, f"{path} is damaged" in found.found) == ("fault", True), found
    assert found.remedy == f"mv {path} {path}.damaged {then}".strip()


def test_a_locked_database_is_a_warning_and_soon_told(
    revised: Callable[[str], Path], settings: ProjectConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.adapters.databases.TIMEOUT_SECONDS", 0.1)
    path = revised(revisions("mlflow")[0])
    with closing(sqlite3.connect(path)) as other:
        other.execute("BEGIN EXCLUSIVE")
        found = servers.mlflow(settings)
    assert (found.state, "locked by another program" in found.found) == ("warning", True)


def test_every_revision_of_both_packages_is_known() -> None:
    for owner in ("mlflow", "prefect"):
        newest, known = revisions(owner)  # type: ignore[arg-type]
        assert newest in known
        assert len(known) > 50
