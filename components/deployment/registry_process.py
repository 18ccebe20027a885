"""The process that asks the registry, and tells this one what it wants.

It is another process because a client of a registry is large and slow to import, and would compete with the decoder for
Python's lock. Which command it is says who starts the server: any that writes a line of ``Wanted`` as JSON whenever it
has looked. If it ends, it is started again; meanwhile serving goes on.
"""

import logging
import subprocess
import threading
from collections.abc import Callable, Sequence

from pydantic import ValidationError

from components.core.parent import FOLLOW_PARENT
from components.deployment.wanted import Wanted

logger = logging.getLogger(__name__)

_PAUSE_SECONDS = 5.0
_STOP_SECONDS = 5.0


class RegistryProcess:
    """Runs ``command`` and passes on what it says. Close it, or it ends with this process."""

    def __init__(self, command: Sequence[str], told: Callable[[Wanted], None]) -> None:
        """``told`` is called with every line, in another thread."""
        self._command, self._told = [*command, FOLLOW_PARENT], told
        self._closed = threading.Event()
        self._process: subprocess.Popen[str] | None = None
        self._thread = threading.Thread(target=self._run, name="registry", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the process."""
        self._closed.set()
        if (process := self._process) is not None:
            process.terminate()
        self._thread.join(_STOP_SECONDS)

    def _run(self) -> None:
        while not self._closed.is_set():
            try:
                ended = self._listen()
            except OSError as error:
                ended = f"it cannot be started: {error}"
            if not self._closed.is_set():
                self._told(Wanted(fault=f"the process that asks the registry is gone, and is started again: {ended}"))
            self._closed.wait(_PAUSE_SECONDS)

    def _listen(self) -> str:
        """Pass on lines until the process ends; returns how it ended."""
        with subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            self._process = process
            if self._closed.is_set():  # between the two, ``close`` saw no process
                process.terminate()
            assert process.stdout is not None
            for line in process.stdout:
                try:
                    self._told(Wanted.model_validate_json(line))
                except ValidationError:
                    logger.warning("the process that asks the registry wrote no state: %.200s", line.rstrip())
            return f"exit code {process.wait()}"
