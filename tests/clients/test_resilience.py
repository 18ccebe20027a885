"""Retries that end in time, and a breaker that lets one trial through."""

import threading
import time
from collections.abc import Callable

import pytest
from tenacity import retry_if_exception_type, wait_fixed

from components.clients.resilience import CircuitBreaker, RestingError, retrying


class Service:
    """Fails while it is down; counts who asks."""

    def __init__(self, down: bool = True) -> None:
        self.down = down
        self.asked = 0

    def ask(self) -> str:
        self.asked += 1
        if self.down:
            raise ValueError(f"failure {self.asked}")
        return "answer"


def breaker(
    failures: int = 2,
    rest_seconds: float = 0.2,
    opened: Callable[[str], None] = lambda last: None,
    closed: Callable[[], None] = lambda: None,
) -> CircuitBreaker:
    return CircuitBreaker(failures, rest_seconds, opened=opened, closed=closed)


def asked(guard: CircuitBreaker, service: Service) -> str:
    with guard.calling():
        return service.ask()


def fail(guard: CircuitBreaker, service: Service, times: int) -> None:
    for _ in range(times):
        with pytest.raises(ValueError, match="failure"):
            asked(guard, service)


def test_the_last_error_is_raised_after_all_tries() -> None:
    service = Service()
    with pytest.raises(ValueError, match="failure 3"):
        retrying(3, 5, wait_fixed(0), retry_if_exception_type(ValueError))(service.ask)
    assert service.asked == 3


def test_no_try_begins_after_the_time() -> None:
    service = Service()
    began = time.monotonic()
    with pytest.raises(ValueError, match="failure"):
        retrying(1000, 0.1, wait_fixed(0.04), retry_if_exception_type(ValueError))(service.ask)
    assert time.monotonic() - began < 0.15
    assert service.asked == 3


def test_after_failures_in_a_row_calls_are_refused_and_one_trial_brings_it_back() -> None:
    told: list[str] = []
    service = Service()
    guard = breaker(opened=told.append, closed=lambda: told.append("closed"))
    fail(guard, service, 2)
    assert guard.resting
    with pytest.raises(RestingError, match=r"for another 0\.[12] s after 2 failures in a row, the last: failure 2"):
        asked(guard, service)
    assert service.asked == 2
    time.sleep(0.22)
    assert not guard.resting
    fail(guard, service, 1)  # the trial
    assert guard.resting
    service.down = False
    time.sleep(0.22)
    assert asked(guard, service) == "answer"
    assert told == ["failure 2", "closed"]
    service.down = True
    fail(guard, service, 1)
    assert not guard.resting  # counted from the beginning again


def test_during_the_trial_others_are_refused_at_once() -> None:
    guard = breaker()
    fail(guard, Service(), 2)
    time.sleep(0.22)
    inside, end = threading.Event(), threading.Event()

    def trial() -> None:
        with guard.calling():
            inside.set()
            end.wait(5)

    thread = threading.Thread(target=trial)
    thread.start()
    assert inside.wait(5)
    healthy = Service(down=False)
    with pytest.raises(RestingError):
        asked(guard, healthy)
    assert healthy.asked == 0
    end.set()
    thread.join()
    assert asked(guard, healthy) == "answer"


def test_calls_run_side_by_side() -> None:
    guard = breaker()
    both = threading.Barrier(2, timeout=5)

    def call() -> None:
        with guard.calling():
            both.wait()

    threads = [threading.Thread(target=call) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not both.broken
