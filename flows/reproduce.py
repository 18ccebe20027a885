"""Builds a registered model again, from its data version and its configuration, and compares every artifact.

The run of the version says which flow, preset and overrides made it; the records say under which packages. The data
are brought from the remote where it has them. All is built in a workspace of its own, with a registry of its own, so
nothing that exists is touched. Bits can only be the same with the same code, packages and kind of processor: what
differs of the first two is named.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from components.core.artifact import Artifact
from components.core.errors import ArtifactError, InputError, ServiceError
from components.core.identity import Identity
from components.core.packages import installed_version
from conf.services import VersioningConfig
from flows import console
from flows.adapters.dvc import name_of
from flows.adapters.mlflow_registry import Version
from flows.lineage import Origin, lineage
from flows.workspace import WORKSPACE, sealed_artifacts, workspace_folder

WEIGHTS = "model.safetensors"
_ELSEWHERE = ("tracking.", "versioning.", "release=")
"""Overrides that are left out: where results go, which is a new workspace."""


@dataclass(frozen=True)
class Comparison:
    """One artifact beside the one that was built again."""

    made: Artifact
    again: Artifact | None

    @property
    def same(self) -> bool:
        """Whether what later stages read is equal, byte for byte."""
        return self.again is not None and self.again.content == self.made.content

    def __str__(self) -> str:
        if self.again is None:
            return "not built"
        if self.same:
            return "equal, byte for byte"
        was, now = (each.record.files for each in (self.made, self.again))
        differ = sorted(name for name in was.keys() | now.keys() if was.get(name) != now.get(name))
        reasons = Identity(**self.again.record.identity.model_dump()).changes_since(self.made.record.identity)
        return (
            f"differs in {', '.join(differ[:4]) or 'its details'}{' (' + '; '.join(reasons) + ')' if reasons else ''}"
        )


def command(version: Version) -> list[str]:
    """The flow, preset and overrides that made ``version``; raises ``InputError`` if it does not say."""
    tags = version.tags
    try:
        flow, preset, overrides = tags["lacewing.flow"], tags["lacewing.preset"], json.loads(tags["lacewing.overrides"])
    except KeyError as error:
        raise InputError(
            f"{version} does not say how it was made (it has no tag {error.args[0]}): it was registered by hand, and "
            "cannot be built again"
        ) from error
    flow = "pipeline" if flow == "release" else flow  # which trains nothing
    return [flow, f"experiment={preset}", *(each for each in overrides if not each.startswith(_ELSEWHERE))]


def changed_packages(origin: Origin) -> list[str]:
    """Packages and Python that are no longer as they were when the artifacts were made."""
    recorded: dict[str, str] = {}
    for artifact in origin.artifacts():
        recorded |= artifact.record.identity.environment
    python = ".".join(map(str, sys.version_info[:2]))
    now = {name: python if name == "python" else installed_version(name) for name in recorded}
    return [f"{name} {recorded[name]} -> {now[name]}" for name in sorted(recorded) if recorded[name] != now[name]]


def rebuilt(version: Version, origin: Origin, into: Path, versioning: VersioningConfig) -> Origin:
    """Run the flow of ``version`` in the workspace ``into`` and return the bundle that it made, with its lineage.

    Raises ``InputError`` if ``into`` is the workspace that the model lies in, ``ArtifactError`` if the flow fails.
    """
    if into.absolute() == workspace_folder():
        raise InputError(f"into={into} is the workspace of the model itself: give another folder, or leave it out")
    words = command(version)
    into.mkdir(parents=True, exist_ok=True)
    for artifact in origin.artifacts():
        if artifact.stage == "prepare":
            _bring(artifact, into, versioning)
    console.say(f"reproduce  LACEWING_WORKSPACE={into} lacewing {' '.join(words)}")
    if code := _lacewing(words, into).returncode:
        raise ArtifactError(f"`lacewing {' '.join(words)}` in {into} ended with code {code}: see above. Run it again")
    bundles = [artifact for artifact in sealed_artifacts(into) if artifact.stage == "bundle"]
    if not bundles:
        raise ArtifactError(f"`lacewing {' '.join(words)}` made no bundle in {into}")
    return lineage(bundles[-1], into)


def compared(origin: Origin, again: Origin) -> Iterator[Comparison]:
    """Every artifact beside its counterpart, what comes first in front."""
    seen: set[str] = set()
    for made, other in _pairs(origin, again):
        if made.key not in seen:
            seen.add(made.key)
            yield Comparison(made, other)


def weights_equal(origin: Origin, again: Origin) -> bool:
    """Whether the bundles hold the same weights, bit for bit."""
    assert origin.artifact is not None
    assert again.artifact is not None
    was, now = (each.record.files.get(WEIGHTS) for each in (origin.artifact, again.artifact))
    return was is not None and was == now


def _pairs(made: Origin, again: Origin | None) -> Iterator[tuple[Artifact, Artifact | None]]:
    others = {each.name: each for each in again.inputs} if again else {}
    for each in made.inputs:
        yield from _pairs(each, others.get(each.name))
    if made.artifact is not None:
        yield made.artifact, again.artifact if again else None


def _bring(artifact: Artifact, into: Path, versioning: VersioningConfig) -> None:
    """Copy the data from the remote, or say that they are prepared anew."""
    remote = versioning.remote or str(workspace_folder() / "remote")
    settings = [f"versioning.remote={remote}"]
    settings += [f"versioning.endpoint_url={versioning.endpoint_url}"] if versioning.endpoint_url else []
    name = name_of(artifact)
    if code := _lacewing(["data", "pull", name, *settings], into).returncode:
        if code == ServiceError.exit_code:
            raise ServiceError(f"the data version {name} cannot be fetched from {remote}: see above")
        console.say(f"reproduce  {remote} has no {name}: the data are prepared anew")


def _lacewing(words: list[str], workspace: Path) -> "subprocess.CompletedProcess[bytes]":
    # What it prints is progress here: the result is the comparison.
    environment = {**os.environ, WORKSPACE: str(workspace)}
    environment.pop("PREFECT_HOME", None)  # set by this process, to a folder of its own workspace
    return subprocess.run([sys.executable, "-m", "flows.cli", *words], env=environment, stdout=sys.stderr, check=False)
