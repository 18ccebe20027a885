"""Brings a stage up to date: a Prefect task, an MLflow run and a folder named by the stage's content key.

With the same key and intact files, the stage is skipped, and the flow says why. Otherwise it is launched, and the flow
says what changed. If two runs want the same key, the second waits and uses the result. This is the only cache;
Prefect's result cache stays off, because it misses edited helper functions and lost files.
"""

import math
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from components.core.artifact import RECORD, Artifact
from components.core.durations import duration
from components.core.errors import ArtifactError, InputError
from components.core.identity import Identity
from components.core.record_digest import RECORD_DIGEST, identity_fault, keep_record_digest, record_fault
from components.core.worker import Request
from flows import console
from flows.adapters import prefect_ui
from flows.adapters.mlflow_runs import FlowTracker
from flows.launcher import Launcher, WorkerKilledError, kept_by
from flows.run import Outcome, StageCall
from flows.workspace import artifact_folder, newest_artifact

UP_TO_DATE = "same key, files intact"
FIRST_RUN = "first run"


class StageExecutor:
    """The ``StageRunner`` of a real run: skips what is up to date and has the launcher do the rest."""

    def __init__(self, launcher: Launcher, tracker: FlowTracker) -> None:
        self.launcher = launcher
        self.tracker = tracker

    def bring_up_to_date(self, call: StageCall) -> Outcome:
        """Skip the stage or run it, as a task of the flow's Prefect run; a killed stage is tried again."""
        identity = identity_of(call, contents_of(call.inputs))
        folder = artifact_folder(identity.stage, identity.key)
        return prefect_ui.run_as_task(
            lambda: self._bring_up_to_date(call, identity),
            name=identity.stage,
            run_name=f"{identity.stage}-{identity.key[:8]}",
            retries=call.stage.retries,
            retry_on=WorkerKilledError,
            kept=lambda: kept_by(folder),
        )

    def _bring_up_to_date(self, call: StageCall, identity: Identity) -> Outcome:
        folder = artifact_folder(identity.stage, identity.key)
        started = time.monotonic()
        with only_writer(folder):
            reason = why_it_must_run(folder, identity)
            if reason is None:
                artifact = self._skip(call, folder)
            elif call.made_by:
                raise InputError(f"{call.title} is not up to date ({reason}): run `{call.made_by}` first")
            else:
                artifact = self._run(call, identity, folder, reason)
        seconds = time.monotonic() - started
        outcome = Outcome(artifact, "ran" if reason else "skipped", reason or UP_TO_DATE, seconds)
        _show(outcome)
        return outcome

    def _skip(self, call: StageCall, folder: Path) -> Artifact:
        artifact = Artifact.open(folder)
        keep_record_digest(artifact)  # if it is from before there were digests
        prefect_ui.tell(f"{call.title:<10} skipped: {UP_TO_DATE} ({folder.name})")
        self.tracker.upload(artifact)  # if that could not be done when it was made
        return artifact

    def _run(self, call: StageCall, identity: Identity, folder: Path, reason: str) -> Artifact:
        prefect_ui.tell(f"{call.title:<10} runs: {reason}")
        started = time.monotonic()
        _clear_unless_resumable(folder)
        with (
            self.tracker.following(folder, identity, call.inputs.values()) as tracker,
            prefect_ui.progress(identity.stage) as bar,
            closing(self.launcher.launch(_request(call, identity), folder)) as events,
        ):
            for event in events:
                tracker.take(event)
                bar.take(event)
                call.watch(identity.stage, event)
            artifact = Artifact.open(folder)
            keep_record_digest(artifact)
            tracker.finish(artifact)
        prefect_ui.tell(f"{call.title:<10} done in {duration(time.monotonic() - started)}")
        return artifact


def contents_of(inputs: Mapping[str, Artifact]) -> dict[str, str]:
    """By what the inputs enter a key."""
    return {name: artifact.content for name, artifact in inputs.items()}


def identity_of(call: StageCall, contents: Mapping[str, str]) -> Identity:
    """The identity of the stage for inputs of these contents."""
    return Identity.of(call.stage.name, call.stage.function, call.config, {**contents, **call.sources})


def why_it_must_run(folder: Path, identity: Identity) -> str | None:
    """Why the stage cannot be skipped, in words; ``None`` if its artifact is there and intact."""
    if not (folder / RECORD).exists():
        if _has_checkpoint(folder):
            return "an earlier run was interrupted; resuming from its checkpoint"
        return _what_changed(identity)
    try:
        artifact = Artifact.open(folder)
        fault = record_fault(artifact) or identity_fault(artifact.record.identity, identity) or artifact.fault()
    except ArtifactError as error:
        fault = str(error)
    return f"made again, because the artifact is damaged: {fault}" if fault else None


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; a second flow that wants the same key waits here and then finds it done."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.with_suffix(".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        console.say(f"another run is making {folder.parent.name} {folder.name}; waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _what_changed(identity: Identity) -> str:
    """Compare with the newest finished artifact of the same stage."""
    newest = newest_artifact(identity.stage)
    if newest is None:
        return FIRST_RUN
    return "; ".join(identity.changes_since(newest.record.identity)) or "no finished artifact with this key"


def _has_checkpoint(folder: Path) -> bool:
    return any(folder.glob("checkpoints/*"))


def _clear_unless_resumable(folder: Path) -> None:
    """Empty the folder, but keep the checkpoints of an interrupted run: same key, so same config, code and data."""
    if folder.exists() and ((folder / RECORD).exists() or not _has_checkpoint(folder)):
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RECORD_DIGEST).unlink(missing_ok=True)


def _request(call: StageCall, identity: Identity) -> Request:
    config_type = type(call.config)
    return Request(
        function=call.stage.function,
        config_type=f"{config_type.__module__}:{config_type.__qualname__}",
        config=call.config.model_dump(mode="json"),
        inputs={name: artifact.folder for name, artifact in call.inputs.items()},
        identity=identity,
        accepted=list(call.accepted),
    )


def _show(outcome: Outcome) -> None:
    """Publish the outcome of the stage as a table in Prefect."""
    record = outcome.artifact.record
    facts: dict[str, Any] = {
        "status": outcome.status,
        "reason": outcome.reason,
        "time": duration(outcome.seconds),
        "key": record.identity.key,
        "folder": str(outcome.artifact.folder),
        **record.metrics,
        **{name: value for name, value in record.details.items() if isinstance(value, str | int | float | bool)},
    }
    stage = record.identity.stage
    rows = [(name, readable(value)) for name, value in facts.items()]
    prefect_ui.table(f"{stage}-result", rows, f"{stage}: {outcome.status}, {outcome.reason}")


def readable(value: str | float | bool) -> str:
    """A fact for people: ``1,967,808`` rather than 1.96781e+06, and four digits of what is small."""
    if isinstance(value, str | bool):
        return str(value)
    if math.isfinite(value) and (value == int(value) or abs(value) >= 1000):
        return f"{value:,.0f}"
    return f"{value:.4g}"
