"""Threads whose work can be abandoned, for timeouts that hold whatever the work does.

Why not ``concurrent.futures``: the interpreter joins its threads at exit, so that work
which hangs would hang the process.
"""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import TypeVar

T = TypeVar("T")

logger = logging.getLogger(__name__)


class DaemonThreads:
    """At most ``most`` threads, the last one used first: a model that computes in several threads of its own meets
    the same caller each time."""

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
                threading.Thread(target=self._serve, args=(queue,), name="left-behind", daemon=True).start()
            queue.put(job)
            return True

    def _serve(self, queue: "SimpleQueue[Callable[[], None] | None]") -> None:
        while (job := queue.get()) is not None:
            try:
                job()
            except Exception as error:
                logger.warning("abandoned work failed", exc_info=error)
            with self._lock:
                if self._waiting:
                    queue.put(self._waiting.pop(0))
                elif self._closed:
                    return
                else:
                    self._idle.append(queue)
