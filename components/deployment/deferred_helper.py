"""The helper of a server that starts: required at once, or used as soon as it is available.

By default a server does not start without its helper. If server and helper start together, or the helper is sometimes
restarted, the server can start without it: calls fail at once until the helper can be opened, and the answers say so.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from components.cascade.config import HelperConfig
from components.cascade.helpers.base import Call, Helper, HelperError, Reply
from components.core.errors import LacewingError
from components.delegation.bundled import DelegationRecord, open_bundled_helper

logger = logging.getLogger(__name__)


def opened_helper(record: DelegationRecord, folder: Path, device: str, required: bool) -> Helper:
    """The helper of the bundle in ``folder``; raises what is wrong with it if it is ``required`` and not there."""
    try:
        return open_bundled_helper(record, folder, device)
    except LacewingError as error:
        if required:
            raise type(error)(
                f"the helper that this model asks is not there: {error}. Or serve the small model alone with "
                "call_budget=0, or take the helper up once it is there with helper_required=false"
            ) from error
        logger.warning("the helper is not available yet, and calls fail until it is: %s", error)
        return LateHelper(lambda: open_bundled_helper(record, folder, device), record.cascade.helper, error)


class LateHelper:
    """Calls fail at once until the helper can be opened; a background thread retries with pauses. Thread-safe."""

    def __init__(self, open_it: Callable[[], Helper], config: HelperConfig, reason: Exception) -> None:
        """
        Arguments:
            open_it: opens the helper, or raises the reason why it cannot.
            config: its name, and the pause after a try.
            reason: why it could not be opened at first.
        """
        self._open_it = open_it
        self._name = " ".join(part for part in (config.kind, config.url or config.model, config.name) if part)
        self._rest_seconds = config.rest_seconds
        self._reason = reason
        self._helper: Helper | None = None
        self._next_try = time.monotonic() + config.rest_seconds
        self._trying = False
        self._closed = False
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        return self._helper.name if self._helper is not None else self._name

    def answer(self, calls: Sequence[Call]) -> list[Reply | HelperError]:
        """The helper's answers if it is there, else errors at once."""
        if self._helper is not None:
            return self._helper.answer(calls)
        with self._lock:
            due = not (self._trying or self._closed) and time.monotonic() >= self._next_try
            self._trying = self._trying or due
        if due:
            threading.Thread(target=self._try, name="open helper", daemon=True).start()
        return [HelperError(f"{self._name} is not there yet: {self._reason}")] * len(calls)

    def forget(self, session: str) -> None:
        if self._helper is not None:
            self._helper.forget(session)

    def check(self) -> None:
        if self._helper is None:
            raise HelperError(f"{self._name} is not there yet: {self._reason}")
        self._helper.check()

    def close(self) -> None:
        with self._lock:
            self._closed = True
        if self._helper is not None:
            self._helper.close()

    def _try(self) -> None:
        try:
            helper = self._open_it()
        except Exception as error:  # retried later, whatever the reason was
            with self._lock:
                self._reason, self._trying = error, False
                self._next_try = time.monotonic() + self._rest_seconds
            return
        with self._lock:
            closed, self._trying = self._closed, False
            if not closed:
                self._helper = helper
        if closed:
            helper.close()
            return
        logger.warning("the helper is available now: %s", helper.name)
