"""One record for each request: what was counted, how long it took and how it ended; never what was said.

The record lives in the request's scope from its arrival to the end of its answer. Layers below fill it in, and then it
is logged. Its number is ours, in the header ``x-request-id`` and in the ``id`` of an answer: one that a client chose
could hold text.
"""

import logging
import time
from dataclasses import dataclass, field, fields
from typing import Any
from uuid import uuid4

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from components.deployment.prompt_times import PromptTimes

REQUESTS = "lacewing.requests"
HEADER = "x-request-id"
# Asked every few seconds by machines.
_UNLOGGED = frozenset({"/health", "/metrics"})
# Of a request to something that is none of our routes: its path is text of a client.
_OTHER = "other"

logger = logging.getLogger(REQUESTS)


@dataclass
class RequestRecord:
    """What is known of one request."""

    id: str
    method: str
    model: str
    """Name of the served model."""
    version: str = ""
    """Which version of it answered; empty if none was asked."""
    route: str = _OTHER
    """The route, not the path."""
    status: int | None = None
    """``None``: the client left before there was an answer."""
    key: str | None = None
    """Name of the key; ``None`` if the server asks for none, or the request had none of its keys."""
    prompt_tokens: int | None = None
    """``None``, as all that follow: nothing was generated."""
    completion_tokens: int | None = None
    calls: int | None = None
    """Calls to the helper, answered or not."""
    failed_calls: int | None = None
    queue_seconds: float | None = None
    """From the submission to the moment when the first of the prompts has its place in the batch."""
    first_token_seconds: float | None = None
    """From the submission to the first piece of the answer."""
    seconds: float = 0.0
    """From the arrival of the headers to the end of the answer."""
    finish_reason: str | None = None
    """Of several prompts with several reasons, all of them; ``error`` if the answer ended with one."""
    client_gone: bool = False
    """Whether the client left before the end of the answer."""
    prompts: list[PromptTimes] = field(default_factory=list)
    """For traces, which show what a line has no room for."""

    @property
    def line(self) -> dict[str, Any]:
        """What is logged of it, by name."""
        return {each.name: getattr(self, each.name) for each in fields(self) if each.name != "prompts"}

    @property
    def worth_a_word(self) -> bool:
        """Whether anybody wants to know of it: a health check that passes says nothing."""
        return self.route not in _UNLOGGED or self.status != 200


class RequestLog:
    """ASGI middleware around all others: keeps the record and logs it, except of successful health checks."""

    def __init__(self, app: ASGIApp, model: str) -> None:
        self._app, self._model = app, model

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record = RequestRecord(uuid4().hex, _method(scope), self._model)
        scope.setdefault("state", {})["record"] = record
        began, complete = time.perf_counter(), False

        async def watched() -> Message:
            event = await receive()
            record.client_gone |= event["type"] == "http.disconnect" and not complete
            return event

        async def told(event: Message) -> None:
            nonlocal complete
            if event["type"] == "http.response.start":
                record.status = event["status"]
                MutableHeaders(scope=event)[HEADER] = record.id
            complete = event["type"] == "http.response.body" and not event.get("more_body", False)
            await send(event)

        try:
            await self._app(scope, watched, told)
        except BaseException as error:
            if isinstance(error, Exception) and record.status is None:
                record.status = 500  # said by the layer around this one
            raise
        finally:
            record.seconds = time.perf_counter() - began
            record.route = getattr(scope.get("route"), "path", _OTHER)
            client = scope["state"].get("client")
            record.key = client.name if client is not None else None
            if record.worth_a_word:
                logger.info("request", extra={"request": record})


def record_of(scope: Scope) -> RequestRecord:
    """The record of the request with this scope."""
    record = scope["state"]["record"]
    assert isinstance(record, RequestRecord)
    return record


def _method(scope: Scope) -> str:
    """HTTP lets a client invent one."""
    method = str(scope["method"])
    return method if method in {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"} else _OTHER
