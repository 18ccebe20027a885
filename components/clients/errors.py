"""How an endpoint may fail. A message is what the endpoint did, to be read after its name: "did not answer in time"."""

from components.core.errors import ServiceError


class EndpointError(ServiceError):
    """The endpoint gave no usable answer."""


class UnreachableError(EndpointError):
    """No server answers at the address."""


class LateError(EndpointError):
    """The answer was not complete in time."""


class StatusError(EndpointError):
    """The server answered, but not with success."""

    def __init__(self, status: int, said: str) -> None:
        super().__init__(f"answered {status} ({said!r})" if said else f"answered {status}")
        self.status = status


class MalformedError(EndpointError):
    """The server answered with JSON that is not what was asked for."""
