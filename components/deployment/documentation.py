"""What the OpenAPI document says about answers: the stream, and every error with its body."""

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

from components.deployment.protocol import ErrorBody

# Any status of ``responses``; FastAPI's own type.
Responses = dict[int | str, dict[str, Any]]

_REASONS = {
    400: "A parameter, or the body, is not as it must be; the message names it and what is allowed.",
    401: "The server asks for a key, and the request has none of its keys.",
    403: "The request addresses the server by a name that is not its own.",
    404: "There is no such model here.",
    408: "The body took too long to arrive.",
    413: "The body is too large.",
    429: "The key has reached one of its limits; Retry-After says when to come again.",
    500: "The model failed on this request; the server's log says why.",
    503: "The server is busy or stopping; try again later.",
}


def errors(*statuses: int) -> Responses:
    """Errors that a route may answer with."""
    return {status: {"model": ErrorBody, "description": _REASONS[status]} for status in statuses}


def generated(whole: type[BaseModel], chunk: type[BaseModel]) -> Responses:
    """A generated answer, in one piece or as a stream of ``chunk``, and what may go wrong."""
    answer = {
        "model": whole,
        "description": f"The answer; with stream=true server-sent events, each a {chunk.__name__} or an error.",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    }
    return {200: answer, **errors(*_REASONS)}


def health() -> Responses:
    """The state of the server."""
    return errors(403, 503)


def without_422(app: FastAPI) -> None:
    """Leave out FastAPI's own answer to an invalid request, which this application never gives: it answers 400."""
    document = app.openapi

    def corrected() -> dict[str, Any]:
        schema = document()
        for path in schema["paths"].values():
            for operation in path.values():
                operation["responses"].pop("422", None)
        return schema

    app.openapi = corrected  # type: ignore[method-assign]
