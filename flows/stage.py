"""Runs a stage: a Prefect task, an MLflow run and a folder named by the stage's content key.

Same key and intact files: the stage is skipped, and the flow says why. Anything else: it runs in a process of its own,
and the flow says what changed. Two writers of one key: the second waits and reuses. This is the only cache; Prefect's
result cache stays off, because it misses edited helper functions and lost files.
"""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from filelock import FileLock, Timeout
from pydantic import BaseModel

from components.core import errors
from components.core.artifact import RECORD, Artifact, ArtifactRecord
from components.core.durations import duration
from components.core.errors import ArtifactError, LacewingError
from components.core.identity import Identity
from components.core.run import EVENTS
from components.core.worker import ERROR, FOLLOW_PARENT, Request, write_request
from conf.compose import compose_project, digest
from conf.schema import ProjectConfig
from flows import console
from flows.workspace import artifact_folder

if TYPE_CHECKING:
    from flows.release import Release

POLL_SECONDS = 1.0
# A stopped training run finishes its step and writes a checkpoint; a large one takes a while.
STOP_TIMEOUT_SECONDS = 90


@dataclass(frozen=True)
class Stage:
    """What to run: ``function`` and ``config_type`` as ``module:name``, and how often a crash is retried."""

    name: str
    function: str
    config_type: str
    retries: int = 1

    @property
    def module(self) -> str:
        return self.function.partition(":")[0]


class WorkerKilledError(LacewingError):
    """The stage's process was killed from outside, for example for want of memory. Worth another try: it resumes."""

    exit_code = 7


class StageFailedError(LacewingError):
    """The stage raised an error that it does not know how to explain."""


@dataclass(frozen=True)
class Outcome:
    """What became of one stage in one flow."""

    artifact: Artifact
    status: Literal["ran", "skipped", "planned"]
    reason: str
    seconds: float


@dataclass
class FlowRun:
    """One execution of a flow: its configuration, and what its stages have come to so far."""

    flow: str
    preset: str
    overrides: list[str]
    config: ProjectConfig
    dry: bool = False
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    """By stage; where a flow runs a stage several times, by stage and variant."""
    variant: str = ""
    """What sets the stages that run now apart from others of the same name; see ``varied``."""
    release: "Release | None" = None

    @property
    def config_digest(self) -> str:
        return digest(self.config)

    def stage(
        self, stage: Stage, config: BaseModel, *, sources: Mapping[str, str] | None = None, **inputs: Artifact | None
    ) -> Artifact:
        """Bring ``stage`` up to date and return its artifact.

        Args:
            stage: what to run.
            config: its slice of the configuration; with the inputs and the code it decides the key.
            sources: content digests of what the stage reads from outside, by name.
            inputs: artifacts of the stages before it, by the names that the stage's function gives them.
        """
        given = {name: artifact for name, artifact in inputs.items() if artifact is not None}
        keys = {name: artifact.key for name, artifact in given.items()}
        identity = Identity.of(stage.name, stage.function, config, {**keys, **(sources or {})})
        folder = artifact_folder(identity.stage, identity.key)
        if self.dry:
            return self._plan(identity, folder)
        return self._as_task(stage, identity, config, given, folder)

    @contextmanager
    def varied(self, variant: str, config: ProjectConfig) -> Iterator[None]:
        """Within the block, stages take their settings from ``config``, and their outcomes carry ``variant``."""
        before = self.config, self.variant
        self.config, self.variant = config, variant
        try:
            yield
        finally:
            self.config, self.variant = before

    def named(self, stage: str) -> str:
        """The stage as people see it: with its variant, if there is one."""
        return f"{stage} {self.variant}".rstrip()

    def _plan(self, identity: Identity, folder: Path) -> Artifact:
        reason = why_it_must_run(folder, identity)
        record = ArtifactRecord(identity=identity, created=datetime.now(UTC), files={}, metrics={}, details={})
        artifact = Artifact(folder, record) if reason else Artifact.open(folder)
        status: Literal["planned", "skipped"] = "planned" if reason else "skipped"
        name = self.named(identity.stage)
        self.outcomes[name] = Outcome(artifact, status, reason or UP_TO_DATE, 0)
        console.say(f"{name:<10} {'would run' if reason else 'up to date'} ({reason or folder.name})")
        return artifact

    def _as_task(
        self, stage: Stage, identity: Identity, config: BaseModel, inputs: Mapping[str, Artifact], folder: Path
    ) -> Artifact:
        from prefect import task
        from prefect.cache_policies import NO_CACHE
        from prefect.client.schemas.objects import State, TaskRun

        def worth_retrying(task: Any, run: TaskRun, state: State[Any]) -> bool:
            return isinstance(state.result(raise_on_failure=False), WorkerKilledError)

        @task(
            name=stage.name,
            task_run_name=f"{stage.name}-{identity.key[:8]}",
            cache_policy=NO_CACHE,
            persist_result=False,
            retries=stage.retries,
            retry_delay_seconds=2,
            retry_condition_fn=worth_retrying,
        )
        def bring_up_to_date() -> Artifact:
            return self._bring_up_to_date(stage, identity, config, inputs, folder)

        return bring_up_to_date()

    def _bring_up_to_date(
        self, stage: Stage, identity: Identity, config: BaseModel, inputs: Mapping[str, Artifact], folder: Path
    ) -> Artifact:
        from flows import prefect_ui, tracking

        started = time.monotonic()
        status: Literal["ran", "skipped"]
        with only_writer(folder):
            reason = why_it_must_run(folder, identity)
            if reason is None:
                artifact, status = Artifact.open(folder), "skipped"
                prefect_ui.tell(f"{self.named(stage.name):<10} skipped: {UP_TO_DATE} ({folder.name})")
                tracking.ensure_tracked(self, artifact)
            else:
                status = "ran"
                prefect_ui.tell(f"{self.named(stage.name):<10} runs: {reason}")
                _clear_unless_resumable(folder)
                with tracking.following(self, identity, folder) as follower, prefect_ui.progress(stage.name) as bar:
                    for event in _events_of_worker(stage, identity, config, inputs, folder):
                        follower.take(event)
                        bar.take(event)
                    artifact = Artifact.open(folder)
                    follower.finish(artifact)
                prefect_ui.tell(f"{self.named(stage.name):<10} done in {duration(time.monotonic() - started)}")
        outcome = Outcome(artifact, status, reason or UP_TO_DATE, time.monotonic() - started)
        self.outcomes[self.named(stage.name)] = outcome
        prefect_ui.stage_table(stage.name, outcome)
        return artifact


