"""Each request gets a version of the model, keeps it to its end, and its answer names it."""

from urllib.parse import quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from components.deployment.middleware import GUARDED
from components.deployment.request_log import record_of
from components.deployment.versions import Version, Versions

MODEL_HEADER = "X-Lacewing-Model"
BUNDLE_HEADER = "X-Lacewing-Bundle"
REQUEST_ID = "x-request-id"


class Versioned:
    """ASGI middleware: what lies under ``/v1/`` finds its version with ``version_of``."""

    def __init__(self, app: ASGIApp, versions: Versions) -> None:
        self.app = app
        self._versions = versions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(GUARDED):
            await self.app(scope, receive, send)
            return
        # Only what is generated is put to a version on trial: what it says of itself is that of the current one.
        request = Headers(scope=scope).get(REQUEST_ID, "")
        version = self._versions.take(request, tried=scope["method"] == "POST")

        async def named(event: Message) -> None:
            if event["type"] == "http.response.start":
                headers = MutableHeaders(scope=event)
                headers[MODEL_HEADER] = quote(version.name)  # a header is ASCII, a registered model's name need not be
                if version.origin.key:
                    headers[BUNDLE_HEADER] = version.origin.key[:16]
            await send(event)

        scope.setdefault("state", {})["version"] = version
        record_of(scope).version = version.name
        try:
            await self.app(scope, receive, named)
        finally:
            # A connection that is kept open keeps the scope of its last request, which must not keep the version.
            del scope["state"]["version"]
            self._versions.give_back(version)


def version_of(http: Request) -> Version:
    """The version that answers this request."""
    version = http.state.version
    assert isinstance(version, Version)
    return version
