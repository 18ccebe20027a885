"""A machine of a team: a process with a workspace of its own. Reads one JSON command per line, answers with one each.

``python -m tests.infra.machine``, with the addresses of the shared services in its environment.
"""

import json
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from mlflow.exceptions import MlflowException

from components.core.artifact import Artifact
from components.core.errors import LacewingError
from components.core.identity import RecordedIdentity, digest_json
from components.core.run import Run
from components.data.prepared import PreparedData
from conf.services import TrackingConfig, VersioningConfig
from flows.adapters import dvc
from flows.adapters.mlflow_logged_model import KEY
from flows.promotion import CHAMPION, Registry
from flows.workspace import artifact_folder


def seal(stage: str, files: dict[str, str]) -> Artifact:
    """An artifact as a stage makes it."""
    parts: dict[str, Any] = {"stage": stage, "config": {}, "inputs": {}, "code": {"a": "b"}, "environment": {}}
    identity = RecordedIdentity(key=digest_json([parts, sorted(files.items())])[:32], **parts)
    run = Run.recorded(artifact_folder(stage, identity.key), identity)
    for name, content in files.items():
        path = run.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return run.seal({"bits_per_byte": 1.5}, {"description": "made for a test"})


def prepare(text: str) -> str:
    """Prepare data and push it; returns the name by which others pull it."""
    artifact = seal("prepare", {f"{PreparedData.RAW}/text.jsonl": text, "shards/train.bin": text * 50})
    versions = dvc.ensure_versioned(artifact, VersioningConfig())
    assert all(version.pushed for version in versions), versions
    return dvc.name_of(artifact)


def pull(name: str) -> str:
    return (dvc.pull(name, VersioningConfig()).folder / PreparedData.RAW / "text.jsonl").read_text()


def listed() -> list[str]:
    return [name for name, _ in dvc.listed(VersioningConfig())]


def register(text: str) -> tuple[int, str]:
    files = dict.fromkeys(("config.json", "tokenizer.json", "manifest.json"), "{}")
    bundle = seal("bundle", {"model.safetensors": text, **files})
    return Registry(TrackingConfig()).register(bundle).number, bundle.key


def add(key: str) -> tuple[int, str]:
    """A version without files, which takes one request and not some hundred."""
    registry = Registry(TrackingConfig())
    with suppress(MlflowException):  # there is one
        registry.connection.client.create_registered_model(registry.name)
    made = registry.connection.client.create_model_version(registry.name, "s3://lacewing/none", tags={KEY: key})
    return int(made.version), key


def promote(number: int, against: str | None, by: str) -> int:
    return Registry(TrackingConfig()).promote(number, "better", by=by, judged_against=against).number


def rollback(by: str) -> int:
    return Registry(TrackingConfig()).rollback("it lies", by=by).number


def champion() -> int:
    version = Registry(TrackingConfig()).version(CHAMPION)
    return version.number if version else 0


def weights() -> str:
    """Those of the champion, fetched from wherever they are."""
    bundle = Registry(TrackingConfig()).champion()
    assert bundle is not None
    return (bundle.folder / "model.safetensors").read_text()


VERBS: dict[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (prepare, pull, listed, register, add, promote, rollback, champion, weights)
}

if __name__ == "__main__":
    import mlflow.store.model_registry.rest_store
    import mlflow.store.tracking.rest_store  # noqa: F401 - so that two machines that are told at once act at once

    answers, sys.stdout = sys.stdout, sys.stderr  # MLflow prints where its runs are
    for line in sys.stdin:
        verb, *arguments = json.loads(line)
        try:
            answer = {"result": VERBS[verb](*arguments)}
        except LacewingError as error:
            answer = {"error": type(error).__name__, "words": str(error)}
        print(json.dumps(answer), flush=True, file=answers)
