"""Bytes in DVC: the files of an artifact are added to DVC's cache, pushed to a remote, and restored from there.

The workspace is the DVC repository (without git). Beside the bytes the remote gets one small file for each version,
``lacewing/<stage>-<key>.json``, with the artifact's record and DVC's digests: an empty workspace needs nothing but the
remote's address to bring a version back, and the record's digests prove that it is the same.

DVC fails at once when another process holds its lock (1-2 of 4 concurrent ``dvc add``). ``DvcStore`` waits instead.
"""

import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator

from components.core.artifact import RECORD, UNSEALED, Artifact, ArtifactRecord
from components.core.atomic import full_disk_explained, write_text
from components.core.errors import ArtifactError, InputError, ServiceError
from components.core.record_digest import intact, keep_record_digest
from components.core.records import first_fault
from conf.services import VersioningConfig
from flows import console
from flows.workspace import artifact_folder, workspace_folder

VERSIONS = "versions.json"
POINTERS = "lacewing"
LOCK_TIMEOUT_SECONDS = 600
REMOTE_TIMEOUT_SECONDS = 10
_REMOTE = "lacewing"
# What DVC need not walk through in search of its pointers.
_IGNORED = ["/mlartifacts", "/models", "/prefect", "/remote", "*.lock", "checkpoints"]
_CONFIG = f"""\
[core]
    no_scm = True
    analytics = False
    check_update = False
    remote = {_REMOTE}
['remote "{_REMOTE}"']
    url = ../remote
    verify = True
"""

Result = TypeVar("Result")


class DataVersion(BaseModel):
    """One file or folder of an artifact as DVC knows it."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    path: str
    """Name at the top of the artifact."""
    md5: str = Field(pattern=r"^[0-9a-f]{32}(\.dir)?$")
    """DVC's digest; of a folder, that of its listing."""
    size: int
    """Bytes."""
    nfiles: int
    """Number of files."""
    remote: str
    """Address of the remote."""
    pushed: bool
    """Whether the remote holds it."""

    @field_validator("path")
    @classmethod
    def _one_name(cls, path: str) -> str:
        if path in ("", ".", "..", RECORD, *UNSEALED) or "/" in path or "\\" in path:
            raise ValueError(f"{path!r} is not the name of a file or folder at the top of an artifact")
        return path


_VERSIONS = TypeAdapter(list[DataVersion])


class Pointer(BaseModel):
    """A file on the remote under ``lacewing/``: the record of a version, and the place of its bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    record: ArtifactRecord
    """Contents of ``artifact.json``."""
    versions: list[DataVersion]
    """The artifact's files and folders."""

    @field_validator("record")
    @classmethod
    def _plain_names(cls, record: ArtifactRecord) -> ArtifactRecord:
        # A folder of the workspace is named after these; the remote must not choose another place.
        stage, key = record.identity.stage, record.identity.key
        if not re.fullmatch(r"[a-z][a-z0-9_-]*", stage) or not re.fullmatch(r"[0-9a-f]{32}", key):
            raise ValueError(f"{stage!r}, {key!r} are not the name and the key of a stage")
        return record


def initialize() -> None:
    """Make the workspace a DVC repository with its default remote, unless it is one. Does not load DVC."""
    # What `dvc init --no-scm` writes. Repo.init() would also clear and fill a cache outside the workspace.
    folder = workspace_folder()
    if not (folder / ".dvc" / "config").exists():
        write_text(folder / ".dvcignore", "\n".join(_IGNORED) + "\n")
        write_text(folder / ".dvc" / "config", _CONFIG)


def name_of(artifact: Artifact) -> str:
    """The name under which an artifact is pulled: ``<stage>-<key>``."""
    return f"{artifact.stage}-{artifact.key}"


def recorded(artifact: Artifact) -> list[DataVersion]:
    """Contents of ``versions.json`` beside the artifact; empty if it has not been versioned."""
    path = artifact.folder / VERSIONS
    if not path.exists():
        return []
    try:
        return _VERSIONS.validate_json(path.read_bytes())
    except ValidationError as error:
        raise ArtifactError(
            f"{path} is damaged: {first_fault(error)}. Delete it: it only says where DVC keeps the artifact, and the "
            "next run of the same command writes it anew."
        ) from error


