"""Where the work of a stage is done: a ``Launcher`` starts it and passes on its events until it has ended.

``LocalLauncher`` is a process on this machine. A launcher that starts a stage elsewhere keeps the same promise: the
request and the artifact are in the folder, and an error of the stage is raised here by its own name.
"""

import json
import re
import subprocess
import sys
from collections.abc import Generator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from components.core import errors
from components.core.errors import LacewingError
from components.core.parent import FOLLOW_PARENT
from components.core.run import EVENTS
from components.core.worker import ERROR, Request, write_request

Event = Mapping[str, Any]

POLL_SECONDS = 0.5
# A stopped training run finishes its step and writes a checkpoint; a large one takes a while.
STOP_TIMEOUT_SECONDS = 90


class WorkerKilledError(LacewingError):
    """The stage's process was killed from outside, for example because memory ran out. A retry resumes it."""

    exit_code = 7


class StageFailedError(LacewingError):
    """The stage raised an unexpected error."""


class Launcher(Protocol):
    """Does the work of one stage."""

    def launch(self, request: Request, folder: Path) -> Generator[Event]:
        """Start the stage in ``folder`` and yield its events until it has ended well.

        Raises the stage's own ``LacewingError``, ``WorkerKilledError`` if it was killed, ``StageFailedError`` for any
        other error. Closing the iterator stops the stage.
        """
        ...


class LocalLauncher:
    """A process of its own on this machine."""

    def launch(self, request: Request, folder: Path) -> Generator[Event]:
        """See ``Launcher``."""
        write_request(folder, request)
        events = EventFile(folder / EVENTS)
        command = [sys.executable, "-m", "components.core.worker", str(folder), FOLLOW_PARENT]
        # A session of its own: Ctrl-C reaches the flow only, which then asks the stage to save and stop.
        process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
        try:
            while process.poll() is None:
                yield from events.new()
                with suppress(subprocess.TimeoutExpired):  # not a sleep: most stages end between two looks
                    process.wait(POLL_SECONDS)
            yield from events.new()
        finally:
            _stop(process)
        if process.returncode:
            raise _error(request.identity.stage, process.returncode, folder)


class EventFile:
    """Reads the lines that have been completed since the last look."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.position = 0  # from the start: a resumed stage reports its earlier metrics too

    def new(self) -> list[Event]:
        """The events that have been written since; half a line waits for its other half."""
        if not self.path.exists():
            return []
        with self.path.open("rb") as file:
            file.seek(self.position)
            complete, newline, _ = file.read().rpartition(b"\n")
        self.position += len(complete) + len(newline)
        events = []
        for line in complete.split(b"\n"):
            with suppress(json.JSONDecodeError):  # half a line of a killed process, continued by the resumed one
                events.append(json.loads(line))
        return events


def kept_by(folder: Path) -> str:
    """What a stage that was stopped in ``folder`` has left to go on from, in words that follow "Cancelled"."""
    if not any(folder.glob("checkpoints/*")):
        return ""
    with suppress(FileNotFoundError):
        if step := re.search(r"after step (\d+)", json.loads((folder / ERROR).read_text())["message"]):
            return f" at step {step[1]}, checkpoint saved"
    return ", the last checkpoint is kept"


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    assert process.stdin is not None
    process.stdin.close()


def _error(stage: str, code: int, folder: Path) -> LacewingError:
    path = folder / ERROR
    if not path.exists():
        cause = f"killed by signal {-code}" if code < 0 else f"ended with code {code}"
        return WorkerKilledError(
            f"{stage}: its process was {cause}; run the same command again to resume. See {folder}"
        )
    error = json.loads(path.read_text())
    known = getattr(errors, error["type"], None)
    if known is not None:
        return known(f"{stage}: {error['message']}")  # type: ignore[no-any-return]
    return StageFailedError(f"{stage}: {error['message']}\n{error.get('traceback', '')}")
