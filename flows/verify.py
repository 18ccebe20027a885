"""Whether a model and all that it was made from are as they were sealed: every file is hashed again.

What is checked, in this order: the ledger's chain; the bundle against the digest that was registered; then every
artifact from the raw bytes on, its record against the digest beside it, its key against its parts, its files against
its record. That each is what the next one read holds by construction, for they are found by the digest of content that
the reader recorded.
"""

from collections.abc import Iterator

from components.core.artifact import RECORD, Artifact
from components.core.errors import ArtifactError
from components.core.identity import Identity, digest_file
from components.core.record_digest import record_fault
from flows.adapters.mlflow_registry import RECORD_DIGEST, Version
from flows.lineage import Origin
from flows.promotion import Registry

Row = tuple[str, str]


def verified(registry: Registry, version: Version | None, origin: Origin) -> Iterator[Row]:
    """A row for everything that matches; raises ``ArtifactError`` at the first thing that does not."""
    if fault := registry.ledger_fault():
        raise ArtifactError(f"the ledger is not as it was written: {fault}")
    yield "ledger", f"{len(registry.ledger.entries())} entries about {registry.name}, each after the one that it names"
    bundle = origin.artifact
    if version is not None and bundle is not None:
        if digest_file(bundle.folder / RECORD) != version.tags.get(RECORD_DIGEST):
            raise ArtifactError(f"{bundle.folder} is not the bundle that was registered as {version}")
        yield "registered", f"{version}"
    for artifact in origin.artifacts():
        if fault := artifact_fault(artifact):
            raise ArtifactError(f"{artifact.stage} {artifact.key[:16]} in {artifact.folder} does not match: {fault}")
        size = sum(file.bytes for file in artifact.record.files.values())
        yield f"{artifact.stage} {artifact.key[:16]}", f"{len(artifact.record.files)} files, {size:,} bytes match"
    for name in origin.lost():
        yield name, "not in this workspace: nothing to hash. `lacewing data pull` brings data back"


def artifact_fault(artifact: Artifact) -> str | None:
    """What is wrong with an artifact, in words; ``None`` if nothing."""
    recorded = artifact.record.identity
    if recorded.key != Identity.from_parts(**recorded.model_dump(exclude={"key"})).key:
        return f"its key in {RECORD} does not follow from the parts that stand there"
    return record_fault(artifact) or artifact.fault()
