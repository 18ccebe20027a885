"""Prefect's server with its web pages, for ``lacewing up``: ``python -m flows.adapters.prefect_ui_server HOST PORT``.

It is the application that ``prefect server start`` runs, with one header more. Every page of Prefect's new UI (V2) asks
Amplitude for its configuration, whatever the settings say. The header allows the browser to ask this server only.
"""

import sys
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

# The pages are Prefect's own files, which hold inline styles and scripts; only where they may connect matters here.
_OWN_MEANS = "data: blob: 'unsafe-inline' 'unsafe-eval'"


class OnlyThisServer:
    """Adds to each answer the policy that pages load from, and connect to, this server alone."""

    def __init__(self, app: "ASGIApp", api_url: str) -> None:
        self.app = app
        host = urlsplit(api_url).netloc
        # A person may open the page by another name of this machine than the one that the API's address has.
        policy = f"default-src 'self' http://{host} ws://{host} {_OWN_MEANS}"
        self.header = (b"content-security-policy", policy.encode())

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        async def send_with_policy(message: "Message") -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", []), self.header]}
            await send(message)

        await self.app(scope, receive, send_with_policy)


def serve(host: str, port: int) -> None:
    """Be the server until a signal ends it."""
    import uvicorn
    from prefect.server.api.server import create_app

    app = OnlyThisServer(create_app(final=True), f"http://{host}:{port}/api")
    uvicorn.run(app, host=host, port=port, log_level="warning")


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
