"""From other threads into an event loop, with one wake-up for all that has come meanwhile.

To wake a loop is a system call. The decode thread has something for each of its requests at the same moment, and would
make one for each.
"""

import asyncio
from collections import deque
from typing import TypeVar
from weakref import WeakKeyDictionary

T = TypeVar("T")


class Inbox:
    """What waits to be taken into the queues of one event loop. It does not keep the loop."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[asyncio.Queue[object], object]] = deque()
        self._woken = False

    def put(self, loop: asyncio.AbstractEventLoop, queue: "asyncio.Queue[T]", item: T) -> None:
        """Put ``item`` into ``queue`` of ``loop``, soon; from any thread. No effect if the loop is closed."""
        self._waiting.append((queue, item))  # type: ignore[arg-type]
        if self._woken or loop.is_closed():
            return
        self._woken = True
        loop.call_soon_threadsafe(self._hand_out)

    def _hand_out(self) -> None:
        self._woken = False  # first: what is put from now on wakes the loop again
        while self._waiting:
            queue, item = self._waiting.popleft()
            queue.put_nowait(item)


_inboxes: "WeakKeyDictionary[asyncio.AbstractEventLoop, Inbox]" = WeakKeyDictionary()


def inbox_of(loop: asyncio.AbstractEventLoop) -> Inbox:
    """The one inbox of ``loop``."""
    return _inboxes.setdefault(loop, Inbox())