def describe(artifact: Artifact) -> str:
    """One line for people: digest, size and whereabouts of an artifact's bytes."""
    versions = recorded(artifact)
    if not versions:
        return f"{name_of(artifact)} (not in DVC)"
    digests = ", ".join(f"{version.path} {version.md5[:8]}" for version in versions)
    megabytes = sum(version.size for version in versions) / 1e6
    place = f"pushed to {versions[0].remote}" if _pushed(versions) else f"not yet pushed to {versions[0].remote}"
    return f"{name_of(artifact)}: {digests}; {megabytes:.1f} MB, {place}"


def ensure_versioned(artifact: Artifact, cfg: VersioningConfig) -> list[DataVersion]:
    """Add everything in ``artifact`` to DVC and push it, unless that has been done.

    A remote that cannot be reached does not stop anything: the bytes are in the workspace's cache, ``pushed`` is
    false, a warning says so, and ``sync`` pushes later. Raises ``ServiceError`` if DVC itself cannot be used and
    ``DiskFullError`` if the cache does not fit.
    """
    store = DvcStore(cfg)
    versions = recorded(artifact)
    if versions and versions[0].remote == store.remote and (_pushed(versions) or not cfg.push):
        return versions
    versions = store.add(artifact)
    if cfg.push:
        try:
            versions = store.push(artifact, versions)
        except ServiceError as error:
            console.warn(
                f"{error}. Not pushed: {name_of(artifact)}. Nothing is lost, the bytes are in {store.root / '.dvc'}; "
                "`lacewing sync` pushes them once the remote is back."
            )
    return versions


def pull(reference: str, cfg: VersioningConfig) -> Artifact:
    """Bring the version called ``reference`` from the remote into the workspace and verify it.

    Args:
        reference: ``<stage>-<key>``, or the beginning of a key, as far as only one version fits.
        cfg: where the remote is.

    Raises ``InputError`` if the remote has no such version, ``ServiceError`` if it does not answer, ``ArtifactError``
    if its bytes are incomplete or altered.
    """
    store = DvcStore(cfg)
    name = _chosen(reference, store.names(), store.remote)
    pointer = store.pointer(name)
    folder = artifact_folder(pointer.record.identity.stage, pointer.record.identity.key)
    if (folder / RECORD).exists():
        with suppress(ArtifactError):  # damaged: brought back
            return intact(Artifact.open(folder))
    store.fetch(folder, pointer)
    write_text(folder / RECORD, pointer.record.model_dump_json(indent=2) + "\n")
    artifact = Artifact.open(folder)
    keep_record_digest(artifact, again=True)
    if fault := artifact.fault():
        raise ArtifactError(f"{name} came from {store.remote} damaged: {fault}. Push it again from where it was made.")
    _record(artifact, [version.model_copy(update={"remote": store.remote}) for version in pointer.versions])
    return artifact


def listed(cfg: VersioningConfig) -> list[tuple[str, str]]:
    """Name and description of every version on the remote, oldest first."""
    store = DvcStore(cfg)
    pointers = sorted((store.pointer(name) for name in store.names()), key=lambda pointer: pointer.record.created)
    return [(_name(pointer), _summary(pointer)) for pointer in pointers]


