"""Connections that end in time: slow clients are cut off, and a server that stops tells its clients so.

uvicorn limits how long a connection may be idle between two requests, but neither how long a request may take to
arrive nor how long an answer may wait to be read. At the end it cuts the connections that are left, without a word.
"""

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

# Time for the answer 408, which the application sends, and for the last events of a server that stops.
GRACE_SECONDS = 1.0


def timed_protocol(seconds: float) -> type[H11Protocol]:
    """uvicorn's protocol, which gives clients ``seconds`` for their headers, their body, and to read what was sent."""

    class TimedProtocol(H11Protocol):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self._sending = _Deadline(self._cut)
            self._reading = _Deadline(self._cut)

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            transport.set_write_buffer_limits(high=0)  # so that we are told whenever something waits to be read
            self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._watch()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._reading.begin("answer", seconds)

        def resume_writing(self) -> None:
            super().resume_writing()
            self._reading.end()

        def connection_lost(self, exc: Exception | None) -> None:
            self._sending.end()
            self._reading.end()
            super().connection_lost(exc)

        def _watch(self) -> None:
            """Measure the time of the part of a request that is arriving."""
            if self.conn.their_state is h11.IDLE:
                self._sending.begin("headers", seconds)
            elif self.conn.their_state is h11.SEND_BODY:
                self._sending.begin("body", seconds + GRACE_SECONDS)
            else:
                self._sending.end()

        def _cut(self) -> None:
            self.transport.abort()

    return TimedProtocol


class _Deadline:
    """Calls ``expired`` if a part begins and neither ends nor gives way to another part in time."""

    def __init__(self, expired: Callable[[], None]) -> None:
        self._expired = expired
        self._part = ""
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, part: str, seconds: float) -> None:
        if part != self._part:
            self.end()
            self._part = part
            self._timer = asyncio.get_running_loop().call_later(seconds, self._expired)

    def end(self) -> None:
        self._part = ""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class DrainingServer(uvicorn.Server):
    """Lets requests in flight continue for a while after the signal to stop, and then ends them with an error."""

    def __init__(self, config: uvicorn.Config, seconds: float, end_requests: Callable[[], None]) -> None:
        """``end_requests`` is called ``seconds`` after the signal; a moment later uvicorn cuts what is left."""
        super().__init__(config)
        self._seconds = seconds
        self._end_requests = end_requests

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        ending = asyncio.get_running_loop().call_later(self._seconds, self._end_requests)
        try:
            await super().shutdown(sockets)
        finally:
            ending.cancel()
