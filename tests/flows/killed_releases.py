"""Registration and promotion of a real bundle in processes that strace kills; imported by their fork server."""

import os
import re
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import mlflow.store.model_registry.sqlalchemy_store
import mlflow.store.tracking.sqlalchemy_store  # noqa: F401 - loaded once, before the processes part
import torch

from components.core.artifact import Artifact
from components.model.bundle import Bundle
from conf.services import TrackingConfig
from flows.adapters.mlflow_registry import MODEL_ID
from flows.promotion import CHALLENGER, CHAMPION, Registry
from tests.flows.killed_moves import State, state

# Calls by which a process changes what others see: files, folders, and the locks of SQLite and of our own.
CALLS = (
    "write,pwrite64,writev,fsync,fdatasync,ftruncate,rename,renameat,renameat2,unlink,unlinkat,mkdir,rmdir,fcntl,flock"
)
# Where registration ends and promotion begins: a call that does nothing, for the reader of strace's log.
MARK = "/registered"


@dataclass(frozen=True)
class Found:
    """What lies there after a kill, and what came of the commands that followed."""

    seen: int
    """The champion before anybody repaired anything."""
    settled: State
    registered: dict[str, int]
    """Number of versions of each bundle, by its key."""
    described: list[str]
    challenger: int


def release(workspace: Path, folder: Path, log: Path, kill: tuple[str, int] | None = None) -> None:
    """Register and promote the bundle in ``folder``; strace writes its calls to ``log``, and kills it at ``kill``.

    Arguments:
        kill: name of a system call, and how many of that name there are up to it.
    """
    registry = _registry(workspace)
    _be_traced(log, kill)
    _release(registry, folder)


def examine(workspace: Path, answer: Connection) -> None:
    """What a killed release has left: whether the champion can be loaded, and what the ledger says."""
    answer.send(_examined(_registry(workspace)))


def repeat(workspace: Path, folder: Path, answer: Connection) -> None:
    """Release the bundle again, then roll back; sends what is found after each."""
    registry = _registry(workspace)
    _release(registry, folder)
    released = _examined(registry)
    registry.rollback("it lies", by="carol")
    answer.send([released, _examined(registry)])


def _release(registry: Registry, folder: Path) -> None:
    """As ``flows.release`` does for a model that the gate lets pass."""
    champion = registry.champion()
    bundle = Artifact.open(folder)
    verdict = {"lacewing.gate": "promote", "lacewing.gate_reason": "better"}
    version = registry.register(bundle, {"lacewing.flow": "release"}, verdict)
    with suppress(FileNotFoundError):
        Path(MARK).rmdir()
    registry.promote(version.number, "better", by="alice", judged_against=champion.key if champion else "")


def _examined(registry: Registry) -> Found:
    champion = registry.version(CHAMPION)
    assert champion is not None
    model = Bundle.open(registry.resolve(CHAMPION).folder).load()
    assert all(bool(torch.isfinite(weight).all()) for weight in model.parameters())
    assert registry.ledger_fault() is None
    assert registry.ledger.interrupted() is None
    last = registry.ledger.last()
    assert last is not None
    assert last.version == champion.number
    client = registry.connection.client
    versions = registry.versions()
    challenger = registry.version(CHALLENGER)
    number, tags, moves = state(registry)
    return Found(
        champion.number,
        (number, [(each, {**described, MODEL_ID: ""}) for each, described in tags], moves),
        {key: sum(each.key == key for each in versions) for key in {each.key for each in versions}},
        [_stable(client.get_model_version(registry.name, str(each.number)).description) for each in versions],
        challenger.number if challenger else 0,
    )


def _stable(description: str | None) -> str:
    """Without the ids that MLflow draws."""
    return re.sub("m-[0-9a-f]{32}", "", description or "")


def _registry(workspace: Path) -> Registry:
    os.environ["LACEWING_WORKSPACE"] = str(workspace)
    registry = Registry(TrackingConfig())
    registry.versions()  # connected before anything is counted
    return registry


def _be_traced(log: Path, kill: tuple[str, int] | None) -> None:
    """Return when strace watches this thread."""
    command = ["strace", "-q", "-o", str(log), "-e", f"trace={CALLS}", "-p", str(os.getpid())]
    if kill is not None:
        command += ["-e", f"inject={kill[0]}:signal=SIGKILL:when={kill[1]}"]
    subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=sys.stderr)
    deadline = time.monotonic() + 60
    while "TracerPid:\t0\n" in Path("/proc/self/status").read_text():
        assert time.monotonic() < deadline, "strace does not trace this process"
        time.sleep(0.01)
