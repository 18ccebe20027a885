"""Errors as OpenAI's clients expect them: ``{"error": {"message", "type", "param", "code"}}`` with a fitting status."""

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from components.core.errors import InputError, ServiceError
from components.deployment.decoding import ContextLengthError
from components.deployment.engine import DecodingError, QueueFullError
from components.deployment.grammar import SchemaError
from components.deployment.protocol import ErrorBody, ErrorDetail

# OpenAI's words for what pydantic found; anything else is an ``invalid_value``.
_CODES = {
    "missing": "missing_required_parameter",
    "extra_forbidden": "unknown_parameter",
    "unsupported": "unsupported_value",
    "empty_prompt": "empty_prompt",
}


class UnknownModelError(InputError):
    """A model that is not served here."""


class InvalidBodyError(InputError):
    """A body that no request needs."""


class UnsupportedError(InputError):
    """A parameter with a value that this server cannot follow."""

    def __init__(self, parameter: str, reason: str, value: object) -> None:
        super().__init__(f"{parameter}: {reason}; got {value}")
        self.parameter = parameter


class NoHelperError(UnsupportedError):
    """A request that asks for calls, or for what came of them, to a server without a helper."""

    def __init__(self, parameter: str, value: float) -> None:
        possible, given = ("false", "true") if value is True else ("0", f"{value:g}")
        reason = (
            f"this server answers with a plain model that has no helper, so only {possible} is possible: leave it out"
        )
        super().__init__(parameter, reason, given)


def detail(error: Exception) -> tuple[int, ErrorDetail]:
    """HTTP status and error of one of our exceptions."""
    message = str(error)
    if isinstance(error, UnknownModelError):
        return 404, _invalid(message, "model", "model_not_found")
    if isinstance(error, ContextLengthError):
        return 400, _invalid(message, "prompt", "context_length_exceeded")
    if isinstance(error, InvalidBodyError):
        return 400, _invalid(message, code="invalid_body")
    if isinstance(error, SchemaError):
        return 400, _invalid(message, "response_format", "unsupported_value")
    if isinstance(error, UnsupportedError):
        return 400, _invalid(message, error.parameter, "unsupported_value")
    if isinstance(error, InputError):
        return 400, _invalid(message, "prompt", "invalid_value")
    if isinstance(error, QueueFullError):
        return 503, ErrorDetail(message=message, type="server_error", code="server_overloaded")
    if isinstance(error, ServiceError) and not isinstance(error, DecodingError):
        return 503, ErrorDetail(message=message, type="server_error", code="server_unavailable")
    if isinstance(error, DecodingError):
        return 500, ErrorDetail(message=message, type="server_error", code="internal_error")
    return 500, ErrorDetail(
        message="internal error; the server's log says why", type="server_error", code="internal_error"
    )


def response(status: int, error: ErrorDetail, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """The answer that carries ``error``."""
    told = {503: {"Retry-After": "1"}, 401: {"WWW-Authenticate": "Bearer"}}.get(status, {})
    return JSONResponse(ErrorBody(error=error).model_dump(), status, {**told, **(headers or {})})


def register(app: FastAPI) -> None:
    """Make every error of ``app`` answer in this shape."""

    @app.exception_handler(RequestValidationError)
    def _invalid_request(request: Request, error: RequestValidationError) -> JSONResponse:
        return response(400, _validation_detail(error.errors()))

    @app.exception_handler(HTTPException)
    def _http(request: Request, error: HTTPException) -> JSONResponse:
        return response(error.status_code, _http_detail(request, error), error.headers)

    def _ours(request: Request, error: Exception) -> JSONResponse:
        return response(*detail(error))

    for kind in (InputError, ServiceError, Exception):
        app.add_exception_handler(kind, _ours)


def _invalid(message: str, param: str | None = None, code: str | None = None) -> ErrorDetail:
    return ErrorDetail(message=message, type="invalid_request_error", param=param, code=code)


def _http_detail(request: Request, error: HTTPException) -> ErrorDetail:
    route = f"{request.method} {request.url.path}"
    if error.status_code == 404:
        return _invalid(f"there is no {route}; see GET /openapi.json for what there is", code="unknown_url")
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "another method")
        return _invalid(f"{route} is not allowed; use {allowed}", code="method_not_allowed")
    return _invalid(str(error.detail), code="invalid_body")


def _validation_detail(errors: Sequence[Any]) -> ErrorDetail:
    """The first error, in a sentence that names the parameter, what was given and what is allowed."""
    first = errors[0]
    path = [str(part) for part in first["loc"] if part != "body"]
    if first["type"] == "json_invalid":
        reason = first.get("ctx", {}).get("error", first["msg"])
        return _invalid(f"the body is not valid JSON: {reason} at character {first['loc'][-1]}", code="invalid_json")
    if not path and (not isinstance(first["input"], dict)):
        return _invalid(
            "the body must be a JSON object, sent with the header Content-Type: application/json", code="invalid_body"
        )
    param = ".".join(path) or None
    if first["type"] == "missing":
        message = f"{param} is required"
    elif first["type"] == "extra_forbidden":
        message = f"{param} is not a parameter that this server knows"
    elif param is None:
        message = str(first["msg"])
    else:
        message = f"{param}: {first['msg']}; got {_shortened(first['input'])}"
    return _invalid(message, param, _CODES.get(first["type"], "invalid_value"))


def _shortened(value: object) -> str:
    text = repr(value[:60] if isinstance(value, str | bytes | list) else value)  # the whole may be megabytes
    return text if len(text) <= 60 else text[:57] + "..."