UP_TO_DATE = "same key, files intact"


@contextmanager
def start_flow_run(flow: str, preset: str, overrides: list[str], dry: bool = False) -> Iterator[FlowRun]:
    """Compose and check the configuration, then hand out a ``FlowRun``; closes its MLflow run whatever happens."""
    from flows import tracking

    run = FlowRun(flow, preset, list(overrides), compose_project(preset, overrides), dry)
    with tracking.closing(run):
        yield run


def why_it_must_run(folder: Path, identity: Identity) -> str | None:
    """Why the stage cannot be skipped, in words; ``None`` if its artifact is there and intact."""
    if not (folder / RECORD).exists():
        if _has_checkpoint(folder):
            return "an earlier run was interrupted; resuming from its checkpoint"
        return _what_changed(folder, identity)
    try:
        fault = Artifact.open(folder).fault()
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


def _what_changed(folder: Path, identity: Identity) -> str:
    """Compare with the newest finished artifact of the same stage."""
    finished = [path for path in folder.parent.glob(f"*/{RECORD}") if path.parent != folder]
    if not finished:
        return "first run"
    newest = Artifact.open(max(finished, key=lambda path: path.stat().st_mtime).parent)
    return "; ".join(identity.changes_since(newest.record.identity)) or "no finished artifact with this key"


def _has_checkpoint(folder: Path) -> bool:
    return any(folder.glob("checkpoints/*"))


def _clear_unless_resumable(folder: Path) -> None:
    """Empty the folder, but keep the checkpoints of an interrupted run: same key, so same config, code and data."""
    if folder.exists() and ((folder / RECORD).exists() or not _has_checkpoint(folder)):
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)


def _events_of_worker(
    stage: Stage, identity: Identity, config: BaseModel, inputs: Mapping[str, Artifact], folder: Path
) -> Iterator[dict[str, Any]]:
    """Start the stage's process and yield its events until it has ended well; raise its error otherwise."""
    write_request(
        folder,
        Request(
            function=stage.function,
            config_type=stage.config_type,
            config=config.model_dump(mode="json"),
            inputs={name: artifact.folder for name, artifact in inputs.items()},
            identity=identity,
        ),
    )
    events = _EventFile(folder / EVENTS)
    command = [sys.executable, "-m", "components.core.worker", str(folder), FOLLOW_PARENT]
    # A session of its own: Ctrl-C reaches the flow only, which then asks the stage to save and stop.
    process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
    try:
        while process.poll() is None:
            yield from events.new()
            time.sleep(POLL_SECONDS / 4 if not events.seen else POLL_SECONDS)
        yield from events.new()
    finally:
        _stop(process)
    if process.returncode:
        raise _error_of(stage, process.returncode, folder)


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    assert process.stdin is not None
    process.stdin.close()


def _error_of(stage: Stage, code: int, folder: Path) -> LacewingError:
    path = folder / ERROR
    if not path.exists():
        cause = f"killed by signal {-code}" if code < 0 else f"ended with code {code}"
        return WorkerKilledError(
            f"{stage.name}: its process was {cause}; run the same command again to resume. See {folder}"
        )
    error = json.loads(path.read_text())
    known = getattr(errors, error["type"], None)
    if known is not None:
        return known(f"{stage.name}: {error['message']}")  # type: ignore[no-any-return]
    return StageFailedError(f"{stage.name}: {error['message']}\n{error.get('traceback', '')}")


class _EventFile:
    """Reads the lines that have been completed since the last look."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.position = 0  # from the start: a resumed stage brings its earlier figures along
        self.seen = False

    def new(self) -> list[dict[str, Any]]:
        if not self.path.exists():
            return []
        with self.path.open("rb") as file:
            file.seek(self.position)
            complete, newline, _ = file.read().rpartition(b"\n")
        self.position += len(complete) + len(newline)
        self.seen |= bool(complete)
        events = []
        for line in complete.split(b"\n"):
            with suppress(json.JSONDecodeError):  # half a line of a killed process, gone on by the resumed one
                events.append(json.loads(line))
        return events