class DvcStore:
    """The workspace's DVC repository and one remote. One process at a time; the others wait."""

    def __init__(self, cfg: VersioningConfig) -> None:
        self.cfg = cfg
        self.root = workspace_folder()
        self.remote = cfg.remote if "://" in cfg.remote else str(Path(cfg.remote or self.root / "remote").absolute())

    def add(self, artifact: Artifact) -> list[DataVersion]:
        """Put the artifact's bytes into DVC's cache; returns (and records in ``versions.json``) their digests."""
        tops = sorted({name.partition("/")[0] for name in artifact.record.files})
        with full_disk_explained(artifact.folder / VERSIONS), self._repository() as repository:
            stages = self._patiently(lambda: repository.add([str(artifact.folder / top) for top in tops]))
            versions = [
                DataVersion(
                    path=Path(output.fs_path).name,
                    md5=output.hash_info.value,
                    size=output.meta.size,
                    nfiles=output.meta.nfiles or 1,
                    remote=self.remote,
                    pushed=False,
                )
                for stage in stages
                for output in stage.outs
            ]
        return _record(artifact, versions)

    def push(self, artifact: Artifact, versions: list[DataVersion]) -> list[DataVersion]:
        """Send the bytes, then the pointer: a pointer on the remote always has its bytes."""
        with self._repository() as repository, self._reachable():
            self._patiently(lambda: repository.push(_targets(artifact.folder, versions), remote=_REMOTE))
            versions = [version.model_copy(update={"pushed": True}) for version in versions]
            remote = repository.cloud.get_remote(_REMOTE)
            self._put(remote, f"{name_of(artifact)}.json", Pointer(record=artifact.record, versions=versions))
        return _record(artifact, versions)

    def names(self) -> list[str]:
        """Names of all versions on the remote."""
        with self._repository() as repository, self._reachable():
            remote = repository.cloud.get_remote(_REMOTE)
            folder = remote.fs.join(remote.path, POINTERS)
            try:
                if remote.fs.protocol == "local":
                    Path(folder).stat()  # says more than exists(): no right to look, or a file where a folder should be
                elif not remote.fs.exists(folder):
                    return []
            except FileNotFoundError:
                return []
            return sorted(Path(path).stem for path in remote.fs.find(folder) if str(path).endswith(".json"))

    def pointer(self, name: str) -> Pointer:
        """Read one version's pointer from the remote."""
        with self._repository() as repository, self._reachable():
            remote = repository.cloud.get_remote(_REMOTE)
            with remote.fs.open(remote.fs.join(remote.path, POINTERS, f"{name}.json"), "rb") as file:
                content = file.read()
        try:
            return Pointer.model_validate_json(content)
        except ValidationError as error:
            raise ArtifactError(f"the record of {name} at {self.remote} cannot be read: {error}") from error

    def fetch(self, folder: Path, pointer: Pointer) -> None:
        """Bring the bytes named by ``pointer`` into ``folder``."""
        from dvc.exceptions import CheckoutError, DownloadError

        folder.mkdir(parents=True, exist_ok=True)
        for version in pointer.versions:
            write_text(folder / f"{version.path}.dvc", _dvc_file(version))
        targets = _targets(folder, pointer.versions)
        with full_disk_explained(folder / RECORD), self._repository() as repository:
            try:
                self._patiently(lambda: repository.pull(targets, remote=_REMOTE, force=True))
            except (CheckoutError, DownloadError) as error:
                raise ArtifactError(
                    f"{_name(pointer)} cannot be brought back from {self.remote}: objects there are missing or damaged "
                    f"({str(error).splitlines()[0]}). Push it again from where it was made."
                ) from error

    @contextmanager
    def _repository(self) -> Iterator[Any]:
        """Open the repository while no other process does; DVC's own lock would make the second one fail."""
        self.root.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            try:
                stack.enter_context(FileLock(self.root / ".dvc.lock", timeout=LOCK_TIMEOUT_SECONDS))
            except Timeout as error:
                raise ServiceError(
                    f"DVC in {self.root} has been busy for {LOCK_TIMEOUT_SECONDS} s; another run is adding or pushing. "
                    "Run the same command again when it is done."
                ) from error
            initialize()
            self._keep_remote()
            from dvc.repo import Repo

            repository = Repo(str(self.root), config=self._settings())
            stack.callback(repository.close)
            yield repository

    def _keep_remote(self) -> None:
        """Write the remote of this run into DVC's own configuration, for those who use DVC by hand."""
        from dvc.config import Config

        config = Config(str(self.root / ".dvc"))
        known, wanted = config.load_one("repo"), self._remote_settings()
        kept = {name: str(value) for name, value in known.get("remote", {}).get(_REMOTE, {}).items()}
        if known.get("core", {}).get("remote") == _REMOTE and kept == {name: str(wanted[name]) for name in wanted}:
            return
        if Path(self.remote).is_relative_to(
            self.root
        ):  # a workspace may be moved; DVC reads it from the current folder
            wanted["url"] = os.path.relpath(self.remote)
        with config.edit("repo") as settings:
            settings["core"]["remote"] = _REMOTE
            settings["remote"][_REMOTE] = wanted

    def _remote_settings(self) -> dict[str, Any]:
        remote: dict[str, Any] = {"url": self.remote, "verify": True}  # verify: digest what is downloaded
        if self.remote.startswith("s3://"):
            remote |= {"endpointurl": self.cfg.endpoint_url} if self.cfg.endpoint_url else {}
            remote |= {"region": self.cfg.region} if self.cfg.region else {}
        return remote

    def _settings(self) -> dict[str, Any]:
        remote = self._remote_settings()
        if self.remote.startswith("s3://"):
            remote |= {"connect_timeout": REMOTE_TIMEOUT_SECONDS, "read_timeout": REMOTE_TIMEOUT_SECONDS}
        return {
            "core": {"remote": _REMOTE, "site_cache_dir": str(self.root / ".dvc" / "site")},
            "cache": {"type": ["reflink", "copy"]},
            "remote": {_REMOTE: remote},
        }

    def _patiently(self, action: Callable[[], Result]) -> Result:
        """Repeat ``action`` while DVC is used by hand in this workspace, and once if a transfer breaks off."""
        from dvc.exceptions import UploadError
        from dvc.lock import LockError

        deadline = time.monotonic() + LOCK_TIMEOUT_SECONDS
        broken_off = False
        while True:
            try:
                return action()
            except LockError as error:
                if time.monotonic() > deadline:
                    raise ServiceError(f"DVC in {self.root} is locked by another program: {error}") from error
            except UploadError:
                if broken_off:
                    raise
                broken_off = True
            time.sleep(1)

    @contextmanager
    def _reachable(self) -> Iterator[None]:
        """Turn whatever DVC and the remote's file system raise into a ``ServiceError`` that names the remote."""
        from dvc_objects.fs.errors import RemoteMissingDepsError

        try:
            yield
        except RemoteMissingDepsError as error:
            raise InputError(
                f"the remote {self.remote} needs a package that is not installed; for s3:// install `lacewing[s3]`"
            ) from error
        except _remote_errors() as error:
            first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ServiceError(f"a request to the DVC remote {self.remote} failed: {first_line[:300]}") from error

    def _put(self, remote: Any, name: str, pointer: Pointer) -> None:
        folder = remote.fs.join(remote.path, POINTERS)
        remote.fs.makedirs(folder, exist_ok=True)
        text = pointer.model_dump_json(indent=2) + "\n"
        if remote.fs.protocol == "local":
            write_text(Path(folder) / name, text)
        else:  # an object store shows an object when it is whole
            remote.fs.pipe_file(remote.fs.join(folder, name), text.encode())


