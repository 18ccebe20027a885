"""``lacewing accept STAGE --reason '...'``: a person vouches that an artifact of older code or packages is current.

This is for people who know that an edit changes nothing, and have a month of training on disk. The older artifact must
have the same configuration, and inputs of the same content. It is recorded a second time, under the current key, with
the name of the person and the reason. Its content does not change, so nothing that was made from it runs again.
"""

import os
import shutil
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from components.core.acceptance import Acceptance, joined
from components.core.artifact import RECORD, Artifact
from components.core.atomic import write_text
from components.core.errors import ArtifactError, InputError
from components.core.identity import Identity, RecordedIdentity
from components.core.record_digest import keep_record_digest, record_fault
from components.core.run import EVENTS
from conf.compose import compose_project
from flows.catalogue import flows
from flows.person import person
from flows.run import FlowRun, Outcome, StageCall
from flows.stage import UP_TO_DATE, contents_of, identity_of, only_writer, why_it_must_run
from flows.workspace import artifact_folder

_CANDIDATES_SHOWN = 8


class _Accepted(Exception):  # noqa: N818 - not an error: it ends a flow whose later stages do not matter
    def __init__(self, artifact: Artifact) -> None:
        self.artifact = artifact


def accept(stage: str, reason: str, preset: str, overrides: list[str]) -> Artifact:
    """Record the newest fitting artifact of ``stage`` under the key that it would have today.

    Raises:
        InputError: no reason, no such stage, it is current already, a stage before it is not, or nothing fits.
    """
    if not reason.strip():
        raise InputError("say why the artifact counts as current: --reason '...'")
    config = compose_project(preset, overrides)
    obstacles: list[InputError] = []
    for flow in flows().values():
        run = FlowRun(flow.name, preset, overrides, config, _Accepter(stage, reason), dry=True)
        try:
            flow(run)
        except _Accepted as done:
            return done.artifact
        except _NotCurrentError as obstacle:
            obstacles.append(obstacle)
    raise obstacles[0] if obstacles else InputError(f"no flow plans a stage {stage!r}")


class _NotCurrentError(InputError):
    """A stage before the wanted one would run; another flow may reach the wanted one without it."""


class _Accepter:
    """The ``StageRunner`` that runs nothing: it passes what is current, until it meets the stage to be accepted."""

    def __init__(self, stage: str, reason: str) -> None:
        self.stage = stage
        self.reason = reason

    def bring_up_to_date(self, call: StageCall) -> Outcome:
        """Pass a current stage on, accept the wanted one, refuse anything else."""
        identity = identity_of(call, contents_of(call.inputs))
        folder = artifact_folder(identity.stage, identity.key)
        obstacle = why_it_must_run(folder, identity)
        if call.stage.name != self.stage and obstacle:
            raise _NotCurrentError(f"{call.title} is not current ({obstacle}): run it, or accept it first")
        if call.stage.name != self.stage:
            return Outcome(Artifact.open(folder), "skipped", UP_TO_DATE, 0)
        if obstacle is None:
            raise InputError(f"{call.title} is current ({folder.name}): there is nothing to accept")
        with only_writer(folder):
            raise _Accepted(_recorded_again(_fitting(identity, folder.parent), identity, folder, call, self.reason))


def _fitting(identity: Identity, artifacts: Path) -> Artifact:
    """The newest intact artifact with the same configuration and inputs; the error says why none fits."""
    refused: list[str] = []
    for record in sorted(artifacts.glob(f"*/{RECORD}"), key=lambda path: path.stat().st_mtime, reverse=True):
        obstacle = _obstacle(identity, record.parent)
        if obstacle is None:
            return Artifact.open(record.parent)
        refused.append(f"{record.parent.name}: {obstacle}")
    raise InputError(_nothing_fits(identity.stage, refused))


def _obstacle(identity: Identity, folder: Path) -> str | None:
    try:
        artifact = Artifact.open(folder)
    except ArtifactError:
        return "its record cannot be read; it may be of an older version of lacewing"
    changes = "; ".join(identity.changes_of_request_since(artifact.record.identity))
    return changes or record_fault(artifact) or artifact.fault()


def _nothing_fits(stage: str, refused: list[str]) -> str:
    if not refused:
        return f"there is no finished artifact of {stage} to accept"
    shown = refused[:_CANDIDATES_SHOWN]
    more = [f"and {len(refused) - len(shown)} more"] if len(refused) > len(shown) else []
    return "\n  ".join([f"no artifact of {stage} was asked for the same thing and is intact:", *shown, *more])


def _recorded_again(older: Artifact, identity: Identity, folder: Path, call: StageCall, reason: str) -> Artifact:
    acceptance = Acceptance(
        stage=identity.stage,
        from_key=older.key,
        changes=identity.changes_of_code_since(older.record.identity, names_shown=len(identity.code)),
        reason=reason,
        by=person(),
        time=datetime.now(UTC),
    )
    accepted = joined(call.accepted, older.record.accepted, [acceptance])
    _link(older.folder, folder, [*older.record.files, EVENTS])
    today = RecordedIdentity(**identity.model_dump())
    record = older.record.model_copy(update={"identity": today, "accepted": list(accepted)})
    write_text(folder / RECORD, record.model_dump_json(indent=2) + "\n")
    accepted_artifact = Artifact.open(folder)
    keep_record_digest(accepted_artifact, again=True)
    return accepted_artifact


def _link(source: Path, target: Path, names: Iterable[str]) -> None:
    """Give ``target`` the files of ``source`` without needing their space twice, where the disk allows that."""
    for name in names:
        if not (source / name).exists():
            continue
        place = target / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.unlink(missing_ok=True)
        try:
            os.link(source / name, place)
        except OSError:  # a file system without hard links
            shutil.copy2(source / name, place)
