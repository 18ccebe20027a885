"""Checks before a request is read: whom it addresses, the key if there is one, its size, and how long it takes."""

import asyncio
import hmac

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from components.deployment import errors
from components.deployment.hosts import AllowedHosts
from components.deployment.protocol import ErrorDetail

GUARDED = "/v1/"


class RequestLimits:
    """ASGI middleware: known hosts only, a bearer key for ``/v1/`` (``/health`` and ``/metrics`` stay open), and limits
    on bodies."""

    def __init__(
        self, app: ASGIApp, hosts: AllowedHosts, api_key: str, max_body_bytes: int, body_seconds: float
    ) -> None:
        """An empty ``api_key`` accepts every client; ``body_seconds`` is the longest time that a body may take."""
        self.app = app
        self._hosts = hosts
        self._body_seconds = body_seconds
        self._authorization = f"Bearer {api_key}".encode() if api_key else b""
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        host = headers.get(b"host")
        if not self._hosts.allows(host):
            message = (
                f"this server is not addressed as {(host or b'').decode(errors='replace')!r}: use localhost or its "
                "address, or start it with allowed_hosts=[NAME]"
            )
            await _refuse(403, message, "host_not_allowed")(scope, receive, send)
            return
        if scope["path"].startswith(GUARDED) and not self._authorised(headers.get(b"authorization", b"")):
            await _refuse(401, "give the server's API key: Authorization: Bearer KEY", "invalid_api_key")(
                scope, receive, send
            )
            return
        await self._limited(scope, receive, send, headers.get(b"content-length", b"0"))

    def _authorised(self, given: bytes) -> bool:
        # Compared in constant time: an early exit would tell how many characters were right.
        return not self._authorization or hmac.compare_digest(given, self._authorization)

    async def _limited(self, scope: Scope, receive: Receive, send: Send, announced: bytes) -> None:
        """Run the application, but stop reading a body that is too large, as announced or as found, or too slow."""
        message = f"the body exceeds {self._max_body_bytes:,} bytes"
        if announced.isdigit() and int(announced) > self._max_body_bytes:
            await _refuse(413, message, "body_too_large")(scope, receive, send)
            return
        received, complete = 0, False
        deadline = asyncio.get_running_loop().time() + self._body_seconds

        async def counted() -> Message:
            nonlocal received, complete
            try:
                async with asyncio.timeout_at(None if complete else deadline):
                    event = await receive()
            except TimeoutError:
                late = f"the body did not arrive within {self._body_seconds:g} seconds"
                raise HTTPException(408, late, {"Connection": "close"}) from None
            received += len(event.get("body", b""))
            complete = not event.get("more_body", False)
            if received > self._max_body_bytes:
                raise HTTPException(413, message)  # the one exception that FastAPI lets pass while it reads
            return event

        await self.app(scope, counted, send)


def _refuse(status: int, message: str, code: str) -> ASGIApp:
    return errors.response(status, ErrorDetail(message=message, type="invalid_request_error", code=code))
