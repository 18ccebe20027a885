"""Checks before a request is read: which host it addresses, whose key it has, its size, and how long it takes."""

import asyncio
import math
from collections.abc import Mapping

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from components.deployment import errors
from components.deployment.hosts import AllowedHosts
from components.deployment.keys import Clients
from components.deployment.protocol import ErrorDetail

GUARDED = "/v1/"


class RequestLimits:
    """ASGI middleware: known hosts only, a bearer key and its limits for ``/v1/`` (``/health`` and ``/metrics`` stay
    open), and limits on bodies. Whose key it is, later layers read in ``scope["state"]["client"]``."""

    def __init__(
        self, app: ASGIApp, hosts: AllowedHosts, clients: Clients, max_body_bytes: int, body_seconds: float
    ) -> None:
        """Without any ``clients`` everybody may come; ``body_seconds`` is the longest time that a body may take."""
        self.app = app
        self._hosts = hosts
        self._body_seconds = body_seconds
        self._clients = clients
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
        if scope["path"].startswith(GUARDED) and self._clients:
            client = self._clients.holder(headers.get(b"authorization", b""))
            if client is None:
                message = "give a key of this server: Authorization: Bearer KEY"
                await _refuse(401, message, "invalid_api_key")(scope, receive, send)
                return
            if met := client.admit():
                limit, seconds = met
                message = (
                    f"the key of {client.name!r} has reached its {limit}: try again in {math.ceil(seconds)} seconds"
                )
                await _refuse(429, message, "rate_limit_exceeded", {"Retry-After": str(math.ceil(seconds))})(
                    scope, receive, send
                )
                return
            scope.setdefault("state", {})["client"] = client
        await self._limited(scope, receive, send, headers.get(b"content-length", b"0"))

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


def _refuse(status: int, message: str, code: str, headers: Mapping[str, str] | None = None) -> ASGIApp:
    return errors.response(status, ErrorDetail(message=message, type="invalid_request_error", code=code), headers)
