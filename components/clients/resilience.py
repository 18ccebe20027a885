"""Protection against services that fail: retries (``tenacity``) and a circuit breaker (``pybreaker``)."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pybreaker
from tenacity import Retrying, stop_after_attempt, stop_any, stop_before_delay
from tenacity.retry import retry_base
from tenacity.wait import wait_base


class RestingError(Exception):
    """The breaker is open: the service is not to be asked now. The message says for how long and why."""


def retrying(tries: int, within_seconds: float, wait: wait_base, again: retry_base) -> Retrying:
    """Call at most ``tries`` times, with ``wait`` between, and begin no further try after ``within_seconds``.

    ``again`` says after which results or errors. What the last try gave or raised is given or raised.
    """
    return Retrying(
        stop=stop_any(stop_after_attempt(tries), stop_before_delay(within_seconds)),
        wait=wait,
        retry=again,
        retry_error_callback=lambda state: state.outcome.result() if state.outcome else None,
    )


class CircuitBreaker:
    """Closed until ``failures`` in a row; then open for ``rest_seconds``; then one trial decides. Thread-safe.

    The states are pybreaker's. That the trial is *one* is ours: pybreaker either makes one call at a time, so that
    all wait for a slow one, or lets any number through once the rest is over.
    """

    def __init__(
        self, failures: int, rest_seconds: float, *, opened: Callable[[str], None], closed: Callable[[], None]
    ) -> None:
        """``opened`` is told the last failure when the rests begin, ``closed`` when the service answers again."""
        self._rest_seconds = rest_seconds
        self._watch = _Watch(opened, closed)
        self._breaker = pybreaker.CircuitBreaker(
            fail_max=failures, reset_timeout=rest_seconds, listeners=[self._watch], throw_new_error_on_trip=False
        )

    @property
    def resting(self) -> bool:
        """Whether every call is refused now."""
        return self._breaker.current_state == pybreaker.STATE_OPEN and self._left() > 0

    @contextmanager
    def calling(self) -> Iterator[None]:
        """Around one call: an error raised inside is a failure. Raises ``RestingError`` if it must not be made."""
        try:
            with self._breaker.calling():
                yield
        except pybreaker.CircuitBreakerError as error:
            raise RestingError(
                f"for another {max(0.0, self._left()):.1f} s after {self._breaker.fail_counter} failures in a row, "
                f"the last: {self._watch.last}"
            ) from error

    def _left(self) -> float:
        return self._watch.opened_at + self._rest_seconds - time.monotonic()


class _Watch(pybreaker.CircuitBreakerListener):
    """Remembers the last failure, and refuses all calls but one while the breaker is half open."""

    def __init__(self, opened: Callable[[str], None], closed: Callable[[], None]) -> None:
        self.last = ""
        self.opened_at = 0.0
        self._opened, self._closed = opened, closed
        self._trial = threading.Lock()

    def before_call(self, cb: pybreaker.CircuitBreaker, func: Callable[..., Any], *_: Any, **__: Any) -> None:
        if cb.current_state == pybreaker.STATE_HALF_OPEN and not self._trial.acquire(blocking=False):
            raise pybreaker.CircuitBreakerError("another call is the trial")

    def failure(self, cb: pybreaker.CircuitBreaker, exc: BaseException) -> None:
        self.last = str(exc)

    def state_change(self, cb: pybreaker.CircuitBreaker, old_state: Any, new_state: Any) -> None:
        old, new = old_state.name if old_state else "", new_state.name
        if old == pybreaker.STATE_HALF_OPEN:
            self._trial.release()
        if new == pybreaker.STATE_OPEN:
            self.opened_at = time.monotonic()
            if old == pybreaker.STATE_CLOSED:
                self._opened(self.last)
        elif new == pybreaker.STATE_CLOSED and old:
            self._closed()
