"""From a model back to the raw bytes: every artifact that it was made from, as the records in the workspace tell it."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from components.core.artifact import Artifact
from flows.workspace import sealed_artifacts

_CONTENT_DIGITS = 32  # of an artifact's content; the digests of what comes from outside look otherwise


@dataclass(frozen=True)
class Origin:
    """Something that was read, and what that was made from in its turn."""

    name: str
    """What the reader calls it."""
    content: str
    """Digest of what was read."""
    artifact: Artifact | None
    """None: it came from outside the workspace, or it is no longer there."""
    inputs: tuple["Origin", ...] = ()

    @property
    def outside(self) -> bool:
        """Whether it came from outside: a file, a model, a generated world."""
        return self.artifact is None and len(self.content) != _CONTENT_DIGITS

    @property
    def missing(self) -> bool:
        """Whether it is an artifact that this workspace does not hold."""
        return self.artifact is None and not self.outside

    def artifacts(self) -> list[Artifact]:
        """Every artifact once, what comes first in front."""
        found: dict[str, Artifact] = {}
        for origin in self._walk():
            if origin.artifact is not None:
                found.setdefault(origin.artifact.key, origin.artifact)
        return list(found.values())

    def lost(self) -> list[str]:
        """Names of the artifacts that are not in this workspace."""
        return sorted({origin.name for origin in self._walk() if origin.missing})

    def _walk(self) -> Iterator["Origin"]:
        for origin in self.inputs:
            yield from origin._walk()
        yield self


def lineage(artifact: Artifact, workspace: Path | None = None) -> Origin:
    """What ``artifact`` was made from, and that in its turn, down to what came from outside.

    Args:
        artifact: for example a bundle.
        workspace: where the others are looked for; by default the current one.
    """
    by_content: dict[str, list[Artifact]] = {}
    for each in sealed_artifacts(workspace):
        by_content.setdefault(each.content, []).append(each)
    return _origin(artifact.stage, artifact, by_content)


def _origin(name: str, artifact: Artifact, by_content: dict[str, list[Artifact]]) -> Origin:
    inputs = []
    for each, content in artifact.record.identity.inputs.items():
        read = _read_by(artifact.record.created, by_content.get(content, []))
        inputs.append(_origin(each, read, by_content) if read else Origin(each, content, None))
    return Origin(name, artifact.content, artifact, tuple(inputs))


def _read_by(moment: datetime, same: list[Artifact]) -> Artifact | None:
    """Of artifacts with the same content, the one that was the newest when it was read."""
    earlier = [artifact for artifact in same if artifact.record.created <= moment]
    return next(reversed(earlier or same), None)


def as_json(origin: Origin) -> dict[str, Any]:
    """The same for machines."""
    found: dict[str, Any] = {"name": origin.name, "content": origin.content}
    if (artifact := origin.artifact) is not None:
        raw = {name: file.sha256 for name, file in artifact.record.files.items() if name.startswith("raw/")}
        found |= {
            "stage": artifact.stage,
            "key": artifact.key,
            "created": artifact.record.created.isoformat(timespec="seconds"),
            "folder": str(artifact.folder),
            **({"raw": raw} if raw else {}),
        }
    elif origin.missing:
        found["missing"] = True
    return found | {"inputs": [as_json(each) for each in origin.inputs]}
