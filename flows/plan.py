"""Dry run: which stages of a flow would run, and why.

An input counts by its content. A stage whose input would be made again has no key yet; it is compared with its newest
artifact as if that input came out as it was then, and the reason says which input would be made again.
"""

from datetime import UTC, datetime

from components.core.artifact import Artifact, ArtifactRecord
from components.core.identity import Identity
from flows import console
from flows.run import Outcome, StageCall
from flows.stage import FIRST_RUN, UP_TO_DATE, contents_of, identity_of, why_it_must_run
from flows.workspace import artifact_folder, newest_artifact


class Promised(Artifact):
    """The artifact that a stage would make; its content is unknown."""


class Planner:
    """The ``StageRunner`` of a dry run. It runs nothing and writes nothing."""

    def bring_up_to_date(self, call: StageCall) -> Outcome:
        """Say whether the stage would run; its artifact is the one that is there, or a promise."""
        promised = [name for name, artifact in call.inputs.items() if isinstance(artifact, Promised)]
        identity = identity_of(call, {**contents_of(call.inputs), **_as_last_time(call, promised)})
        folder = artifact_folder(identity.stage, identity.key)
        reason = _reason(why_it_must_run(folder, identity), promised)
        _say(call, reason, folder.name)
        if reason is None:
            return Outcome(Artifact.open(folder), "skipped", UP_TO_DATE, 0)
        return Outcome(_promise(identity), "planned", reason, 0)


def _as_last_time(call: StageCall, promised: list[str]) -> dict[str, str]:
    newest = newest_artifact(call.stage.name)
    return {name: newest.record.identity.inputs.get(name, "") if newest else "" for name in promised}


def _reason(reason: str | None, promised: list[str]) -> str | None:
    if not promised or reason == FIRST_RUN:
        return reason
    again = f"input {' and '.join(promised)} would be made again"
    return f"{reason}; {again}" if reason else again


def _promise(identity: Identity) -> Promised:
    record = ArtifactRecord(identity=identity, created=datetime.now(UTC), files={}, metrics={}, details={})
    return Promised(artifact_folder(identity.stage, identity.key), record)


def _say(call: StageCall, reason: str | None, folder: str) -> None:
    if reason is None:
        words = f"up to date ({folder})"
    elif call.made_by:
        words = f"is missing ({reason}): run `{call.made_by}` first"
    else:
        words = f"would run ({reason})"
    console.say(f"{call.title:<10} {words}")
