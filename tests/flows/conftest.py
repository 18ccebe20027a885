"""Artifacts made the way stages make them, and a database that is ready."""

import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from components.core.artifact import Artifact
from components.core.identity import RecordedIdentity, digest_json
from components.core.run import Run
from flows.workspace import artifact_folder

MakeArtifact = Callable[..., Artifact]


@pytest.fixture(scope="session", autouse=True)
def _no_heartbeats() -> Iterator[None]:
    """Without a pulse, which beats every three minutes: at its end a flow waits up to a second for the thread of it."""
    from prefect.flow_engine import BaseFlowRunEngine

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BaseFlowRunEngine, "heartbeat_seconds", None)
        yield


@pytest.fixture(scope="session")
def migrated_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's SQLite file after its migrations, with the default experiment that the first client adds."""
    from mlflow import MlflowClient

    from flows.adapters.mlflow_database import bring_up_to_date

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    bring_up_to_date(path)
    MlflowClient(tracking_uri=f"sqlite:///{path}", registry_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def database(workspace: Path, migrated_database: Path) -> Path:
    """Give the workspace a database that is ready; without it MLflow makes the same one in the first call."""
    workspace.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copy(migrated_database, workspace / "mlflow.db"))


@pytest.fixture
def make_artifact(workspace: Path) -> MakeArtifact:
    """Seal an artifact in the workspace; ``files`` maps names to contents."""

    def make(
        stage: str,
        files: Mapping[str, str | bytes],
        metrics: Mapping[str, float] | None = None,
        inputs: Mapping[str, str] | None = None,
        config: Mapping[str, Any] | None = None,
        events: int = 0,
        details: Mapping[str, Any] | None = None,
    ) -> Artifact:
        parts = {
            "stage": stage,
            "config": dict(config or {}),
            "inputs": dict(inputs or {}),
            "code": {"components.pretrain.stage": "c0de"},
            "environment": {"torch": "2.13.0"},
        }
        identity = RecordedIdentity(key=digest_json([parts, sorted(map(str, files.items()))])[:32], **parts)
        run = Run.recorded(artifact_folder(stage, identity.key), identity)
        for name, content in files.items():
            path = run.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        for step in range(events):
            run.log({"loss": 5 - step / 100}, step)
            run.report(step / events, "training")
        return run.seal(dict(metrics or {}), dict(details or {}))

    return make


@pytest.fixture
def data(make_artifact: MakeArtifact) -> Artifact:
    files = {"raw/world/documents.jsonl": "{}\n", "shards/index.json": "{}", "shards/train.bin": b"\1\2" * 500}
    return make_artifact("prepare", {**files, "tokenizer/tokenizer.json": "{}"}, config={"vocab_size": 512})


@pytest.fixture
def model(make_artifact: MakeArtifact, data: Artifact) -> Artifact:
    return make_artifact(
        "pretrain",
        {"model/model.safetensors": b"w" * 4000, "history.jsonl": "{}\n"},
        metrics={"loss": 3.5, "parameters": 1000},
        inputs={"prepared": data.content},
        config={"model": {"layers": 2, "name": "quick"}, "trainer": {"seeds": [1, 2]}},
        events=30,
    )


@pytest.fixture
def make_bundle(make_artifact: MakeArtifact, data: Artifact) -> Callable[[str], Artifact]:
    def make(weights: str) -> Artifact:
        files = {"model.safetensors": weights * 100, "config.json": "{}", "tokenizer.json": "{}", "manifest.json": "{}"}
        metrics = {"assessment.bits_per_byte": 1.25, "parameters": 2000.0}
        details = {"description": "2,000 parameters", "tags": {"bits_per_byte": "1.250000"}}
        return make_artifact(
            "bundle", files, metrics=metrics, inputs={"delegated": "f" * 32, "prepared": data.content}, details=details
        )

    return make


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system that takes no writes; the right to write alone would not stop root."""
    folder = tmp_path / "read-only"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode == 0:
        yield folder
        subprocess.run(["umount", str(folder)], check=True)
    elif os.geteuid() == 0:
        pytest.skip("root may write everywhere, and this one may not mount a read-only disk")
    else:
        folder.chmod(0o555)
        yield folder
        folder.chmod(0o755)


@pytest.fixture(scope="session")
def closed_port() -> int:
    """A loopback port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
