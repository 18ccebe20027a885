"""What stands between the cascade and a helper that is slow, down or talking nonsense.

Every answer has a time-out, whatever the helper does: it works in a thread of its own, and one that is late is left
behind. Failures are tried again as long as there is time. After several failures in a row the helper is left alone for
a while (a circuit breaker): calls fail at once, so the small model goes on at full speed; then one call tries whether
it is back.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from queue import SimpleQueue
from typing import TypeVar

from components.cascade.config import HelperConfig
from components.cascade.helpers.base import Call, Helper, HelperError, Reply
from components.cascade.reply_tokens import reply_fault

_THREADS = 8  # each late answer occupies one until it comes
_PAUSE_SECONDS = 0.02  # before another try: what was wrong may pass

T = TypeVar("T")

logger = logging.getLogger(__name__)


class ResilientHelper:
    """``helper`` with time-out, retries, circuit breaker and a check of what it says. Thread-safe."""

    def __init__(self, helper: Helper, config: HelperConfig) -> None:
        self._helper = helper
        self._timeout_seconds = config.timeout_seconds
        self._tries = 1 + config.retries
        self._breaker = _Breaker(config.failures_before_rest, config.rest_seconds)
        self._threads = _Threads(_THREADS)

    @property
    def name(self) -> str:
        return self._helper.name

    @property
    def resting(self) -> bool:
        """Whether the helper is left alone because it failed too often."""
        return self._breaker.resting

    def answer(self, calls: Sequence[Call]) -> list[Reply | HelperError]:
        """One usable reply or error for each call, within the time-out."""
        if not calls:
            return []
        deadline = time.monotonic() + self._timeout_seconds
        if (reason := self._breaker.refusal()) is not None:
            return [HelperError(f"{self.name} is left alone {reason}")] * len(calls)
        answers: list[Reply | HelperError] = []
        open_places = list(range(len(calls)))
        for attempt in range(self._tries):
            if attempt:
                pause = min(_PAUSE_SECONDS, deadline - time.monotonic())
                if pause <= 0:
                    break
                time.sleep(pause)
            found, late = self._tried([calls[place] for place in open_places], deadline)
            if not answers:
                answers = found
            else:
                for place, reply in zip(open_places, found, strict=True):
                    answers[place] = reply
            open_places = [place for place, reply in enumerate(answers) if isinstance(reply, HelperError)]
            if late or not open_places:
                break
        # One failure however many calls were put together: it is the helper that is judged.
        errors = [reply for reply in answers if isinstance(reply, HelperError)]
        self._breaker.record(errors[0] if len(errors) == len(answers) else None)
        return answers

    def forget(self, session: str) -> None:
        """Passed on without waiting: the helper may be busy with a late answer."""
        self._threads.later(lambda: self._helper.forget(session))

    def check(self) -> None:
        self._helper.check()

    def close(self) -> None:
        """Close the helper; threads that wait for late answers are left to the end of the process."""
        self._threads.close()
        self._helper.close()

    def _tried(self, calls: Sequence[Call], deadline: float) -> tuple[list[Reply | HelperError], bool]:
        """One try, and whether it came too late for another."""
        began = time.monotonic()
        future = self._threads.run(lambda: self._helper.answer(calls))
        if future is None:
            return self._all_failed(calls, f"has not answered {_THREADS} earlier calls yet"), True
        try:
            replies = future.result(timeout=max(0.0, deadline - began))
        except FutureTimeoutError:
            return self._all_failed(calls, f"did not answer within {self._timeout_seconds:g} s"), True
        except HelperError as error:
            return [error] * len(calls), False
        except Exception as error:  # whatever a helper stumbles over, the small model can go on
            logger.warning("%s stumbled", self.name, exc_info=error)
            return self._all_failed(calls, f"stumbled over {type(error).__name__}: {error}"), False
        if len(replies) != len(calls):
            return self._all_failed(calls, f"gave {len(replies)} replies to {len(calls)} calls"), False
        return [_usable(self.name, reply, call) for reply, call in zip(replies, calls, strict=True)], False

    def _all_failed(self, calls: Sequence[Call], reason: str) -> list[Reply | HelperError]:
        return [HelperError(f"{self.name} {reason}")] * len(calls)


def _usable(name: str, reply: Reply | HelperError, call: Call) -> Reply | HelperError:
    """``reply`` if it can be written, else why not. An empty one is no failure: the helper knows nothing to say."""
    if isinstance(reply, HelperError) or not reply.text:
        return reply
    fault = reply_fault(reply.text, call.max_tokens)
    if reply.tokens > call.max_tokens:
        fault = f"the reply has {reply.tokens} tokens, {call.max_tokens} were asked for"
    # A single space can be a token of its own, in front of a number.
    elif reply.text.isspace() and not (call.unit == "token" and reply.text == " "):
        fault = "the reply is nothing but white space"
    return HelperError(f"{name}: {fault}") if fault else reply


class _Breaker:
    """Closed until ``failures_before_rest`` failures in a row; then open for ``rest_seconds``; then one trial."""

    def __init__(self, failures_before_rest: int, rest_seconds: float) -> None:
        self._limit = failures_before_rest
        self._rest_seconds = rest_seconds
        self._failures = 0
        self._last: HelperError | None = None
        self._opened = 0.0
        self._lock = threading.Lock()

    @property
    def resting(self) -> bool:
        with self._lock:
            return self._failures >= self._limit and time.monotonic() < self._opened + self._rest_seconds

    def refusal(self) -> str | None:
        """Why no call may be made now; ``None`` lets one through, after a rest only one."""
        with self._lock:
            if self._failures < self._limit:
                return None
            left = self._opened + self._rest_seconds - time.monotonic()
            if left > 0:
                return f"for another {left:.1f} s after {self._failures} failures in a row, the last: {self._last}"
            self._opened = time.monotonic()  # this call tries; if it fails or hangs, the rest begins anew
            return None

    def record(self, error: HelperError | None) -> None:
        with self._lock:
            if error is None:
                if self._failures >= self._limit:
                    logger.warning("the helper answers again")
                self._failures = 0
                return
            self._failures += 1
            self._last = error
            if self._failures == self._limit:
                logger.warning("the helper is left alone for %g s: %s", self._rest_seconds, error)
            if self._failures >= self._limit:
                self._opened = time.monotonic()


class _Threads:
    """Daemon threads that are used again, the last one used first: at the end of the process nobody waits for one that
    hangs, and a model that computes in several threads of its own meets the same caller each time."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._count = 0
        self._idle: list[SimpleQueue[Callable[[], None] | None]] = []
        self._waiting: list[Callable[[], None]] = []
        self._closed = False
        self._lock = threading.Lock()

    def run(self, work: Callable[[], T]) -> "Future[T] | None":
        """Do ``work`` in a thread; ``None`` if all are busy."""
        future: Future[T] = Future()

        def job() -> None:
            try:
                future.set_result(work())
            except BaseException as error:  # handed to whoever waits
                future.set_exception(error)

        return future if self._start(job) else None

    def later(self, work: Callable[[], None]) -> None:
        """Do ``work`` as soon as a thread is free."""
        self._start(work, queued=True)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            for queue in self._idle:
                queue.put(None)
            self._idle.clear()

    def _start(self, job: Callable[[], None], queued: bool = False) -> bool:
        with self._lock:
            if self._closed or (not self._idle and self._count == self._most):
                if queued and not self._closed:
                    self._waiting.append(job)
                return False
            if self._idle:
                queue = self._idle.pop()
            else:
                queue = SimpleQueue()
                self._count += 1
                threading.Thread(target=self._serve, args=(queue,), name="helper", daemon=True).start()
            queue.put(job)
            return True

    def _serve(self, queue: "SimpleQueue[Callable[[], None] | None]") -> None:
        while (job := queue.get()) is not None:
            try:
                job()
            except Exception as error:
                logger.warning("a helper stumbled while it was told that a request has ended", exc_info=error)
            with self._lock:
                if self._waiting:
                    queue.put(self._waiting.pop(0))
                elif self._closed:
                    return
                else:
                    self._idle.append(queue)
