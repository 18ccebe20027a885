"""The process that an open run belongs to, written down so that it can be told later whether it has ended.

Only what is certain counts: a process of another machine, or of another container, is never taken for ended.
"""

import json
import os
import platform
from pathlib import Path
from typing import NamedTuple

import psutil

_BOOT, _NAMESPACE = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
_MACHINE = Path("/etc/machine-id")
# The kernel's fixed number for the processes of a machine that are in no container.
_NO_CONTAINER = "pid:[4026531836]"


class Owner(NamedTuple):
    """A process: machine, start of the machine, container, number and start."""

    host: str
    boot: str
    """Empty where the system has no such number; then the start of the process decides."""
    container: str
    pid: int
    started: float

    @classmethod
    def here(cls) -> "Owner":
        """This process."""
        return cls(_host(), _text(_BOOT), _container(), os.getpid(), _started(os.getpid()) or 0.0)

    @classmethod
    def read(cls, text: str) -> "Owner | None":
        """The process that ``str`` has written; ``None`` if this is something else."""
        try:
            return cls(**json.loads(text))
        except (ValueError, TypeError):
            return None

    def __str__(self) -> str:
        return json.dumps(self._asdict())

    def has_ended(self) -> bool:
        """Whether the process is certain to have ended."""
        here = Owner.here()
        if (self.host, self.container) != (here.host, here.container):
            return False
        if self.boot != here.boot:
            return self.container == _NO_CONTAINER  # another start of this machine; containers only look alike
        return _started(self.pid) != self.started


def _host() -> str:
    return f"{platform.node()} {_text(_MACHINE)}".rstrip()


def _container() -> str:
    return str(_NAMESPACE.readlink()) if _NAMESPACE.is_symlink() else ""


def _started(pid: int) -> float | None:
    """When the process was started; ``None`` if it has ended. On Linux in ticks, which no change of the clock moves."""
    stat = Path(f"/proc/{pid}/stat")
    try:
        if _BOOT.exists():
            fields = stat.read_text().rpartition(")")[2].split()
            return None if fields[0] == "Z" else float(fields[19])
        return float(psutil.Process(pid).create_time())
    except (OSError, psutil.Error):
        return None


def _text(path: Path) -> str:
    return path.read_text().strip() if path.is_file() else ""