def _pushed(versions: list[DataVersion]) -> bool:
    return all(version.pushed for version in versions)


def _record(artifact: Artifact, versions: list[DataVersion]) -> list[DataVersion]:
    entries = [version.model_dump(mode="json") for version in versions]
    write_text(artifact.folder / VERSIONS, json.dumps(entries, indent=2) + "\n")
    return versions


def _targets(folder: Path, versions: list[DataVersion]) -> list[str]:
    return [str(folder / f"{version.path}.dvc") for version in versions]


def _dvc_file(version: DataVersion) -> str:
    # JSON strings are YAML strings; a name may hold characters that YAML gives a meaning.
    files = f"  nfiles: {version.nfiles}\n" if version.md5.endswith(".dir") else ""
    return (
        f"outs:\n- md5: {version.md5}\n  size: {version.size}\n{files}  hash: md5\n  path: {json.dumps(version.path)}\n"
    )


def _name(pointer: Pointer) -> str:
    return f"{pointer.record.identity.stage}-{pointer.record.identity.key}"


def _summary(pointer: Pointer) -> str:
    megabytes = sum(version.size for version in pointer.versions) / 1e6
    parts = ", ".join(f"{version.path} {version.md5[:8]}" for version in pointer.versions)
    return f"{pointer.record.created:%Y-%m-%d %H:%M} UTC, {megabytes:.1f} MB: {parts}"


def _chosen(reference: str, names: list[str], remote: str) -> str:
    fitting = [name for name in names if name.startswith(reference) or name.rpartition("-")[2].startswith(reference)]
    if len(fitting) == 1 and reference:
        return fitting[0]
    problem = "is not on" if not fitting else "fits more than one version on"
    if not names:
        raise InputError(
            f"{reference!r} is not on the remote {remote}; it holds no versions at all. Name the one that has it: "
            f"lacewing data pull {reference} versioning.remote=..."
        )
    there = ", ".join(fitting or names)
    raise InputError(f"{reference!r} {problem} the remote {remote}; it holds {there}. `lacewing data list` shows them.")


def _remote_errors() -> tuple[type[BaseException], ...]:
    from dvc.exceptions import DvcException

    if "botocore" not in sys.modules:  # loaded by s3fs for s3:// remotes only
        return (DvcException, OSError)
    from botocore.exceptions import BotoCoreError  # type: ignore[import-untyped]

    return (DvcException, OSError, BotoCoreError)
