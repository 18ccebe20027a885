"""The workspace: the one folder in which a project's results, records and stores lie.

artifacts/<stage>/<first 16 digits of the key>/   what the stages made
mlflow.db, mlartifacts/                           MLflow, unless another address is configured
prefect/                                          Prefect's database and settings
.dvc/, remote/                                    DVC's cache, and its remote unless another is configured
models/                                           models fetched from the registry
ledger.jsonl                                      every promotion, rollback, refusal and hold
"""

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from components.core.errors import InputError
from flows.room import require_room

if TYPE_CHECKING:
    from components.core.artifact import Artifact

WORKSPACE = "LACEWING_WORKSPACE"
# A folder without the right to write, a read-only disk, and a file where a folder should be.
_UNWRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST}


def workspace_folder() -> Path:
    """Absolute path of the workspace: ``$LACEWING_WORKSPACE``, or ``workspace`` in the current folder."""
    return Path(os.environ.get(WORKSPACE) or "workspace").absolute()


def make_workspace() -> Path:
    """Create the workspace; Prefect's server makes its own folder in it, but not the workspace itself.

    Raises ``InputError`` if it cannot be written to and ``DiskFullError`` if there is no room for what a flow writes at
    once: told here, before a database or a service fails over it.
    """
    import tempfile  # help must not wait for it

    folder = workspace_folder()
    require_room(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        Path(os.environ["PREFECT_HOME"]).mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise (_not_writable(error) if error.errno in _UNWRITABLE else error) from error
    return folder


@contextmanager
def unwritable_explained() -> Iterator[None]:
    """Turn the refusal to write to some place of the workspace into an ``InputError``."""
    try:
        yield
    except OSError as error:
        inside = Path(os.fsdecode(error.filename or "")).is_relative_to(workspace_folder())
        raise (_not_writable(error) if inside and error.errno in _UNWRITABLE else error) from error


def _not_writable(error: OSError) -> InputError:
    return InputError(
        f"{error.filename or workspace_folder()} cannot be written to ({os.strerror(error.errno or 0)}). Results go to "
        f"the workspace {workspace_folder()}: make it writable, or name another folder with {WORKSPACE}"
    )


def artifact_folder(stage: str, key: str) -> Path:
    """Where the result of ``stage`` with this key lies, whether or not it exists yet."""
    return workspace_folder() / "artifacts" / stage / key[:16]


def find_artifact(key: str) -> "Artifact | None":
    """The sealed artifact with this key, from whichever stage; ``None`` if the workspace does not hold it."""
    if len(key) != 32 or not set(key) <= set("0123456789abcdef"):  # the fingerprint of an outside source, not a key
        return None
    found = _readable(workspace_folder() / "artifacts", f"*/{key[:16]}")
    return next((artifact for artifact in found if artifact.key == key), None)


def sealed_artifacts(workspace: Path | None = None) -> Iterator["Artifact"]:
    """Every finished artifact in the workspace, oldest first, so that inputs come before what was made of them.

    Folders of unfinished stages have no record and are passed over.
    """
    found = _readable((workspace or workspace_folder()) / "artifacts", "*/*")
    yield from sorted(found, key=lambda artifact: artifact.record.created)


def newest_artifact(stage: str) -> "Artifact | None":
    """The finished artifact of ``stage`` that was sealed last; ``None`` if there is none."""
    from components.core.artifact import RECORD

    found = _readable(workspace_folder() / "artifacts" / stage, "*")
    return max(found, key=lambda artifact: (artifact.folder / RECORD).stat().st_mtime, default=None)


def _readable(folder: Path, pattern: str) -> Iterator["Artifact"]:
    """Artifacts whose records can be read: those of an older version of lacewing mean nothing to this one."""
    from components.core.artifact import RECORD, Artifact
    from components.core.errors import ArtifactError

    for path in folder.glob(f"{pattern}/{RECORD}"):
        with suppress(ArtifactError):
            yield Artifact.open(path.parent)


def artifacts_with_content(contents: Iterable[str]) -> list["Artifact"]:
    """The finished artifacts that hold one of these ``contents``, oldest first."""
    wanted = set(contents)
    return [artifact for artifact in sealed_artifacts() if artifact.content in wanted] if wanted else []
