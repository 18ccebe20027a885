"""Checks before a request is read: its size, and the key if there is one."""

import hmac

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from components.deployment import errors
from components.deployment.protocol import ErrorDetail

GUARDED = "/v1/"


class RequestLimits:
    """ASGI middleware: a bearer key for ``/v1/`` (``/health`` and ``/metrics`` stay open) and a limit on bodies."""

    def __init__(self, app: ASGIApp, api_key: str, max_body_bytes: int) -> None:
        """An empty ``api_key`` accepts every client."""
        self.app = app
        self._authorization = f"Bearer {api_key}".encode() if api_key else b""
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
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
        """Run the application, but stop reading a body that is announced or turns out to be too large."""
        message = f"the body exceeds {self._max_body_bytes:,} bytes"
        if announced.isdigit() and int(announced) > self._max_body_bytes:
            await _refuse(413, message, "body_too_large")(scope, receive, send)
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            event = await receive()
            received += len(event.get("body", b""))
            if received > self._max_body_bytes:
                raise HTTPException(413, message)  # the one exception that FastAPI lets pass while it reads
            return event

        await self.app(scope, counted, send)


def _refuse(status: int, message: str, code: str) -> ASGIApp:
    return errors.response(status, ErrorDetail(message=message, type="invalid_request_error", code=code))
