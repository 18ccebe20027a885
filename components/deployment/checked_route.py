"""Routes whose requests are read by the intake of the version that answers them."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request as HttpRequest
from fastapi.responses import Response
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect

from components.deployment.answers import CLIENT_CLOSED_REQUEST
from components.deployment.versioned import version_of


class CheckedRequest(HttpRequest):
    """A request whose JSON does not stop the event loop, however large it is."""

    async def json(self) -> Any:
        return await version_of(self).intake.body(await self.body())


class CheckedRoute(APIRoute):
    """Refuses a body that no request needs before it is read or parsed."""

    def get_route_handler(self) -> Callable[[HttpRequest], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def checked(http: HttpRequest) -> Response:
            intake = version_of(http).intake
            request = CheckedRequest(http.scope, http.receive)
            if (announced := http.headers.get("content-length", "")).isdigit():
                intake.check_size(int(announced))
            try:
                await intake.check_body(await request.body())
            except ClientDisconnect:
                return Response(status_code=CLIENT_CLOSED_REQUEST)
            return await handle(request)

        return checked
