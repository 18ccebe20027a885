"""What becomes of a flow whose Prefect server goes away: it finishes without one.

Prefect shows a run, it does not do the work. So when its server does not answer any more, this says so once, asks it
for nothing else, and the flow goes on: its results are in MLflow and on disk as always. Prefect's own retries would
hold the flow for a minute at each request, and at the end raise an error of its HTTP library.
"""

import logging
import os
import sys
from collections.abc import Callable
from typing import Generic, TypeVar

from components.core.errors import ServiceError
from flows import console

Result = TypeVar("Result")

_RETRIES = "PREFECT_CLIENT_MAX_RETRIES"
_gone: list[str] = []


def server_is_gone() -> bool:
    """Whether Prefect's server has stopped answering this process."""
    return bool(_gone)


def give_up(what_happened: str) -> None:
    """Finish without Prefect's server from now on; says so once, with ``what_happened``."""
    if _gone:
        return
    _gone.append(what_happened)
    _stop_retrying()
    console.warn(
        f"{what_happened}. The flow finishes without it: results go to MLflow and to disk as always, "
        "and Prefect will show this run as crashed"
    )


def attempt(action: Callable[[], object]) -> None:
    """Tell Prefect something; without a server that answers, nothing is told."""
    if _gone:
        return
    import httpx

    try:
        action()
    except Exception as error:
        if isinstance(error, httpx.TransportError):
            give_up(f"Prefect's server at {os.environ.get('PREFECT_API_URL')} does not answer any more ({error!r})")
        if not _gone:
            raise


class Outcome(Generic[Result]):
    """What came of the flow's own work, kept aside in case that Prefect cannot be told."""

    def __init__(self) -> None:
        self._result: list[Result] = []
        self._error: BaseException | None = None

    def keep(self, work: Callable[[], Result]) -> Result:
        """Do the work and keep what it returns or raises."""
        try:
            result = work()
        except BaseException as error:
            self._error = error
            raise
        self._result.append(result)
        return result

    def of(self, run: Callable[[], Result]) -> Result:
        """``run()``, in which Prefect has the work done; if Prefect's server is gone, what came of the work itself."""
        try:
            return run()
        except Exception as error:
            if not _gone:
                raise
            if self._error is not None:
                raise self._error from None
            if self._result:
                return self._result[0]
            raise ServiceError(f"{_gone[0]}, before the flow began. Run the same command again.") from error


def _stop_retrying() -> None:
    os.environ[_RETRIES] = "0"
    if "prefect" in sys.modules:
        from prefect.settings import get_current_settings

        settings = get_current_settings()
        # Read again before each attempt, also by the requests that are being retried at this moment.
        settings.client.max_retries = 0
        # Its threads for lines and events would print every one that they cannot send.
        settings.logging.to_api.enabled = False
        logging.raiseExceptions = False
        settings.internal.logging_level = "CRITICAL"
