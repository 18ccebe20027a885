"""One ``lacewing up`` in a workspace, and none before the services of a killed one have ended.

``up.lock`` is locked by the process and, as they inherit the open file, by its services. It holds the record of the
process, so that a second ``up`` can tell a running one from a killed one.
"""

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from components.core.errors import ServiceError
from components.core.parent import STOP_TIMEOUT_SECONDS
from flows import console
from flows.owner import is_gone, this_process
from flows.workspace import workspace_folder

POLL_SECONDS = 0.2


@contextmanager
def sole_up() -> Iterator[int]:
    """Hold the workspace's ``up.lock``; yields its file descriptor, which services must inherit.

    Raises ``ServiceError`` if another ``up`` runs here, or if the services of a killed one do not end.
    """
    path = workspace_folder() / "up.lock"
    with path.open("a+") as file:
        if not _locked(file):
            file.seek(0)
            _wait_for_services_of(file.read(), file)
        file.truncate(0)
        file.write(this_process())
        file.flush()
        yield file.fileno()


def holder() -> str | None:
    """The record of the process whose ``up.lock`` is held, by itself or by its services; ``None`` if it is free."""
    path = workspace_folder() / "up.lock"
    if not path.exists():
        return None
    with path.open() as file:
        return None if _locked(file) else file.read()


def _wait_for_services_of(owner: str, file: TextIO) -> None:
    if not is_gone(owner):
        who = f"process {owner.split(':')[1]}" if ":" in owner else "its process has not written its name yet"
        raise ServiceError(
            f"`lacewing up` runs in this workspace already ({who}): use that one, stop it, or name another workspace "
            "in LACEWING_WORKSPACE"
        )
    console.say("an earlier `lacewing up` was killed; waiting for its services to stop")
    deadline = time.monotonic() + STOP_TIMEOUT_SECONDS + 10
    while not _locked(file):
        if time.monotonic() > deadline:
            raise ServiceError(
                f"services of an earlier `lacewing up`, which was killed, still hold {file.name}: end them yourself "
                f"(`fuser -k {file.name}` does), then run the same command again"
            )
        time.sleep(POLL_SECONDS)


def _locked(file: TextIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
