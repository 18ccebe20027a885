"""What stands between the cascade and a helper that is slow, down or talking nonsense.

Every answer has a time-out, whatever the helper does: it works in a thread of its own, and one that is late is left
behind. Failures are tried again as long as there is time. After several failures in a row the helper is left alone for
a while (a circuit breaker): calls fail at once, so the small model goes on at full speed; then one call tries whether
it is back.
"""

import logging
import time
from collections.abc import Sequence
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress

from tenacity import retry_if_result, wait_fixed

from components.cascade.config import HelperConfig
from components.cascade.helpers.base import Call, Helper, HelperError, Reply
from components.cascade.reply_tokens import reply_fault
from components.clients.resilience import CircuitBreaker, RestingError, retrying
from components.clients.threads import DaemonThreads

_THREADS = 8  # each late answer occupies one until it comes
_PAUSE = wait_fixed(0.02)  # before another try: what was wrong may pass

logger = logging.getLogger(__name__)


class ResilientHelper:
    """``helper`` with time-out, retries, circuit breaker and a check of what it says. Thread-safe."""

    def __init__(self, helper: Helper, config: HelperConfig) -> None:
        self._helper = helper
        self._timeout_seconds = config.timeout_seconds
        self._tries = 1 + config.retries
        self._breaker = CircuitBreaker(
            config.failures_before_rest,
            config.rest_seconds,
            opened=lambda last: logger.warning("the helper is left alone for %g s: %s", config.rest_seconds, last),
            closed=lambda: logger.warning("the helper answers again"),
        )
        self._threads = DaemonThreads(_THREADS)
        # Many requests that end together must not take the threads from those that ask.
        self._forgetting = DaemonThreads(1)

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
        answers: list[Reply | HelperError] = []
        try:
            # One failure however many calls were put together: it is the helper that is judged.
            with suppress(HelperError), self._breaker.calling():
                answers = self._answers(calls)
                _raise_if_all_failed(answers)
        except RestingError as refusal:
            return self._all_failed(calls, f"is left alone {refusal}")
        return answers

    def forget(self, session: str) -> None:
        """Passed on without waiting: the helper may be busy with a late answer."""
        self._forgetting.later(lambda: self._helper.forget(session))

    def check(self) -> None:
        self._helper.check()

    def close(self) -> None:
        """Close the helper; threads that wait for late answers are left to the end of the process."""
        self._threads.close()
        self._forgetting.close()
        self._helper.close()

    def _answers(self, calls: Sequence[Call]) -> list[Reply | HelperError]:
        """What the helper says to each call; those that failed are asked again while there are tries and time."""
        deadline = time.monotonic() + self._timeout_seconds
        answers: dict[int, Reply | HelperError] = {}

        def asked_in_vain() -> bool:
            """Whether another try may do better."""
            places = [place for place in range(len(calls)) if isinstance(answers.get(place), HelperError | None)]
            replies, late = self._tried([calls[place] for place in places], deadline)
            answers.update(zip(places, replies, strict=True))
            return not late and any(isinstance(reply, HelperError) for reply in replies)

        retrying(self._tries, self._timeout_seconds, _PAUSE, retry_if_result(bool))(asked_in_vain)
        return [answers[place] for place in range(len(calls))]

    def _tried(self, calls: Sequence[Call], deadline: float) -> tuple[list[Reply | HelperError], bool]:
        """One try, and whether it came too late for another."""
        future = self._threads.run(lambda: self._helper.answer(calls))
        if future is None:
            return self._all_failed(calls, f"has not answered {_THREADS} earlier calls yet"), True
        try:
            replies = future.result(timeout=max(0.0, deadline - time.monotonic()))
        except FutureTimeoutError:
            return self._all_failed(calls, f"did not answer within {self._timeout_seconds:g} s"), True
        except HelperError as error:
            return [error] * len(calls), False
        except Exception as error:  # whatever a helper stumbles over, the small model can go on
            logger.warning("%s stumbled", self.name, exc_info=error)
            return self._all_failed(calls, f"stumbled over {type(error).__name__}"), False
        if len(replies) != len(calls):
            return self._all_failed(calls, f"gave {len(replies)} replies to {len(calls)} calls"), False
        return [_usable(self.name, reply, call) for reply, call in zip(replies, calls, strict=True)], False

    def _all_failed(self, calls: Sequence[Call], reason: str) -> list[Reply | HelperError]:
        return [HelperError(f"{self.name} {reason}")] * len(calls)


def _raise_if_all_failed(answers: Sequence[Reply | HelperError]) -> None:
    errors = [reply for reply in answers if isinstance(reply, HelperError)]
    if errors and len(errors) == len(answers):
        raise errors[0]


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
