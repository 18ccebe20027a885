"""The digest of an artifact's record, in a file beside it that ``sha256sum -c artifact.sha256`` reads.

The record holds the digest of every file, but nothing in it tells an edited metric from a measured one. The flow writes
this file when a stage has sealed its artifact. It is no field of the record, because stages write the record: its code
counts in every key, and a new field would have made everybody's models anew.

Artifacts of before have no such file. They are used as they are, and the first use writes it. From then on they are
held to it like any other.
"""

from typing import TypeVar

from components.core.artifact import RECORD, Artifact
from components.core.atomic import write_text
from components.core.errors import ArtifactError
from components.core.identity import Identity, RecordedIdentity, digest_file

RECORD_DIGEST = "artifact.sha256"

View = TypeVar("View", bound=Artifact)


def keep_record_digest(artifact: Artifact, again: bool = False) -> None:
    """Write the digest of the record as it is now; one that is there already stays, unless ``again``."""
    path = artifact.folder / RECORD_DIGEST
    if again or not path.exists():
        write_text(path, _line(artifact))


def record_fault(artifact: Artifact) -> str | None:
    """What is wrong with the record by its digest, in words; ``None`` if it is as sealed, or from before digests."""
    path = artifact.folder / RECORD_DIGEST
    if not path.exists() or path.read_bytes() == _line(artifact).encode():
        return None
    return f"{RECORD} was altered (its digest differs from {RECORD_DIGEST})"


def identity_fault(recorded: RecordedIdentity, asked: Identity) -> str | None:
    """Why the record is not that of the identity asked for, in words; ``None`` if it is."""
    if recorded.key == asked.key == _key_of_parts(recorded):
        return None
    try:
        changes = asked.changes_since(recorded)
    except (LookupError, TypeError):  # fields that it calls neutral are not in its configuration
        changes = []
    differs = "; ".join(changes) or f"its key is {recorded.key}"
    return f"{RECORD} is not the record of {asked.stage} {asked.key[:16]}: {differs}"


def intact(artifact: View) -> View:
    """The artifact, if its record and files are as sealed; raises ``ArtifactError`` that names the first fault."""
    if fault := record_fault(artifact):
        raise ArtifactError(
            f"{artifact.stage} artifact {artifact.folder} is damaged: {fault}. Run the flow again to rebuild it, or "
            "bring it back with `lacewing data pull`."
        )
    return artifact.verify()


def _line(artifact: Artifact) -> str:
    return f"{digest_file(artifact.folder / RECORD)}  {RECORD}\n"


def _key_of_parts(recorded: RecordedIdentity) -> str:
    try:
        return Identity.from_parts(**recorded.model_dump(exclude={"key"})).key
    except (LookupError, TypeError):
        return ""
