"""What a server process logs: one line per event, as text for people or as JSON for machines, and no text of a user.

A request's line holds counts and times only (``request_log.py``). What else is logged tells what happened, in words
that were written here. An exception may carry what somebody sent, so of exceptions only kind and place are logged; the
message only of those that the operating system or torch raise.
"""

import json
import logging
import sys
import time
import traceback
from types import TracebackType
from typing import Any, TextIO

from components.deployment.config import LogFormat
from components.deployment.request_log import REQUESTS, RequestRecord

# Memory, devices, files: ``OutOfMemoryError`` of torch is a ``RuntimeError``.
_TOLD = (OSError, MemoryError, RuntimeError)
_ExceptionInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


def configure(format: LogFormat, stream: TextIO | None = None) -> None:
    """Log to ``stream`` (``None``: standard error) in this process; ``auto`` is text on a terminal, else JSON."""
    handler = handler_of(format, sys.stderr if stream is None else stream)
    logging.root.handlers[:] = [handler]
    logging.root.setLevel(logging.WARNING)
    logging.getLogger(REQUESTS).setLevel(logging.INFO)


def handler_of(format: LogFormat, stream: TextIO) -> logging.Handler:
    """What writes the lines to ``stream``."""
    handler = logging.StreamHandler(stream)
    readable = format == "text" or (format == "auto" and stream.isatty())
    handler.setFormatter(TextLines() if readable else JsonLines())
    return handler


class _Lines(logging.Formatter):
    """Exceptions without their messages."""

    def formatException(self, ei: _ExceptionInfo) -> str:  # noqa: N802 - logging's name
        error = ei[1]
        chain = []
        while error is not None:
            chain.append(_told(error))
            error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        return " <- ".join(chain)


class JsonLines(_Lines):
    """One JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {"time": _time(record.created), "level": record.levelname.lower()}
        request = _request(record)
        if request is not None:
            line |= {"event": "request"} | request.line
        else:
            line |= {"event": "message", "logger": record.name, "message": record.getMessage()}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


class TextLines(_Lines):
    """One line for people."""

    def format(self, record: logging.LogRecord) -> str:
        request = _request(record)
        if request is not None:
            return f"{_time(record.created)} {_sentence(request)}"
        said = f"{record.levelname} {record.name}: {record.getMessage()}"
        return f"{said} [{self.formatException(record.exc_info)}]" if record.exc_info else said


def _request(record: logging.LogRecord) -> RequestRecord | None:
    found = getattr(record, "request", None)
    return found if isinstance(found, RequestRecord) else None


def _sentence(request: RequestRecord) -> str:
    parts = [f"{request.method} {request.route} {request.status or 'no answer'}", request.key or ""]
    if request.prompt_tokens is not None:
        parts.append(f"{request.prompt_tokens}+{request.completion_tokens} tokens")
    if request.calls:
        failed = f" ({request.failed_calls} failed)" if request.failed_calls else ""
        parts.append(f"{request.calls} calls{failed}")
    if request.queue_seconds is not None:
        parts.append(f"queued {request.queue_seconds:.3f} s")
    if request.first_token_seconds is not None:
        parts.append(f"first token {request.first_token_seconds:.3f} s")
    parts += [f"{request.seconds:.3f} s", request.finish_reason or "", "client gone" if request.client_gone else ""]
    return ", ".join(part for part in parts if part) + f" [{request.id}]"


def _told(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    places = " > ".join(f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames)
    message = f": {error}" if isinstance(error, _TOLD) else ""
    return f"{type(error).__qualname__}{message} at {places or 'no place'}"


def _time(seconds: float) -> str:
    """UTC with milliseconds, as ISO 8601 has it."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{int(seconds % 1 * 1000):03d}Z"
