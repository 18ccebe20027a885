"""Which process a run belongs to, written so that others can tell later whether that process is still there.

A record is ``host:process id:start:boot:container``. The start tells a process from a later one of the same id; on
Linux it is counted in ticks since the boot, which no change of the clock moves. Only what is certain counts: a process
of another machine, or of another container, is never taken for ended.
"""

import os
import platform
import re
from pathlib import Path

import psutil

_RECORD = re.compile(r"(?P<host>.+):(?P<process>\d+):(?P<start>\d+\.\d+):(?P<boot>[^:]*):(?P<container>\d*)")
_BOOT, _MACHINE = Path("/proc/sys/kernel/random/boot_id"), Path("/etc/machine-id")
_NAMESPACE = Path("/proc/self/ns/pid")
# The kernel's fixed number for the processes of a machine that are in no container.
_NO_CONTAINER = "4026531836"


def this_process() -> str:
    """The record of the process that asks."""
    return f"{_host()}:{os.getpid()}:{_start(os.getpid()) or 0:.2f}:{_text(_BOOT)}:{_container()}"


def is_gone(owner: str) -> bool:
    """Whether the process of the record ``owner`` has certainly ended: it was on this host and is no longer there.

    ``False`` for the process of another host or container and for anything that is no such record: here nothing is
    known of them.
    """
    record = _RECORD.fullmatch(owner)
    if record is None or (record["host"], record["container"]) != (_host(), _container()):
        return False
    if record["boot"] != _text(_BOOT):
        # This machine has been started again; a container only looks like one on another machine.
        return record["container"] == _NO_CONTAINER
    start = _start(int(record["process"]))
    return start is None or f"{start:.2f}" != record["start"]


def _host() -> str:
    return f"{platform.node()}/{_text(_MACHINE)}"


def _container() -> str:
    return re.sub(r"\D", "", str(_NAMESPACE.readlink())) if _NAMESPACE.is_symlink() else ""


def _start(process: int) -> float | None:
    """When the process was started; ``None`` if it has ended, also if its parent has not asked for its exit code."""
    try:
        if not _BOOT.exists():
            return float(psutil.Process(process).create_time())
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except (OSError, psutil.NoSuchProcess):
        return None
    return None if fields[0] == "Z" else float(fields[19])


def _text(path: Path) -> str:
    return path.read_text().strip() if path.is_file() else ""
