"""Which process a run belongs to, written so that others can tell later whether that process is still there.

A record is ``host:process id:start in seconds since 1970``. The start tells a process from a later one of the same id.
"""

import re
import socket

import psutil

_RECORD = re.compile(r"(?P<host>.+):(?P<process>\d+):(?P<started>\d+\.\d+)")
# The clock may be corrected between two looks; a process id is not used again within so short a time.
_SAME_START_SECONDS = 2.0


def this_process() -> str:
    """The record of the process that asks."""
    process = psutil.Process()
    return f"{socket.gethostname()}:{process.pid}:{process.create_time():.2f}"


def is_gone(owner: str) -> bool:
    """Whether the process of the record ``owner`` has certainly ended: it was on this host and is no longer there.

    ``False`` for the process of another host and for anything that is no such record: here nothing is known of them.
    """
    record = _RECORD.fullmatch(owner)
    if record is None or record["host"] != socket.gethostname():
        return False
    try:
        process = psutil.Process(int(record["process"]))
        ended = process.status() == psutil.STATUS_ZOMBIE  # killed, and its parent has not asked for its exit code
        return ended or abs(process.create_time() - float(record["started"])) > _SAME_START_SECONDS
    except psutil.NoSuchProcess:
        return True
