"""HTTP for the endpoint client: a complete answer within time and size limits, and requests without extra headers.

Imports ``httpx2``, the HTTP library of the package ``openai``; imported with it, when a client is made.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import httpx2

from components.clients.errors import EndpointError, LateError

# The package adds headers about this machine and its Python, and others that it takes from environment variables.
_SENT_HEADERS = frozenset({"host", "content-type", "content-length", "accept", "connection", "user-agent"})


class Bounds(NamedTuple):
    """What one answer may take."""

    deadline: float
    """Of ``time.monotonic``."""
    n_bytes: int


_bounds: ContextVar[Bounds] = ContextVar("bounds")


@contextmanager
def bounded(bounds: Bounds) -> Iterator[None]:
    """Keep the request that is made inside, in this thread, within ``bounds``."""
    token = _bounds.set(bounds)
    try:
        yield
    finally:
        _bounds.reset(token)


def http_client(api_key: str) -> httpx2.Client:
    """A client that sends ``api_key``, if any, and follows no redirects.

    It uses neither proxies nor ``~/.netrc``: what the environment happens to hold shall not decide where text and key
    go.
    """
    return httpx2.Client(transport=_BoundedTransport(api_key), trust_env=False, follow_redirects=False)


class _BoundedTransport(httpx2.BaseTransport):
    def __init__(self, api_key: str) -> None:
        self._headers = {"Accept-Encoding": "identity"} | ({"Authorization": f"Bearer {api_key}"} if api_key else {})
        self._connections = httpx2.HTTPTransport(trust_env=False)

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        sent = {name: value for name, value in request.headers.items() if name in _SENT_HEADERS}
        response = self._connections.handle_request(
            httpx2.Request(
                request.method,
                request.url,
                headers=sent | self._headers,
                stream=request.stream,
                extensions=request.extensions,
            )
        )
        assert isinstance(response.stream, httpx2.SyncByteStream)
        response.stream = _BoundedStream(response.stream, _bounds.get())
        return response

    def close(self) -> None:
        self._connections.close()


class _BoundedStream(httpx2.SyncByteStream):
    def __init__(self, stream: httpx2.SyncByteStream, bounds: Bounds) -> None:
        self._stream, self._bounds = stream, bounds

    def __iter__(self) -> Iterator[bytes]:
        n_bytes = 0
        for part in self._stream:
            n_bytes += len(part)
            if n_bytes > self._bounds.n_bytes:
                raise EndpointError(f"sent more than {self._bounds.n_bytes:,} bytes")
            if time.monotonic() > self._bounds.deadline:  # HTTP time-outs are per read: a trickle never meets them
                raise LateError("did not answer in time")
            yield part

    def close(self) -> None:
        self._stream.close()
