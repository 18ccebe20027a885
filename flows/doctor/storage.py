"""The workspace: may it be written to, does its disk suit databases, and what has been left in it?"""

import fcntl
import json
import os
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.doctor.finding import Finding, fault, ok, warning
from flows.room import NEEDED_MB, free_mb
from flows.workspace import WORKSPACE, workspace_folder

if TYPE_CHECKING:
    from components.core.artifact import Artifact
    from conf.schema import ProjectConfig

ELSEWHERE = f"export {WORKSPACE}=/path/to/another/folder"
# Locks and SQLite's journals need what these promise only in part; "fuse." is sshfs and its kin.
_NETWORK = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "9p", "lustre", "gpfs", "beegfs", "ceph", "glusterfs"}
_IN_MEMORY = {"tmpfs", "ramfs"}


def workspace() -> Finding:
    """Whether the workspace can be written to, as databases do it."""
    folder = workspace_folder()
    place = _existing(folder)
    if not place.is_dir():
        return fault(f"{place} is a file, and the workspace {folder} should be a folder there", ELSEWHERE)
    try:
        with tempfile.TemporaryDirectory(dir=place, prefix=".lacewing-doctor-") as trial:
            _try_database(Path(trial))
    except sqlite3.Error as error:
        return fault(f"SQLite cannot work in {place} ({error})", ELSEWHERE)
    except OSError as error:
        return fault(f"{place} cannot be written to ({error.strerror})", f"chmod u+w {place}, or {ELSEWHERE}")
    return ok(f"{folder}{'' if place == folder else ', which is made when a flow runs'}")


def _try_database(folder: Path) -> None:
    """A lock, and a database with the journal that Prefect's has."""
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with closing(sqlite3.connect(folder / "trial.db", timeout=2)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("CREATE TABLE trial (row INTEGER)")
        database.execute("INSERT INTO trial VALUES (1)")
        database.commit()


def file_system() -> Finding:
    """Whether the disk is a network's, or only memory."""
    import psutil

    place = _existing(workspace_folder())
    mounts = [(each.mountpoint, each.fstype) for each in psutil.disk_partitions(all=True)]
    return judged(place, file_system_of(place, mounts))


def judged(place: Path, kind: str) -> Finding:
    """What a file system of this kind means for a workspace at ``place``."""
    if kind in _NETWORK or kind.startswith("fuse."):
        return warning(f"{place} is on a network's disk ({kind}), where locks and SQLite fail now and then", ELSEWHERE)
    if kind in _IN_MEMORY:
        return warning(f"{place} is in memory ({kind}): gone when the machine stops", ELSEWHERE)
    return ok(kind or "unknown")


def file_system_of(place: Path, mounts: Iterable[tuple[str, str]]) -> str:
    """Kind of the innermost file system that holds ``place``, of ``mounts`` (folder, kind); empty if none does."""
    resolved = place.resolve()
    holding = [(len(Path(point).parts), kind) for point, kind in mounts if resolved.is_relative_to(point)]
    return max(reversed(holding), key=lambda mount: mount[0], default=(0, ""))[1]  # of equals, the one mounted last


def disk(config: "ProjectConfig") -> Finding:
    """Whether there is room for a flow and for as much again as the newest results take."""
    from flows.needs import disk_needs

    folder = workspace_folder()
    free = free_mb(folder)
    held = sum(_newest_sizes().values()) / 1e6
    planned = sum(need.n_bytes for need in disk_needs(config)) / 1e6
    words = f"{free / 1e3:.1f} GB free; the newest results take {held / 1e3:.2f} GB"
    if free < NEEDED_MB:
        return fault(f"{words}; the databases alone need {NEEDED_MB} MB to run a flow", f"free some, or {ELSEWHERE}")
    status = os.statvfs(_existing(folder))
    if status.f_files and not status.f_favail:
        return fault(f"{words}, but no file can be added (no inodes left)", f"remove files, or {ELSEWHERE}")
    if planned > free:
        return fault(f"{words}; the configured data need at least {planned / 1e3:.1f} GB", ELSEWHERE)
    if held > free:
        return warning(f"{words}: the next ones may not fit", f"du -sh {folder}/artifacts/*/* shows what could go")
    return ok(words)


def _newest_sizes() -> dict[str, int]:
    """Bytes of the newest artifact of every stage."""
    from flows.workspace import sealed_artifacts

    return {artifact.stage: _size(artifact) for artifact in sealed_artifacts()}


def _size(artifact: "Artifact") -> int:
    return sum(file.bytes for file in artifact.record.files.values())


def records() -> Finding:
    """Whether this version of Lacewing can read the results that are there."""
    from components.core.artifact import RECORD
    from flows.workspace import sealed_artifacts

    stages = workspace_folder() / "artifacts"
    folders = {path for path in stages.glob("*/*") if path.is_dir()}
    finished = {path.parent for path in stages.glob(f"*/*/{RECORD}")}
    unread = sorted(map(str, finished - {artifact.folder for artifact in sealed_artifacts()}))
    words = f"{len(finished) - len(unread)} finished, {len(folders - finished)} begun"
    if unread:
        return warning(
            f"{words}; {len(unread)} are damaged or of another version of Lacewing, and are made again when needed, "
            f"such as {unread[0]}",
            f"rm -r {unread[0]}",
        )
    return ok(words)


def locks() -> Finding:
    """Whether a file that DVC locks with has been left in a state that stops it."""
    path = workspace_folder() / ".dvc" / "tmp" / "rwlock"
    if not path.exists():
        return ok("none has been left behind")
    try:
        held = json.loads(path.read_text() or "{}")
        blocking = {pid: command for pid, command in _holders(held) if _is_other_program(pid)}
    except (ValueError, AttributeError, KeyError, TypeError):
        return fault(f"{path} is damaged, and DVC refuses to work with it", f"rm {path}")
    if blocking:
        pid, command = next(iter(blocking.items()))
        return warning(
            f"{path} names process {pid} (dvc {command}), whose number another program has now: DVC waits for it",
            f"rm {path}",
        )
    return ok("none has been left behind")


def _holders(held: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[int, str]]:
    for entries in (*held.get("read", {}).values(), *held.get("write", {}).values()):
        for entry in entries if isinstance(entries, list) else [entries]:
            if entry:
                yield int(entry["pid"]), str(entry["cmd"])


def _is_other_program(pid: int) -> bool:
    """Whether a process of this number runs that is no Python: DVC itself releases the locks of dead ones."""
    import psutil

    try:
        return "python" not in psutil.Process(pid).exe().lower()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False


def remote(config: "ProjectConfig") -> Finding:
    """Whether new versions of the data can be pushed."""
    from flows.adapters.dvc import DvcStore

    address = DvcStore(config.versioning).remote
    if not config.versioning.push:
        return ok(f"{address}; versioning.push=false sends nothing there")
    if "://" in address:
        from flows.doctor.connections import bucket

        return bucket(config.versioning, address)
    place = _existing(Path(address))
    try:
        tempfile.TemporaryFile(dir=place).close()
    except OSError as error:
        return fault(
            f"{place} cannot be written to ({error.strerror})",
            "make it writable, or versioning.remote=/path/to/another/folder, or versioning.push=false",
        )
    return ok(address)


def _existing(path: Path) -> Path:
    """The path itself, or the nearest folder above that is there."""
    return next(each for each in (path, *path.parents) if each.exists())
