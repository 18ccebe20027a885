"""A place to run the command as a user would, with every socket of every process written down."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.conftest import ROOT

COMMAND = str(Path(sys.executable).with_name("lacewing"))
LOOPBACK = {"127.0.0.1", "::1", "localhost", "0.0.0.0", ""}


@dataclass(frozen=True)
class Place:
    """A workspace, the log of sockets, and the command."""

    workspace: Path
    sockets: Path

    @property
    def environment(self) -> Mapping[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))}
        return {
            **inherited,
            "LACEWING_WORKSPACE": str(self.workspace),
            "LACEWING_SOCKET_LOG": str(self.sockets),
            # This checkout, wherever the command itself may have been installed from.
            "PYTHONPATH": os.pathsep.join(map(str, (ROOT / "tests" / "audit", ROOT))),
            "COLUMNS": "200",
        }

    def run(self, *arguments: str, timeout_seconds: int = 600) -> subprocess.CompletedProcess[str]:
        """Run ``lacewing ARGUMENTS`` to its end."""
        return subprocess.run(
            [COMMAND, *arguments],
            env=self.environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=timeout_seconds,
            stdin=subprocess.DEVNULL,
        )

    def start(self, *arguments: str, output: Path) -> subprocess.Popen[bytes]:
        """Start ``lacewing ARGUMENTS``; what it prints goes to ``output``."""
        with output.open("wb") as file:
            return subprocess.Popen(
                [COMMAND, *arguments],
                env=self.environment,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
            )

    def processes(self) -> list[psutil.Process]:
        """Every living process of this workspace."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                mine = process.environ().get("LACEWING_WORKSPACE") == str(self.workspace)
                if mine and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def outside_connections(self) -> list[str]:
        """Lines of the socket log that name a host other than this machine."""
        lines = (line.split("\t") for line in self.sockets.read_text().splitlines())
        return [
            "\t".join(fields)
            for fields in lines
            if fields[1] != "start" and fields[2] not in LOOPBACK and not fields[2].startswith(("127.", "/", "None"))
        ]

    def watched_commands(self) -> str:
        """Command lines of all processes that the log covers."""
        return "\n".join(line.split("\t")[3] for line in self.sockets.read_text().splitlines() if "\tstart\t" in line)


def free_port() -> int:
    """A loopback port on which nothing listens at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


Up = tuple[Place, subprocess.Popen[str], str, str]
"""A place in which ``lacewing up`` runs, its process, and the addresses of Prefect and MLflow."""


@contextmanager
def running_platform(folder: Path) -> Iterator[Up]:
    """``lacewing up`` on free ports, in a workspace of its own."""
    place = Place(folder / "workspace", folder / "sockets.log")
    prefect, mlflow = free_port(), free_port()
    process = subprocess.Popen(
        [COMMAND, "up", f"prefect_port={prefect}", f"mlflow_port={mlflow}", f"form.data_roots=[{folder}/texts]"],
        env=place.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
    )
    try:
        deadline = time.monotonic() + 500
        while not (place.workspace / "up.json").exists():
            assert process.poll() is None, process.stdout.read() if process.stdout else ""
            assert time.monotonic() < deadline
            time.sleep(0.5)
        yield place, process, f"http://127.0.0.1:{prefect}", f"http://127.0.0.1:{mlflow}"
    finally:
        process.terminate()  # not kill: its services would outlive it
        process.wait(timeout=130)


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("end-to-end")
    return Place(folder / "workspace", folder / "sockets.log")
