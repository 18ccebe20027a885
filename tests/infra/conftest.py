"""The shared services of a team, once for all tests that need them."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.infra.servers import Place, Postgres, free_port, health_of, postgres_programs, running


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


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """PostgreSQL, an S3-compatible server, and MLflow, as the compose file starts them."""
    programs = postgres_programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed: apt install postgresql")
    if missing := [name for name in ("psycopg", "moto", "dvc_s3", "boto3") if find_spec(name) is None]:
        pytest.skip(f"not installed: {', '.join(missing)}; make infra-test does")
    logs, place = tmp_path_factory.mktemp("services"), Place()
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


@pytest.fixture(scope="module")
def machines(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Machine, Machine]]:
    folder = tmp_path_factory.mktemp("machines")
    both = Machine(place, folder / "first"), Machine(place, folder / "second")
    yield both
    for machine in both:
        machine.stop()
